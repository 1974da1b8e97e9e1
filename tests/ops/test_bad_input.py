"""Every operation refuses bad input with one clear error, and tensors on two devices."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl.backend import select
from minidl.backend.cpu import CPU
from minidl.errors import DeviceError, MinidlError
from tests.opdb import OPS, Op, run, wrap
from tests.ops.test_table import assert_same, gradients, numbers

# NaN, logarithms of 0 and overflow are among the samples on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

CASES = [pytest.param(op, bad, id=f"{op}-{i}") for op in OPS for i, bad in enumerate(op.bad)]


@pytest.mark.parametrize(("op", "bad"), CASES)
def test_refused(op, bad):
    with pytest.raises(bad.error, match=bad.match) as caught:
        run(op, bad.sample, wrap(bad.sample.arrays()))
    assert isinstance(caught.value, (MinidlError, IndexError, TypeError, ValueError))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("op", "bad"), CASES)
def test_refused_when_recording(op, bad):
    """The same error when a gradient is wanted."""
    with pytest.raises(bad.error, match=bad.match):
        run(op, bad.sample, wrap(bad.sample.arrays(), bad.sample.differentiable()))


PUBLIC = [op for op in OPS if op.name.startswith(("ops.", "F."))]


@pytest.mark.parametrize("op", PUBLIC, ids=str)
def test_arrays_in_the_place_of_tensors(op: Op):
    """NumPy arrays alone are refused; beside a tensor they are taken (an operand) or refused, in one clear sentence."""
    sample = op.draw()[0]
    with pytest.raises(TypeError, match="[Tt]ensor"):
        op.function(*sample.args, **sample.kwargs)
    for odd in range(len(sample.arrays())):
        mixed = wrap(sample.arrays())
        mixed[odd] = sample.arrays()[odd]
        args, kwargs = sample.fill(mixed)
        try:
            op.function(*args, **kwargs)
        except (MinidlError, TypeError) as e:
            assert "ensor" in str(e), f"array {odd}: {e}"


# ---------------------------------------------------------------------------------------------------------- two devices
class Emulated(CPU):
    """A second device: NumPy again, under another name."""

    def __init__(self):
        super().__init__()
        self.device = "second"


@pytest.fixture
def second(monkeypatch):
    monkeypatch.setattr(select, "_others", dict(select._others))
    backend = Emulated()
    select.register_backend(backend)
    return backend


@pytest.mark.parametrize("op", OPS, ids=str)
def test_runs_on_another_device(op: Op, second):
    """The same bits, and everything that comes out is on the device that went in."""
    for sample in op.draw():
        if not sample.arrays():
            continue
        here, there = (gradients(op, sample, device=device) for device in ("cpu", "second"))
        made = [*there[0], *(g for g in there[1] if g is not None)]
        assert {t.device for t in made} <= {"second"}
        assert_same(numbers(made), numbers([*here[0], *(g for g in here[1] if g is not None)]), sample)
        if op.grad and sample.smooth:
            assert {g.device for g in gradients(op, sample, create_graph=True, device="second")[1] if g is not None} <= {
                "second"
            }


MIXABLE = [op for op in OPS if "devices" not in op.without and any(len(s.arrays()) > 1 for s in op.draw())]


@pytest.mark.parametrize("op", MIXABLE, ids=str)
def test_mixed_devices_are_refused(op: Op, second):
    for sample in op.draw():
        arrays = sample.arrays()
        for odd in range(len(arrays)) if len(arrays) > 1 else ():
            tensors = wrap(arrays)
            tensors[odd] = tensors[odd].to("second")
            with pytest.raises(DeviceError, match=r"cpu.*second|second.*cpu"):
                run(op, sample, tensors)
                pytest.fail(f"{sample} with tensor {odd} on another device", pytrace=False)


def test_moving_to_another_device_and_back(second):
    x = minidl.tensor([1.0, 2.0], requires_grad=True)
    y = x.to("second")
    assert (y.device, x.device) == ("second", "cpu") and y.F is second
    (y * y).sum().to("cpu").backward()
    assert x.grad.device == "cpu" and x.grad.tolist() == [2.0, 4.0]
    assert x.to("cpu") is x and y.to(second) is y
    assert x.to(y.detach().double()).device == "second" and x.to(y.detach().double()).dtype == np.float64
    assert "device='second'" in repr(y.detach())


def test_unknown_device():
    with pytest.raises(DeviceError, match="'tpu': not known; use 'cpu'"):
        minidl.zeros(2, device="tpu")
    with pytest.raises(MinidlError, match="tpu"):
        minidl.zeros(2).to("tpu")


@pytest.mark.parametrize("data", ["text", [1, "a"], object(), 1j, [None]])
def test_no_tensor_of_something_else(data):
    with pytest.raises(minidl.errors.DTypeError, match="tensor: expected numbers"):
        minidl.tensor(data)


def test_ragged_lists():
    with pytest.raises(minidl.errors.ShapeError, match="tensor: the nested lists are not of equal length"):
        minidl.tensor([[1, 2], [3]])


def test_gradients_of_integers_are_refused():
    with pytest.raises(minidl.errors.DTypeError, match="only floating-point tensors have gradients, found int64"):
        minidl.tensor([1, 2], requires_grad=True)
    with pytest.raises(minidl.errors.DTypeError, match="only floating-point"):
        minidl.tensor([1, 2]).requires_grad_()


@pytest.mark.parametrize("name", ["add", "matmul", "relu", "sum", "conv2d", "softmax"])
def test_something_that_is_no_tensor(name):
    function = getattr(minidl, name, None) or getattr(minidl.nn.functional, name)
    arguments = [np.ones((1, 1, 2, 2))] * (2 if name in ("add", "matmul", "conv2d") else 1)
    with pytest.raises(TypeError, match=rf"{name}.*expected.*Tensor.*found ndarray"):
        function(*arguments)
