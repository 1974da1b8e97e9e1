"""Weight files into nets: what fits, and what is said about what does not."""

import numpy as np
import pytest

from minidl import models, nn
from minidl.errors import CheckpointError
from minidl.io import safetensors
from minidl.models.fit import advice, compare
from minidl.models.weights import load_weights
from tests.io.torch_files import legacy_file, ordered, parameter, tensor, zip_file


def arrays(name, **options):
    return {key: t.numpy() for key, t in models.create(name, **options).state_dict().items()}


def saved(path, state):
    safetensors.save_file(state, path)
    return path


@pytest.mark.parametrize("build", [zip_file, legacy_file])
def test_files_of_torch_make_nets(build, tmp_path):
    state = arrays("lenet5")
    wrapped = {"epoch": 3, "state_dict": ordered({f"module.{key}": parameter(tensor(value)) for key, value in state.items()})}
    (tmp_path / "net.pth").write_bytes(build(wrapped))
    model = models.create("lenet5", weights=tmp_path / "net.pth")
    assert all((t.numpy() == state[key]).all() for key, t in model.state_dict().items())


def test_a_file_of_another_net_is_told_by_name(tmp_path):
    path = saved(tmp_path / "net.safetensors", arrays("resnet20"))
    with pytest.raises(CheckpointError) as caught:
        models.create("resnet32", weights=path)
    message = str(caught.value)
    assert message.startswith(f"{path} does not fit CifarResNet:") and "missing: layer1.3.conv1.weight" in message
    assert "these weights fit plain20, resnet20" in message


def test_another_number_of_classes_is_still_that_net(tmp_path):
    path = saved(tmp_path / "net.safetensors", arrays("resnet20", num_classes=7))
    with pytest.raises(CheckpointError, match="these weights fit plain20, resnet20"):
        models.create("resnet32", weights=path)


def test_a_net_that_fits_nearly_is_the_better_one(tmp_path):
    state = arrays("resnet20") | {"extra.weight": np.ones(3, np.float32), "conv1.weight": np.ones((16, 1, 3, 3), np.float32)}
    path = saved(tmp_path / "net.safetensors", state)
    with pytest.raises(CheckpointError, match="plain20 fits better: 98% of .* agree with it, 61% with this net"):
        models.create("resnet32", weights=path)
    with pytest.raises(CheckpointError) as caught:
        models.create("resnet20", weights=path)
    lines = str(caught.value).splitlines()[1:]
    assert lines == [
        "  1 extra: extra.weight",
        "  1 of the wrong shape: conv1.weight is (16, 1, 3, 3) in the file, (16, 3, 3, 3) in the net",
    ]


def test_a_long_list_is_cut(tmp_path):
    path = saved(tmp_path / "net.safetensors", {"nothing": np.ones(1, np.float32)})
    with pytest.raises(CheckpointError) as caught:
        models.create("resnet20", weights=path)
    message = str(caught.value)
    assert "97 missing: conv1.weight" in message and "and 91 more" in message and len(message) < 500
    assert "these weights" not in message and "fits better" not in message


def test_batch_counters_do_not_matter():
    state = arrays("resnet20")
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert not compare(models.create("resnet20").state_dict(), old)
    assert models.fitting_models(old) == models.fitting_models(state) == ["plain20", "resnet20"]


def test_advice():
    assert advice(0.5, [("a", 1.0), ("b", 1.0), ("c", 0.7)]) == "these weights fit a, b"
    assert advice(0.9, [("a", 0.8)]) == "" and advice(0.1, [("a", 0.3)]) == ""
    assert compare(nn.Linear(2, 3).state_dict(), {}).share == 0


def test_the_files_arrays_become_the_nets_memory_unless_something_shares_them():
    state = {"weight": np.ones((2, 3), np.float32), "bias": np.zeros(2, np.float32)}
    net = nn.Linear(3, 2)
    load_weights(net, dict(state), "file", adopt=True)
    assert net.weight.data is state["weight"] and net.bias.data is state["bias"]
    net = nn.Linear(3, 2)
    load_weights(net, dict(state), "file")
    assert not np.shares_memory(net.weight.data, state["weight"])
    storage = np.ones(6, np.float32)
    storage.flags.writeable = False
    two = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 1), nn.Linear(1, 1))
    tied = np.ones((2, 2), np.float32)
    given = {
        "0.weight": tied, "1.weight": tied, "2.weight": storage[:2].reshape(1, 2), "2.bias": np.ones(1, np.float64),
        "3.weight": storage[5:].reshape(1, 1), "3.bias": np.zeros(1, np.float32),
    }  # fmt: skip
    load_weights(two, given, "file", adopt=True)
    parts = [p.data for p in two.parameters()]
    for part, name in zip(parts, given, strict=True):
        assert (part == given[name]).all() and part.dtype == np.float32 and part.flags.writeable
    assert not any(np.shares_memory(a, b) for i, a in enumerate(parts) for b in [*parts[:i], storage])
