"""Devices: what happens without a GPU, and the CUDA backend on the stand-in for CuPy."""

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.backend import get_backend
from minidl.errors import DeviceError, DTypeError
from minidl.kernels import use
from tests.fake_cupy import fake_cupy, installer


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Puts a stand-in (or an import error) in CuPy's place."""
    yield from installer(monkeypatch, tmp_path)


def test_to_cuda_if_available():
    device = "cuda" if minidl.cuda.is_available() else "cpu"
    model = nn.Linear(2, 3).to(device)
    assert model(minidl.ones(1, 2).to(device)).device.startswith(device)


def test_without_cupy(install):
    install(None)
    assert minidl.cuda.is_available() is False and minidl.cuda.device_count() == 0
    assert "CuPy is not installed; pip install" in minidl.cuda.why_not()
    for move in (
        lambda x: x.to("cuda"),
        lambda x: x.cuda(),
        lambda x: x.to(0),
        lambda x: x.to("cuda:1"),
        lambda x: nn.Linear(1, 1).to("cuda"),
    ):
        with pytest.raises(
            DeviceError,
            match=r"cuda: CuPy is not installed; pip install .*; use device 'cpu', or minidl.cuda.is_available",
        ):
            move(minidl.ones(2))
    with pytest.raises(DeviceError):
        minidl.zeros(2, device="cuda")


def test_devices_are_counted_and_checked(install):
    install(fake_cupy(count=2))
    assert minidl.cuda.is_available() and minidl.cuda.device_count() == 2 and minidl.cuda.why_not() is None
    assert get_backend("cuda") is get_backend("cuda:0") is not get_backend("cuda:1")


def test_there_and_back(install):
    cupy = install(fake_cupy())
    x = minidl.arange(3.0, requires_grad=True)
    y = x.to("cuda:1")
    assert y.device == "cuda:1" and y.is_cuda and y.data.device.id == 1 and "device='cuda:1'" in repr(y)
    z = (y * y + 1.0).exp().cpu()
    assert z.device == "cpu" and y.to("cuda:1") is y
    with use("cupy"):  # there is no driver here that could launch a kernel
        z.sum().backward()
    assert x.grad.device == "cpu"
    np.testing.assert_allclose(x.grad.data, 2 * x.data * np.exp(x.data**2 + 1), rtol=1e-6)
    assert x.detach().cuda().numpy().tolist() == [0, 1, 2]
    minidl.cuda.synchronize()
    assert cupy.calls[-1] == ("synchronize", cupy.cuda.Device(0))
    assert minidl.zeros(2, device="cuda").device == "cuda:0" and minidl.tensor([1, 2], device="cuda").tolist() == [1, 2]


def test_indexing_adds_with_cupyx(install):
    install(fake_cupy())
    x = minidl.arange(3.0, device="cuda", requires_grad=True)
    x[minidl.tensor([0, 0, 2], device="cuda")].sum().backward()
    assert x.grad.tolist() == [2, 0, 1] and x.grad.device == "cuda:0"


def test_devices_do_not_mix(install):
    install(fake_cupy())
    a, b = minidl.ones(2), minidl.ones(2, device="cuda")
    with pytest.raises(DeviceError, match=r"add: tensors on cpu and on cuda:0; move one with \.to\('cpu'\)"):
        a + b
    a.copy_(b)  # the one operation that crosses
    a[0] = b[1]
    assert a.device == "cpu"
    y = b.to(a)
    assert y.device == "cpu"
    a.grad = None


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "cuda:1:2", "mps", "cpu:1", 7.5])
def test_unknown_devices(device):
    with pytest.raises(DeviceError, match="not known; use 'cpu', 'cuda' or 'cuda:0'"):
        minidl.zeros(1, device=device)


def test_to():
    x = minidl.ones(2)
    assert not x.is_cuda and x.to("cpu", non_blocking=True) is x
    assert x.to("cpu") is x and x.to(minidl.float32) is x and x.to(x) is x and x.cpu() is x and x.to("cpu:0") is x
    assert x.to("cpu", copy=True) is not x and x.to(minidl.float64, copy=True).dtype == minidl.float64
    assert x.to("float64").dtype == minidl.float64 and x.to(dtype="int64", device="cpu").dtype == minidl.int64
    assert (
        x.to("cpu", minidl.float16).dtype == minidl.float16
        and x.to(minidl.zeros(1, dtype=minidl.int8)).dtype == minidl.int8
    )
    assert x.type_as(minidl.zeros(1, dtype=minidl.float64)).dtype == minidl.float64
    for name, dtype in (
        ("half", "float16"),
        ("float", "float32"),
        ("double", "float64"),
        ("int", "int32"),
        ("long", "int64"),
        ("bool", "bool"),
    ):
        assert getattr(x, name)().dtype == dtype
    with pytest.raises(
        DTypeError, match=r"to: 'cudo' is no dtype of minidl \(.*\), nor a device: 'cpu', 'cuda', 'cuda:0'"
    ):
        x.to("cudo")


def test_gradients_through_dtypes():
    x = minidl.ones(2, requires_grad=True)
    (x.double() * 3.0).sum().backward()
    assert x.grad.dtype == minidl.float32 and x.grad.tolist() == [3, 3]
    assert not x.long().requires_grad and not x.to(minidl.bool).requires_grad and not (x > 0).requires_grad
