"""The registry: which variant is chosen, by whom, for how long, and what is said when it cannot be."""
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest

from minidl import kernels
from minidl.errors import ConfigError
from minidl.kernels import contract, registry


def chosen(verb="conv2d"):
    kernel = kernels.lookup(verb, "cpu")
    return next(name for name, known in kernels.variants(verb, "cpu").items() if known is kernel)


@pytest.fixture
def environment(monkeypatch):
    """Sets MINIDL_KERNELS for the test and forgets it afterwards."""

    def set_to(text):
        monkeypatch.setenv(registry.ENVIRONMENT, text)
        kernels.refresh()

    yield set_to
    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)
    kernels.refresh()


@pytest.fixture
def a_verb():
    """A verb of the test's own, gone after it."""
    family = pathlib.Path(contract.__file__).stem
    spec = kernels.KernelSpec("twice", "softmax", "(x) -> y", "2x", "none", contract.EXACT, f"x + x in {family}")
    contract.declare(spec)
    yield "twice"
    del contract._BY_VERB["twice"]
    for key in [key for key in registry._table if key[0] == "twice"]:
        del registry._table[key]
    kernels.refresh()


def test_every_verb_has_an_oracle_and_a_default():
    assert len(kernels.verbs()) > 40
    for verb in kernels.verbs():
        assert {"reference", "numpy"} <= set(kernels.variants(verb, "cpu")), verb
        assert chosen(verb) == ("vector" if "vector" in kernels.variants(verb, "cpu") else "numpy")
        assert "cupy" in kernels.variants(verb, "cuda")
        spec = kernels.spec(verb)
        assert spec.deterministic and set(spec.tolerance) == {"float16", "float32", "float64"}
        assert all(t.reason for t in spec.tolerance.values())


def test_use_nests_and_ends():
    with kernels.use(conv2d="reference"):
        assert chosen() == "reference" and chosen("embedding") == "numpy"
        with kernels.use(embedding="reference"):
            assert chosen() == chosen("embedding") == "reference"
            with kernels.use(conv2d="numpy"):
                assert chosen() == "numpy" and chosen("embedding") == "reference"
            assert chosen() == "reference"
        assert chosen("embedding") == "numpy"
    assert chosen() == "vector"


def test_use_everywhere():
    with kernels.use("reference", softmax="numpy"):
        assert chosen() == chosen("dropout") == "reference" and chosen("softmax") == "numpy"
        with kernels.use("numpy"):
            assert chosen() == "numpy"
    assert chosen() == "vector"


def test_use_ends_with_an_error():
    with pytest.raises(ZeroDivisionError), kernels.use(conv2d="reference"):
        raise ZeroDivisionError
    assert chosen() == "vector"


def test_use_is_the_threads_own():
    seen = []
    with kernels.use(conv2d="reference"):
        thread = threading.Thread(target=lambda: seen.append(chosen()))
        thread.start()
        thread.join()
    assert seen == ["vector"]


def test_the_choice_is_what_runs():
    x = np.array([[1.0, 2.0]])
    assert kernels.lookup("softmax")(x, 1) == pytest.approx(kernels.variants("softmax")["reference"](x, 1))
    assert kernels.lookup("softmax") is kernels.lookup("softmax")


def test_an_unknown_verb_lists_the_verbs():
    with pytest.raises(ConfigError, match=r"no kernel verb 'conv3d'; did you mean 'conv2d'\? verbs: .*softmax"):
        kernels.lookup("conv3d")
    with pytest.raises(ConfigError, match="no kernel verb"), kernels.use(conv3d="numpy"):
        pass


def test_an_unknown_variant_lists_the_variants():
    with pytest.raises(ConfigError, match="'conv2d' has no variant 'fast' on 'cpu'; it has: numba, numpy, reference, vector"):
        with kernels.use(conv2d="fast"):
            pass
    known = "cuda, cupy, depthwise, naive, numba, numpy, pipelined, reference, tensor, vector"
    words = f"no kernel has a variant 'fast'; variants: {known}"
    with pytest.raises(ConfigError, match=words):
        with kernels.use("fast"):
            pass
    assert chosen() == "vector"


def test_a_variant_of_another_device_is_not_silently_replaced():
    words = "no variant 'reference' on 'cuda'; it has: cuda, cupy, depthwise, naive, numba, pipelined, tensor"
    with kernels.use(conv2d="reference"), pytest.raises(ConfigError, match=words):
        kernels.lookup("conv2d", "cuda")


def test_an_unknown_device_lists_the_devices():
    with pytest.raises(ConfigError, match="no variant for device 'tpu'; devices: cpu, cuda, emu"):
        kernels.lookup("conv2d", "tpu")


def test_the_environment(environment):
    environment("conv2d=reference, softmax = numpy")
    assert chosen() == "reference" and chosen("softmax") == "numpy" and chosen("embedding") == "numpy"
    with kernels.use(conv2d="numpy"):
        assert chosen() == "numpy"
    environment("reference")
    assert chosen("embedding") == "reference"


@pytest.mark.parametrize("text", ["conv2d=fast", "conv9d=numpy", "fast", "conv2d="])
def test_a_wrong_environment_says_so(environment, text):
    environment(text)
    with pytest.raises(ConfigError, match=f"MINIDL_KERNELS='{text}': .*the form is verb=variant"):
        kernels.lookup("conv2d")


def test_registering(a_verb):
    @kernels.register(a_verb, "cpu", "slow")
    def slow(x):
        return 2 * x

    assert kernels.lookup(a_verb) is slow  # not in the order of preference, but all there is

    @kernels.register(a_verb, "cpu", "numpy")
    def better(x):
        return x + x

    assert kernels.lookup(a_verb) is better  # the cached answer was dropped
    with kernels.use(**{a_verb: "slow"}):
        assert kernels.lookup(a_verb) is slow
    with pytest.raises(ConfigError, match="'twice' on 'cpu' already has a variant 'slow'"):
        kernels.register(a_verb, "cpu", "slow")(better)


def test_registering_inside_use(a_verb):
    kernels.register(a_verb, "cpu", "slow")(lambda x: 2 * x)
    before = kernels.lookup(a_verb)
    with kernels.use(conv2d="reference"):
        kernels.register(a_verb, "cpu", "numpy")(lambda x: x + x)
        kernels.lookup(a_verb)
    assert kernels.lookup(a_verb) is not before


def test_a_verb_needs_a_contract():
    with pytest.raises(ConfigError, match="no kernel verb 'thrice'"):
        kernels.register("thrice", "cpu", "numpy")
    with pytest.raises(ConfigError, match="already has a contract"):
        contract.declare(kernels.spec("conv2d")._replace(formula="something else"))


def test_families_load_when_they_are_needed():
    code = (
        "import sys; from minidl import kernels;"
        "loaded = lambda: [m for m in sys.modules if m.startswith('minidl.kernels.plain.')];"
        "assert not any('conv' in m for m in loaded()), loaded(); kernels.lookup('conv2d');"
        "assert 'minidl.kernels.plain.conv' in loaded() and 'minidl.kernels.plain.pool' not in loaded(), loaded()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=pathlib.Path(__file__).resolve().parents[2])
