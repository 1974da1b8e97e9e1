"""``minidl kernels``: what the list says, what is shown of a kernel, and what a measurement prints."""

import json
import re

import pytest

import minidl
from minidl import kernels
from minidl.inspect import kernel_bench, kernel_samples
from minidl.inspect.kernel_samples import SAMPLES, sample
from minidl.kernels.cpu import engine, roofs
from tests.sources import KERNELS
from tests.test_cli import fails, invoke


def output(*arguments):
    result = invoke("kernels", *arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def without_llvmlite(monkeypatch):
    def missing():
        raise engine.Unavailable("llvmlite does not work here (ModuleNotFoundError: No module named 'llvmlite')")

    monkeypatch.setattr(engine, "_llvm", missing)
    monkeypatch.setattr(engine, "host_isa", missing)


@pytest.mark.parametrize("command", [(), ("list",), ("show",), ("bench",)])
def test_every_command_explains_itself(command):
    assert "Usage: " in output(*command, "--help")


# ---- list


def test_the_list_has_every_verb_and_what_computes_it():
    lines = [line.split() for line in output("list").splitlines()]
    found = {(verb, device): rest for verb, device, *rest in lines if device in ("cpu", "cuda") and verb != "no"}
    assert {verb for verb, _ in found} == set(kernels.verbs())
    assert found["conv2d", "cpu"][-1] == "vector" and set(found["conv2d", "cpu"]) >= {"numpy", "reference", "vector"}
    assert found["philox_normal", "cpu"][-1] == "numpy"
    *variants, default = found["conv2d", "cuda"]
    assert variants[:5] == ["depthwise", "tensor", "pipelined", "cuda", "cupy"] and "naive" in variants
    assert default == ("depthwise" if minidl.cuda.is_available() else "nothing")
    assert found["conv2d", "cpu"][:3] == ["vector", "numpy", "reference"]


def test_the_list_is_of_what_is_chosen_now():
    with kernels.use(conv2d="reference"):
        rows = {(row["verb"], row["device"]): row for row in json.loads(output("list", "--json"))["kernels"]}
    assert rows["conv2d", "cpu"]["default"] == "reference" and rows["conv2d_input_grad", "cpu"]["default"] == "vector"
    assert "vector" in rows["conv2d", "cpu"]["variants"]


def test_without_llvmlite_numpy_computes_and_the_list_says_why(without_llvmlite):
    text = output("list")
    assert re.search(r"^conv2d +cpu .* numpy$", text, re.MULTILINE)
    assert "no vector kernels here: llvmlite does not work here (ModuleNotFoundError" in text
    found = json.loads(output("list", "--json"))
    assert "llvmlite" in found["unavailable"]["vector"]


# ---- show


def test_a_verb_is_shown_with_its_contract_its_variants_and_its_source():
    text = output("show", "conv2d")
    spec = kernels.spec("conv2d")
    for part in (spec.signature, spec.formula, spec.accumulate, spec.oracle, spec.tolerance["float32"].reason):
        assert part in text
    assert "\ndef winograd(isa: ISA" in text or "\ndef winograd(\n" in text
    assert "\ndef winograd_filters(" in text
    places = re.findall(r"^(\w+) +(\w+) +(\S+):(\d+)$", text, re.MULTILINE)
    assert {(device, variant) for device, variant, _, _ in places} >= {("cpu", "numpy"), ("cpu", "vector"), ("cuda", "cupy")}
    for _, variant, file, line in places:
        source = (KERNELS / file.partition("kernels/")[2]).read_text(encoding="utf-8").splitlines()
        assert "conv2d" in source[int(line) - 1], (variant, file, line)  # the decorator, the function or its table


def test_a_verb_without_a_vector_kernel_has_its_contract():
    assert "Box and Muller" in output("show", "philox_normal")
    assert "it has no vector kernel" in fails("kernels", "show", "philox_normal", "--asm")


@pytest.mark.parametrize("isa, width", [("avx512", 16), ("avx2", 8), ("neon", 4)])
def test_the_text_of_a_program(isa, width):
    text = output("show", "batch_norm_inference", "--ir", "--isa", isa)
    assert text.startswith("define void @affine(") and f"<{width} x float>" in text


@pytest.mark.parametrize("isa, instruction", [
    ("avx512", r"vfmadd213ps\t%zmm\d+, %zmm\d+, %zmm"), ("avx2", r"vfmadd213ps\t%ymm\d+, %ymm\d+, %ymm"),
    ("portable", r"(mulps\t%xmm|fmla)"), ("neon", r"fmla\tv\d+\.4s"),
])  # fmt: skip
def test_the_machine_code_of_a_program(isa, instruction):
    whole, loops = (output("show", "batch_norm_inference", option, "--isa", isa) for option in ("--asm", "--loops"))
    assert re.search(instruction, whole) and re.search(instruction, loops) and "ret" in whole and "ret" not in loops


def test_a_program_has_a_name_of_its_own():
    assert output("show", "copy_roof").startswith("\n# copy_roof, ")
    assert output("show", "copy_roof", "--ir").startswith("define void @copy_roof(")


def test_the_machine_code_of_a_verb_is_that_of_its_programs():
    text = output("show", "relu_grad", "--asm")
    assert "relu_grad:" in text
    programs = re.findall(r"^# (\w+), .*:\d+$", output("show", "conv2d"), re.MULTILINE)
    assert output("show", "conv2d", "--ir").count("define void @") == len(set(programs)) > 1


def test_what_cannot_be_shown_is_explained(without_llvmlite):
    assert "no kernel is called 'conv2'; did you mean 'conv2d'" in fails("kernels", "show", "conv2")
    assert "no kernel is called 'jigsaw'. `minidl" in fails("kernels", "show", "jigsaw")
    assert "llvmlite does not work here" in fails("kernels", "show", "conv2d", "--asm")
    assert "--ir and --asm: choose one" in fails("kernels", "show", "conv2d", "--asm", "--ir")
    assert "--isa goes with" in fails("kernels", "show", "conv2d", "--isa", "avx2")
    assert "sse9" in fails("kernels", "show", "conv2d", "--asm", "--isa", "sse9")
    assert "def winograd(" not in output("show", "conv2d")


# ---- bench


@pytest.fixture
def quick(monkeypatch):
    """Small arrays, few rounds."""
    for name, value in {"N": 4, "C": 16, "H": 16, "W": 16, "ROWS": 40, "CLASSES": 30, "TOKENS": (3, 5, 8), "WORDS": 20,
                        "DRAWS": 100, "PARAMETERS": [(5, 6), (7,)]}.items():  # fmt: skip
        monkeypatch.setattr(kernel_samples, name, value)
    monkeypatch.setattr(roofs, "COPY_BYTES", 1 << 20)
    monkeypatch.setattr(roofs, "ROUNDS", 3)
    monkeypatch.setattr(kernel_bench, "SAMPLE_SECONDS", 1e-9)


def test_a_measurement_as_a_table(quick):
    text = output("bench", "nll_loss", "relu", "--rounds", "3", "--no-torch")
    assert "roofs on these threads: " in text and "no PyTorch" in text and "threads" in text or "1 thread," in text
    rows = re.findall(r"^(\w+) +([\d.]+) +([\d.]+)-([\d.]+) +~? +([\d.]+) +[\d.]+ GB/s +\d+$", text, re.MULTILINE)
    assert [row[0] for row in rows] == ["numpy", "vector", "numpy"]  # the first is what the ratios are to
    assert all(float(low) <= float(median) <= float(high) for _, median, low, high, _ in rows)
    assert [row[4] for row in rows][:2] == ["1.00", "1.00"]


def test_a_measurement_as_json(quick):
    found = json.loads(output("bench", "conv2d", "--rounds", "3", "--json", "--no-torch"))
    (conv,) = found["kernels"]
    assert set(conv["timings"]) >= {"vector", "numpy"} and "reference" not in conv["timings"] and conv["unit"] == "GFLOP/s"
    for timing in conv["timings"].values():
        assert timing["rate"] == pytest.approx(conv["flop"] / timing["median"] / 1e9)
    assert {"threads", "blas_threads", "gflops", "gbytes", "load"} <= set(found["machine"])


@pytest.mark.parity
def test_pytorch_takes_part(quick):
    torch = pytest.importorskip("torch", reason="parity with PyTorch")
    threads, enabled = torch.get_num_threads(), torch.is_grad_enabled()
    try:
        found = json.loads(output("bench", "softmax", "--rounds", "3", "--json"))
    finally:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(enabled)
    assert "torch" in found["kernels"][0]["timings"] and found["machine"]["torch"] == torch.__version__


@pytest.mark.parametrize("verb", SAMPLES)
def test_a_sample_is_a_call_that_every_variant_takes(quick, verb):
    found = sample(verb)
    calls = kernel_bench.contenders(verb, found, True)
    assert list(calls)[0] in ("vector", "numpy") and {"numpy", "reference"} <= set(calls)
    for call in calls.values():
        call()


@pytest.mark.parity
@pytest.mark.parametrize("verb", SAMPLES)
def test_pytorch_is_asked_to_compute_the_same(quick, verb):
    torch = pytest.importorskip("torch", reason="parity with PyTorch")
    found = sample(verb)
    if found.torch is None or verb == "dropout":  # it draws other masks
        return
    with torch.no_grad():
        theirs = kernel_bench.contenders(verb, found, False, torch)["torch"]()
    ours = kernels.variants(verb)["numpy"](*found.arguments, **found.options)
    if isinstance(theirs, tuple):
        theirs = next(t for t in theirs if t is not None)
    ours = ours[0] if isinstance(ours, tuple) else ours
    # Sums of up to 1,024 float32 numbers of order one in another order: sqrt(n) * 6e-8 of the largest.
    assert abs(theirs.numpy() - ours).max() <= 2e-5 * max(1.0, abs(ours).max())


def test_verbs_without_a_sample_are_not_forgotten(quick, monkeypatch):
    monkeypatch.setattr("minidl.inspect.kernel_samples.SAMPLES", {"nll_loss": SAMPLES["nll_loss"]})
    assert "and so not timed: " in (text := output("bench", "--rounds", "3", "--no-torch")) and "conv2d" in text
    assert "conv2d: there is no sample" in fails("kernels", "bench", "conv2d")
    assert "no kernel verb 'conv3d'; did you mean" in fails("kernels", "bench", "conv3d")
