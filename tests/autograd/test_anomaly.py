"""detect_anomaly: the first bad number is traced to the line that ran the operation."""

import threading

import numpy as np
import pytest

import minidl
from minidl.autograd import checkpoint, detect_anomaly, engine
from minidl.autograd import node as clock
from minidl.errors import NumericsError
from minidl.tensor import Tensor

# NumPy warns where a test divides by zero on purpose; pytest shows what minidl hides.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def leaf(values):
    return minidl.tensor(values, requires_grad=True)


def line_of(text):
    """The pattern of an error that names the line of this file that holds ``text``."""
    with open(__file__, encoding="utf-8") as f:
        number = next(n for n, line in enumerate(f, 1) if text in line and "line_of" not in line)
    return rf"test_anomaly\.py:{number}: "


def test_a_bad_gradient_names_the_forward_line():
    x = leaf([[1.0, 0.0, 4.0]])
    with detect_anomaly():
        y = x.sqrt()  # the culprit: its slope at 0 is infinite
        loss = (y * 2).sum()
        with pytest.raises(NumericsError) as error:
            loss.backward()
    assert error.match(r"Sqrt: the backward pass gave inf at \(0, 1\) of the gradient of input 0, of shape \(1, 3\)")
    assert error.match(line_of("# the culprit"))
    assert error.match("y = x.sqrt()")


def test_the_first_bad_number_of_the_forward_pass():
    x = leaf([1.0, -1.0])
    with detect_anomaly():
        with pytest.raises(NumericsError) as error:
            x.log()  # a NaN at once
        assert error.match(r"Log: the forward pass gave nan at \(1,\) of a result of shape \(2,\)")
        assert error.match(line_of("# a NaN at once"))


def test_infinities_of_the_forward_pass_are_allowed():
    """Masked attention computes with -inf on purpose."""
    with detect_anomaly():
        x = leaf([1.0, 2.0])
        y = x.masked_fill(minidl.tensor([True, False]), float("-inf")).exp().sum()
        y.backward()
    assert np.isfinite(x.grad.data).all()


def test_operations_with_several_outputs_and_in_place():
    with detect_anomaly():
        x = leaf([[1.0, np.nan], [2.0, 3.0]])
        with pytest.raises(NumericsError, match=r"GetItem: .* nan at \(0, 1\)"):
            x.split(1)
        y = leaf([4.0, -1.0]) * 1.0
        with pytest.raises(NumericsError, match="Sqrt: the forward pass"):
            y.sqrt_()  # in place


def test_recorded_backward_passes_are_watched_too():
    x = leaf([0.0])
    with detect_anomaly():
        y = (x**0.5).sum()  # slope infinite
        with pytest.raises(NumericsError, match=r"(?s)PowScalar.*slope infinite"):
            minidl.grad(y, x, create_graph=True)


def test_in_a_checkpoint():
    x = leaf([0.0, 1.0])
    with detect_anomaly():
        y = checkpoint(lambda x: x.sqrt() * 2.0, x)
        with pytest.raises(NumericsError, match=r"Sqrt.*test_anomaly\.py"):
            y.sum().backward()


def test_off_again_after_the_block_and_after_errors():
    hooks = clock.tick, Tensor.__init__, engine.watch
    with pytest.raises(NumericsError), detect_anomaly():
        leaf([-1.0]).log()
    assert (clock.tick, Tensor.__init__, engine.watch) == hooks
    leaf([-1.0]).log().sum().backward()


def test_blocks_nest_and_threads_share():
    x = leaf([-1.0])
    found = []

    def work():
        with detect_anomaly():
            try:
                x.log()
            except NumericsError as e:
                found.append(e)

    with detect_anomaly():
        with detect_anomaly():
            pass
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        with pytest.raises(NumericsError):
            x.log()
    assert len(found) == 1


def test_an_operation_from_before_the_block():
    y = leaf([0.0]).sqrt().sum()
    with detect_anomaly(), pytest.raises(NumericsError, match="Sqrt.*a line outside detect_anomaly"):
        y.backward()
