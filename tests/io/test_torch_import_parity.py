"""Files that torch itself wrote, in every format it writes: minidl reads the same names and bits as torch."""

import collections

import numpy as np
import pytest

from minidl.io.torch_import import load_pth

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[parity]'")
pytestmark = pytest.mark.parity

OPTIONS = {
    "zip": {},
    "legacy": {"_use_new_zipfile_serialization": False},
    "protocol 4": {"pickle_protocol": 4},
    "legacy, protocol 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}
DTYPES = "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex64 complex128".split()


@pytest.fixture(params=OPTIONS)
def save(request, tmp_path):
    def write(value):
        torch.save(value, tmp_path / "a.pth", **OPTIONS[request.param])
        return tmp_path / "a.pth"

    return write


def check(arrays, state):
    """Equal names in equal order, equal bits; bfloat16 as torch widens it."""
    assert list(arrays) == list(state)
    for name, tensor in state.items():
        expected = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).detach().numpy()
        found = arrays[name]
        assert found.dtype == expected.dtype and found.shape == expected.shape, name
        assert found.tobytes() == np.ascontiguousarray(expected).tobytes(), name


class Net(torch.nn.Module):
    """Parameters, buffers of every kind, tied weights, and what torch's own layers keep in their attributes."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, bias=False).to(memory_format=torch.channels_last)
        self.bn = torch.nn.BatchNorm2d(4)
        self.block = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(inplace=True), torch.nn.Dropout())
        self.encoder = torch.nn.TransformerEncoderLayer(8, 2, 16, activation="gelu")
        self.lstm = torch.nn.LSTM(4, 5, bidirectional=True)
        self.tied = torch.nn.Linear(4, 4)
        self.tied.weight = self.block[0].weight
        self.scale = torch.nn.Parameter(torch.randn(()))
        self.register_buffer("position", torch.arange(7).expand(2, 7))
        self.register_buffer("scratch", torch.ones(3), persistent=False)
        self.register_buffer("absent", None)
        self.options = {
            "lr": 0.1,
            "shape": torch.Size([1, 2]),
            "names": {"a", "b"},
            "device": torch.device("cpu"),
            "dtype": torch.float16,
        }


Net.__module__, Net.__qualname__ = "test_torch_import_parity", "Net"


@pytest.fixture
def net(monkeypatch):
    import sys
    import types

    module = types.ModuleType("test_torch_import_parity")
    module.Net = Net
    monkeypatch.setitem(
        sys.modules, "test_torch_import_parity", module
    )  # pickle looks classes up where they say they are
    torch.manual_seed(0)
    return Net()


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(save, dtype):
    torch.manual_seed(0)
    values = (torch.randn(4, 5) * 40).abs().to(getattr(torch, dtype))
    state = {
        "values": values,
        "scalar": values[1, 2].clone(),
        "empty": values[:0].clone(),
        "part": values[1:3, ::2],
        "t": values.t(),
    }
    check(load_pth(save(state))[0], state)


def test_bfloat16_specials(save):
    bits = torch.arange(0, 2**16, 37, dtype=torch.int32).to(torch.int16)  # denormals, infinities and NaNs among them
    state = {"all": bits.view(torch.bfloat16)}
    found = load_pth(save(state))[0]["all"].view(np.uint32)
    np.testing.assert_array_equal(found, bits.numpy().view(np.uint16).astype(np.uint32) << 16)


def test_views_and_ties(save):
    base = torch.randn(6, 8)
    parameter = torch.nn.Parameter(base.clone())
    state = collections.OrderedDict(
        base=base,
        row=base[2],
        column=base[:, 3],
        transposed=base.t(),
        again=base,
        parameter=parameter,
        same=parameter,
        expanded=base[:1].expand(5, 8),
        flipped=base.flip(0),
        permuted=torch.randn(2, 3, 4).permute(2, 0, 1),
        channels_last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        diagonal=base.diagonal(),
    )
    arrays, _ = load_pth(save(state))
    check(arrays, state)
    assert arrays["base"] is arrays["again"] and arrays["parameter"] is arrays["same"]


def test_tensors_with_attributes(save):
    parameter = torch.nn.Parameter(torch.randn(3))
    parameter.note = "kept by torch since 2.0"
    buffer = torch.nn.Buffer(torch.randn(2))
    state = {"parameter": parameter, "buffer": buffer}
    check(load_pth(save(state))[0], state)


def test_a_checkpoint_of_a_training_script(save, net):
    optimizer = torch.optim.AdamW(net.parameters())
    sum(p.square().sum() for p in net.parameters()).backward()
    optimizer.step()
    value = {
        "epoch": 7,
        "arch": "net",
        "best_acc1": torch.tensor(71.5),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "numpy_rng": np.random.RandomState(0).get_state(),
        "loss": np.float64(0.5),
        "state_dict": torch.nn.DataParallel(net).state_dict(),
    }
    arrays, metadata = load_pth(save(value))
    check(arrays, net.state_dict())
    assert metadata["torch.entry"] == "state_dict" and metadata["torch.prefix"] == "module."
    assert metadata["torch.values"] == '{"arch": "net", "epoch": 7}'


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize(
    "wrap", [lambda net: net, torch.nn.DataParallel, lambda net: {"model": net.half(), "ema": None}]
)
def test_whole_modules(save, net, wrap):
    arrays, _ = load_pth(save(wrap(net)))
    check(arrays, net.state_dict())


def test_a_large_storage_is_not_kept_alive(save):
    base = torch.randn(1000, 1000)
    arrays, _ = load_pth(save({"a": base[:2], "b": base[5]}))
    assert all(array.base is None or array.base.nbytes == array.nbytes for array in arrays.values())


def test_storage_alignment(tmp_path):
    """torch >= 2.6 writes a record for it and pads the archive."""
    state = {"a": torch.randn(3), "b": torch.randn(5)}
    config = pytest.importorskip("torch.utils.serialization.config")
    with config.patch("save.storage_alignment", 4096):
        torch.save(state, tmp_path / "a.pth")
    check(load_pth(tmp_path / "a.pth")[0], state)


def test_torchscript_is_refused_by_name(tmp_path):
    from minidl.errors import CheckpointError

    with pytest.warns(DeprecationWarning):
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pth"))
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_pth(tmp_path / "a.pth")
