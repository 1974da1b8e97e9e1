"""Writing an operation as a user does: class, apply, and the errors for what can be wrong in it."""

import numpy as np
import pytest

import minidl
from minidl.autograd import Function, grad, gradcheck, gradgradcheck, no_grad
from minidl.errors import DeviceError, DTypeError, GraphError, ShapeError


def leaf(*shape, dtype=minidl.float64):
    return minidl.randn(*shape, dtype=dtype, requires_grad=True)


class Cube(Function):
    """In plain operators, which work on arrays and on Tensors alike; one bare gradient."""

    def forward(self, F, x):
        return x * x * x

    def backward(self, F, gy, x):
        return 3.0 * gy * x * x


class Scaled(Function):
    """Two inputs, an option, an attribute that is kept, and an optional input."""

    def forward(self, F, x, b, *, scale=2.0):
        self.scale = scale
        self.wave = F.sin(x)
        y = F.mul(F.cos(x), scale)
        return y if b is None else F.add(y, b)

    def backward(self, F, gy, wave):
        return F.neg(F.mul(F.mul(gy, wave), self.scale)), self.needs[1] and F.sum_to(gy, shape=())


def test_a_function_in_four_lines():
    x = leaf(3)
    y = Cube.apply(x)
    np.testing.assert_allclose(y.data, x.data**3)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.data, 3 * x.data**2)
    assert repr(y.grad_fn) == "<Cube>" and Cube.apply.__name__ == "cube" and "plain operators" in Cube.apply.__doc__
    assert gradcheck(Cube.apply, [leaf(2, 3)]) and gradgradcheck(Cube.apply, [leaf(2, 3)])


def test_a_function_of_a_number():
    x = leaf()
    y = Cube.apply(x)
    assert type(y.data) is np.ndarray
    y.backward()
    assert type(x.grad.data) is np.ndarray and x.grad.shape == ()


def test_options_attributes_and_missing_inputs():
    x, b = leaf(3), leaf()
    y = Scaled.apply(x, b, scale=3.0)
    gx, gb = grad(y.sum(), [x, b])
    np.testing.assert_allclose(gx.data, -3 * np.sin(x.data))
    assert gb.item() == 3
    Scaled.apply(x, None).sum().backward()
    assert gradcheck(lambda x, b: Scaled.apply(x, b), [x, b])


def test_the_kept_attribute_is_freed_and_checked():
    y = Scaled.apply(leaf(3), None)
    assert not hasattr(y.grad_fn, "wave") and y.grad_fn.saved[0].shape == (3,)


def test_unrecorded_and_unneeded():
    x = leaf(3)
    with no_grad():
        assert Cube.apply(x).grad_fn is None
    assert not Cube.apply(x.detach()).requires_grad


def test_integer_outputs_have_no_gradient():
    class Bins(Function):
        def forward(self, F, x):
            return F.astype(F.floor(x), dtype=F.int64), x * 2.0

        def backward(self, F, gys):
            return gys[1] * 2.0

    x = leaf(3)
    bins, doubled = Bins.apply(x)
    assert not bins.requires_grad and bins.dtype == minidl.int64 and doubled.requires_grad
    doubled.sum().backward()
    assert x.grad.tolist() == [2, 2, 2]
    assert not x.long().requires_grad and not x.bool().requires_grad


def test_returning_an_input_gives_a_tensor_of_its_own():
    class Identity(Function):
        def forward(self, F, x):
            return x

        def backward(self, F, gy):
            return gy

    x = leaf(3)
    y = Identity.apply(x)
    y.add_(1.0)
    assert np.array_equal(y.data, x.data + 1)
    y.sum().backward()
    assert x.grad.tolist() == [1, 1, 1]


def make(forward, backward):
    return type("Mine", (Function,), {"forward": forward, "backward": backward, "__doc__": ""})


def double(self, F, x):
    return x * 2.0


@pytest.mark.parametrize(
    ("backward", "error", "text"),
    [
        (lambda self, F, gy: (gy, gy), GraphError, r"Mine.backward: returned 2 gradients, but forward took 1 tensors"),
        (lambda self, F, gy: (), GraphError, "returned 0 gradients"),
        (lambda self, F, gy: gy.sum(), ShapeError, r"gradient of input 0 has shape \(\), the input \(3,\)"),
        (lambda self, F, gy: gy[None], ShapeError, r"has shape \(1, 3\), the input \(3,\)"),
        (lambda self, F, gy: gy.astype("float32"), DTypeError, "is float32, the input float64"),
        (lambda self, F, gy: minidl.ones(3), TypeError, "is of type Tensor, but this pass works on arrays"),
    ],
    ids=["two", "none", "scalar", "axis", "dtype", "tensor"],
)
def test_wrong_gradients_are_named(backward, error, text):
    x = leaf(3)
    y = make(double, backward).apply(x)
    with pytest.raises(error, match=text):
        (y * 1.0).sum().backward()
    with pytest.raises(error, match=text):
        gradcheck(make(double, backward).apply, [leaf(3)])


