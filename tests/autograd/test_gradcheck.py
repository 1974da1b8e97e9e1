"""gradcheck and gradgradcheck find planted wrong gradients, say where, and tell a kink from an error."""

import numpy as np
import pytest

import minidl
from minidl.autograd import Function, GradcheckError, gradcheck, gradgradcheck, no_grad
from minidl.errors import DTypeError, GraphError, ShapeError


def leaf(*shape):
    return minidl.randn(*shape, dtype=minidl.float64, requires_grad=True)


def function(formula, slope):
    """A Function y = formula(x) whose backward multiplies by slope(F, x)."""

    class Planted(Function):
        def forward(self, F, x):
            return formula(F, x)

        def backward(self, F, gy, x):
            return (F.mul(gy, slope(F, x)),)

    return Planted.apply


RIGHT = function(lambda F, x: F.sin(x), lambda F, x: F.cos(x))
WRONG = {
    "sign": lambda F, x: F.neg(F.cos(x)),
    "factor": lambda F, x: F.mul(F.cos(x), 1.001),
    "constant": lambda F, x: F.add(F.cos(x), 1e-4),
    "zero": lambda F, x: F.mul(F.cos(x), 0.0),
    "nan": lambda F, x: F.mul(F.cos(x), float("nan")),
    "one element": lambda F, x: (
        F.add(F.cos(x), np.eye(3)[1][None] * [[0.0], [0.5]]) if not isinstance(x, minidl.Tensor) else F.cos(x)
    ),
}


def test_right_gradients_pass():
    assert gradcheck(RIGHT, leaf(2, 3)) and gradgradcheck(RIGHT, [leaf(2, 3)])
    assert gradcheck(lambda x, w, k: (x @ w).tanh() * k, [leaf(2, 3), leaf(3, 2), 3])


@pytest.mark.parametrize("name", WRONG)
def test_planted_wrong_gradients_fail(name):
    f = function(lambda F, x: F.sin(x), WRONG[name])
    with pytest.raises(GradcheckError) as error:
        gradcheck(f, [leaf(2, 3)])
    found = error.value.mismatches
    assert error.match(f"{len(found)} of 6 elements are wrong; the worst:\n  input 0 at ")
    assert not any(m.kink for m in found)
    if name == "one element":
        assert [(m.input, m.index) for m in found] == [(0, (1, 1))]
        assert error.match(r"input 0 at \(1, 1\): backward gave .*, finite differences .* \(off by 0\.\d+\)")
        assert abs(found[0].analytic - found[0].numeric) > 0.01
    assert gradcheck(f, [leaf(2, 3)], raise_exception=False) is False


def test_the_wrong_input_is_named():
    class Mine(Function):
        def forward(self, F, a, b):
            return F.mul(a, b)

        def backward(self, F, gy, a, b):
            return F.mul(gy, b), F.mul(gy, b)

    with pytest.raises(GradcheckError) as error:
        gradcheck(Mine.apply, [leaf(2), leaf(2)])
    assert {m.input for m in error.value.mismatches} == {1}


def test_a_gradient_that_never_arrives():
    class Mine(Function):
        def forward(self, F, a, b):
            return F.mul(a, b)

        def backward(self, F, gy, b):
            return F.mul(gy, b), None

    with pytest.raises(GradcheckError, match="input 1 at .*backward gave 0"):
        gradcheck(Mine.apply, [leaf(2), leaf(2)])


def test_a_wrong_second_derivative():
    class Mine(Function):  # right once; but the slope is kept as if it were a constant
        def forward(self, F, x):
            self.slope = F.cos(x)
            return F.sin(x)

        def backward(self, F, gy, slope):
            return (F.mul(gy, slope),)

    assert gradcheck(Mine.apply, [leaf(3)])
    with pytest.raises(GradcheckError, match="input 0 at"):
        gradgradcheck(Mine.apply, [leaf(3)])
    assert gradgradcheck(Mine.apply, [leaf(3)], raise_exception=False) is False


@pytest.mark.parametrize(
    ("f", "x", "kinks"),
    [
        (lambda x: x.relu(), [-1.0, 0.0, 2.0], [(1,)]),
        (lambda x: x.clamp(-1.0, 1.0), [1.0, 0.0], [(0,)]),
        (lambda x: minidl.maximum(x * 3.0, x.detach() * 0 + x), [0.0, 1.0], []),
        (lambda x: x.abs(), [0.0, 1.0], []),
        (lambda x: x.floor() * 1.0, [2.0], [(0,)]),
    ],
)
def test_a_kink_is_told_from_an_error(f, x, kinks):
    if not kinks:  # backward gives the mean of both slopes, which is the central difference
        assert gradcheck(f, [minidl.tensor(np.array(x), requires_grad=True)])
        return
    with pytest.raises(GradcheckError, match="a kink: .* from the left, .* from the right; move the input") as error:
        gradcheck(f, [minidl.tensor(np.array(x), requires_grad=True)])
    assert [m.index for m in error.value.mismatches if m.kink] == kinks
    assert len(error.value.mismatches) == len(kinks)