def test_arrays_in_a_recorded_pass_are_named():
    x = leaf(3)
    y = make(double, lambda self, F, gy: np.full(3, 2.0)).apply(x)
    with pytest.raises(TypeError, match="ndarray, but this pass works on Tensors, since the backward pass is recorded"):
        grad(y.sum(), x, create_graph=True)


def test_a_gradient_that_is_left_out():
    class Mine(Function):
        def forward(self, F, a, b):
            return a * b

        def backward(self, F, gy, b):
            return gy * b, None

    a, b = leaf(3), leaf(3)
    Mine.apply(a, b).sum().backward()
    assert b.grad is None and np.array_equal(a.grad.data, b.data)


@pytest.mark.parametrize(
    ("result", "text"),
    [(lambda x: minidl.ones(3), "returned a Tensor; it works on arrays"), (lambda x: None, "returned None")],
)
def test_wrong_results_are_named(result, text):
    with pytest.raises(TypeError, match="Mine.forward: " + text):
        make(lambda self, F, x: result(x), lambda self, F, gy: gy).apply(leaf(3))


def test_errors_of_the_class_definition():
    with pytest.raises(TypeError, match="`y` is the output's name"):
        type("Mine", (Function,), {"forward": lambda self, F, y: y})
    with pytest.raises(TypeError, match=r"\['k'\] have defaults; options of an operation come after a `\*`"):
        type("Mine", (Function,), {"forward": lambda self, F, x, k=3: x})
    with pytest.raises(TypeError, match="Mine.forward: a static method.*no ctx"):
        type("Mine", (Function,), {"forward": staticmethod(lambda ctx, x: x)})
    with pytest.raises(TypeError, match="Mine.backward: a static method"):
        type("Mine", (Function,), {"backward": staticmethod(lambda ctx, gy: gy)})


def test_a_kept_name_that_nobody_set():
    Mine = make(double, lambda self, F, gy, mask: gy * mask)
    with pytest.raises(
        TypeError, match="Mine.backward: 'mask' is neither an input .* nor an attribute .* the inputs are x"
    ):
        Mine.apply(leaf(3))


def test_missing_methods():
    Forward = type("Forward", (Function,), {"forward": double})
    with pytest.raises(NotImplementedError, match="Forward has no backward"):
        Forward.apply(leaf(3)).sum().backward()
    with pytest.raises(TypeError, match="takes 0 tensors"):
        type("Nothing", (Function,), {}).apply(leaf(3))


def test_wrong_arguments_of_apply():
    with pytest.raises(TypeError, match=r"scaled: takes 2 tensors \(x, b\), found 1"):
        Scaled.apply(leaf(3))
    with pytest.raises(TypeError, match=r"^mul\(\) got an unexpected keyword argument 'other'"):
        minidl.mul(leaf(3), other=leaf(3))
    with pytest.raises(TypeError, match="cube: expected a Tensor, found ndarray"):
        Cube.apply(np.ones(3))
    with pytest.raises(TypeError, match="found float.*wrap .* by name if it is an option"):
        Scaled.apply(leaf(3), 2.0)
    with pytest.raises(DTypeError, match="scaled: inputs of dtype float64, float32; they must agree"):
        Scaled.apply(leaf(3), leaf(dtype=minidl.float32))


def test_subclasses_inherit_and_override():
    class Doubled(Cube):
        def forward(self, F, x):
            return 2.0 * super().forward(F, x)

        def backward(self, F, gy, x):
            return [2.0 * g for g in super().backward(F, gy, x)]

    assert gradcheck(Doubled.apply, [leaf(3)])


def test_variadic_inputs():
    class Total(Function):
        def forward(self, F, *xs):
            self.count = len(xs)
            return sum(xs[1:], xs[0] * 1.0)

        def backward(self, F, gy):
            return [gy] * self.count

    xs = [leaf(3) for _ in range(4)]
    Total.apply(*xs).sum().backward()
    assert all(x.grad.tolist() == [1, 1, 1] for x in xs)
    assert gradcheck(Total.apply, xs)


def test_tensors_on_two_devices_do_not_mix():
    from minidl.backend.cpu import CPU

    class Other(CPU):
        def __init__(self):
            super().__init__()
            self.device = "other"

    a, b = minidl.ones(2), minidl.Tensor(np.ones(2, np.float32), Other())
    for operation in (lambda: a + b, lambda: a @ b, lambda: minidl.cat([a, b]), lambda: a < b):
        with pytest.raises(DeviceError, match=r"tensors on cpu and on other; move one with \.to\('cpu'\)"):
            operation()