def test_an_error_is_reported_before_a_kink():
    def f(x):
        return x.relu() + function(lambda F, x: F.mul(x, 2.0), lambda F, x: F.mul(F.cos(x), 0.0))(x)

    with pytest.raises(GradcheckError) as error:
        gradcheck(f, [minidl.tensor(np.array([0.0, 1.0]), requires_grad=True)])
    assert error.match(r"1 of 2 elements are wrong") and error.match(r"input 0 at \(1,\)")


def test_an_error_in_a_linear_function_is_no_kink():
    """Its one-sided differences differ by rounding alone, which looks the same at every step."""
    with pytest.raises(GradcheckError) as error:
        gradcheck(function(lambda F, x: F.mul(x, 3.0), lambda F, x: F.add(F.mul(x, 0.0), 2.0)), [leaf(50)])
    assert len(error.value.mismatches) == 50 and not any(m.kink for m in error.value.mismatches)


def test_a_steep_smooth_function_is_no_kink():
    f = function(lambda F, x: F.exp(F.mul(x, 20.0)), lambda F, x: F.mul(F.exp(F.mul(x, 20.0)), 21.0))
    with pytest.raises(GradcheckError) as error:
        gradcheck(f, [minidl.tensor(np.array([0.3]), requires_grad=True)])
    assert not error.value.mismatches[0].kink


def plain(backward):
    """One of minidl's own: nothing is checked around it."""

    class Mine(Function, verb="planted_for_a_test"):
        def forward(self, F, a, b):
            return F.mul(a, b)

    Mine.backward = backward
    return Mine.apply


@pytest.fixture(autouse=True)
def forget():
    from minidl.autograd.function import functions, tensors

    yield
    functions.pop("planted_for_a_test", None)
    vars(tensors).pop("planted_for_a_test", None)


@pytest.mark.parametrize(
    ("backward", "text"),
    [
        (lambda self, F, gy: (gy,), "Mine: backward returned 1 gradients for 2 inputs"),
        (lambda self, F, gy: (gy, gy, gy), "Mine: backward returned 3 gradients for 2 inputs"),
        (lambda self, F, gy: (gy[0], gy), r"gradient of input 0 has shape \(\), the input \(2,\)"),
        (lambda self, F, gy: (gy, gy.astype("float32")), "gradient of input 1 is float32, the input float64"),
    ],
)
def test_gradients_of_wrong_number_shape_and_dtype(backward, text):
    with pytest.raises(GradcheckError, match=text):
        gradcheck(plain(backward), [leaf(2), leaf(2)])


@pytest.mark.parametrize(
    ("backward", "error"),
    [
        (lambda self, F, gy: gy[None], ShapeError),
        (lambda self, F, gy: (gy, None), GraphError),
        (lambda self, F, gy: gy.astype("float32"), DTypeError),
    ],
)
def test_a_users_function_is_checked_as_it_runs(backward, error):
    Mine = type("Mine", (Function,), {"forward": lambda self, F, x: x * 2.0, "backward": backward})
    with pytest.raises(error, match="Mine.backward"):
        gradcheck(Mine.apply, [leaf(2)])


def test_what_it_cannot_check():
    with pytest.raises(GradcheckError, match="no input needs a gradient"):
        gradcheck(RIGHT, [minidl.ones(2)])
    with pytest.raises(DTypeError, match=r"input 0 is float32.*\.double\(\)"):
        gradcheck(RIGHT, [minidl.ones(2, requires_grad=True)])
    with pytest.raises(GradcheckError, match="no output depends on an input"):
        gradcheck(lambda x: x.detach() * 2, [leaf(2)])
    with pytest.raises(GradcheckError, match="must return a Tensor or several in a tuple, found dict"):
        gradcheck(lambda x: {"y": x * 2}, [leaf(2)])
    with pytest.raises(GradcheckError, match="another result each time"):
        gradcheck(lambda x: x * minidl.rand(2, dtype=minidl.float64), [leaf(2)])


def test_inputs_are_left_as_they_were():
    x, c = leaf(2), minidl.ones(2, dtype=minidl.float64)
    before = x.data.copy()
    gradcheck(lambda x, c: x * c, [x, c])
    with no_grad():
        assert gradcheck(RIGHT, [x])  # works whatever the mode around it
    assert np.array_equal(x.data, before) and x.grad is None


def test_several_outputs_views_and_sizes():
    assert gradcheck(lambda x: (x[0] * 2.0, x.sum(), x.detach(), (x > 0)), [leaf(2, 3)])
    assert gradcheck(RIGHT, [leaf(3, 2).detach().T.requires_grad_()])
    assert gradcheck(RIGHT, [leaf(0)]) and gradcheck(RIGHT, [leaf()])
    assert gradgradcheck(lambda x: x * 3.0, [leaf(2)])  # a constant gradient
