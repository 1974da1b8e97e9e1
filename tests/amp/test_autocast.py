"""The block itself: what is converted when, how often, for whom, and what a wrong call is told."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import amp, config, nn, optim
from minidl.autograd import autocast as rules
from minidl.autograd import checkpoint
from minidl.errors import ConfigError, DTypeError

DTYPES = ["float16", pytest.param("bfloat16", marks=pytest.mark.skipif("not has_ml_dtypes()"))]
both = pytest.mark.parametrize("dtype", DTYPES)


def has_ml_dtypes():
    try:
        import ml_dtypes  # noqa: F401
    except ImportError:
        return False
    return True



def leaf(*shape):
    return minidl.randn(*shape, requires_grad=True)


def rounded(x, dtype):
    """The values of x after rounding to ``dtype``, in float32."""
    return minidl.from_numpy(x.detach().numpy().astype(minidl.zeros(1, dtype=dtype).dtype).astype(np.float32))


@both
def test_a_product_rounds_its_inputs_and_its_result(dtype):
    """The oracle: inputs rounded, float32 arithmetic, the result rounded; and the same for the gradients."""
    x, w, b = leaf(5, 7), leaf(4, 7), leaf(4)
    with minidl.autocast(dtype):
        y = F.linear(x, w, b)
    assert y.dtype.name == dtype
    xs, ws, bs = (rounded(t, dtype).requires_grad_() for t in (x, w, b))
    expected = F.linear(xs, ws, bs)
    # A float16 bias is added after the product was rounded; bfloat16's is not.  An ulp is 2^-10 and 2^-7 of the value.
    ulp = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    np.testing.assert_allclose(y.float().detach().numpy(), expected.detach().numpy(), rtol=ulp, atol=ulp)
    gy = minidl.randn(5, 4)
    y.backward(gy.to(y.dtype))
    expected.backward(rounded(gy, dtype))
    for t, e in ((x, xs), (w, ws), (b, bs)):
        assert t.grad.dtype == np.float32
        np.testing.assert_array_equal(t.grad.numpy(), rounded(e.grad, dtype).numpy())


@both
def test_a_convolution_rounds_its_inputs_and_its_result(dtype):
    x, w = leaf(2, 3, 6, 6), leaf(4, 3, 3, 3)
    with minidl.autocast(dtype):
        y = F.conv2d(x, w, padding=1)
    xs, ws = (rounded(t, dtype).requires_grad_() for t in (x, w))
    expected = F.conv2d(xs, ws, padding=1)
    np.testing.assert_array_equal(y.float().detach().numpy(), rounded(expected, dtype).numpy())
    gy = minidl.randn(*y.shape)
    y.backward(gy.to(y.dtype))
    expected.backward(rounded(gy, dtype))
    for t, e in ((x, xs), (w, ws)):
        np.testing.assert_array_equal(t.grad.numpy(), rounded(e.grad, dtype).numpy())


@both
def test_what_needs_it_is_float32(dtype):
    x = minidl.randn(3, 4).to(dtype)
    with minidl.autocast(dtype):
        along = (lambda t: minidl.softmax(t, 1), lambda t: minidl.cumsum(t, 1))
        for f in (minidl.exp, minidl.sum, lambda t: t**3, minidl.norm, *along):
            assert f(x).dtype == np.float32
        assert F.layer_norm(x, (4,)).dtype == np.float32
        assert F.mse_loss(x, x).dtype == F.cross_entropy(x, minidl.tensor([0, 1, 2])).dtype == np.float32
        # Losses widen first: this difference is infinite in float16, and the squares would be from 256 on.
        assert minidl.isfinite(F.mse_loss(x * 0 + 60000, x * 0 - 60000)).item()
    assert minidl.exp(x).dtype.name == dtype, "outside of the block nothing is converted"


@both
def test_the_widest_input_decides(dtype):
    narrow, wide = minidl.ones(2).to(dtype), minidl.ones(2)
    with minidl.autocast(dtype):
        for f in (lambda a, b: a + b, minidl.maximum, lambda a, b: minidl.cat([a, b]), lambda a, b: minidl.stack([a, b])):
            assert f(narrow, wide).dtype == np.float32
            assert f(narrow, narrow).dtype.name == dtype
        assert minidl.where(wide > 0, narrow, wide).dtype == np.float32
        assert (minidl.ones(2, 2).to(dtype) @ minidl.ones(2, 2)).dtype.name == dtype, "of a product the rule is another"
        y = F.batch_norm(minidl.ones(2, 1, 2).to(dtype), None, None, training=True, relu=True, residual=minidl.ones(2, 1, 2))
        assert y.dtype == np.float32
        assert minidl.scatter_add(wide, 0, minidl.tensor([0]), narrow[:1]).dtype == np.float32
    assert (narrow + 1.5).dtype.name == (1.5 - narrow).dtype.name == dtype, "a number is as narrow as the tensor"


def test_other_dtypes_are_left_alone():
    double, whole = minidl.ones(2, 2, dtype="float64"), minidl.ones(2, 2, dtype="int64")
    with minidl.autocast("float16"):
        assert (double @ double).dtype == double.exp().dtype == np.float64
        assert (whole @ whole).dtype == np.int64


@both
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_has_float32_parameters_beside_narrow_images(dtype, training):
    norm = nn.BatchNorm2d(3).train(training)
    nn.init.normal_(norm.weight)
    norm.running_mean.copy_(minidl.tensor([300.0, 1.0, -2.0]))  # 300.25 is no bfloat16
    state = {name: value.clone() for name, value in norm.state_dict().items()}
    x = (minidl.randn(4, 3, 5, 5) + norm.running_mean.reshape(1, 3, 1, 1)).to(dtype).requires_grad_()
    with minidl.autocast(dtype):
        y = norm(x)
    assert y.dtype.name == dtype
    assert norm.weight.dtype == norm.running_mean.dtype == norm.running_var.dtype == np.float32
    xs = x.detach().float().requires_grad_()
    reference = nn.BatchNorm2d(3).train(training)
    reference.load_state_dict(state)
    expected = reference(xs)
    ulp = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    np.testing.assert_allclose(y.float().detach().numpy(), expected.detach().numpy(), rtol=ulp, atol=ulp)
    gy = rounded(minidl.randn(*y.shape), dtype)
    y.backward(gy.to(y.dtype))
    expected.backward(gy)
    found, found_bias = norm.weight.grad, norm.bias.grad
    assert found.dtype == found_bias.dtype == np.float32 and x.grad.dtype.name == dtype
    # In evaluation x - mean is a difference of float32; the bias's gradient is a sum that is rounded to 16 bits there.
    np.testing.assert_allclose(found.numpy(), reference.weight.grad.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found_bias.numpy(), reference.bias.grad.numpy(), rtol=ulp, atol=ulp)
    np.testing.assert_allclose(x.grad.float().numpy(), xs.grad.numpy(), rtol=ulp, atol=ulp)


# ------------------------------------------------------------------------------------------------------------ the block
def test_blocks_nest_and_the_inner_one_decides():
    a = minidl.ones(2, 2)
    assert not minidl.is_autocast_enabled() and minidl.get_autocast_dtype() is None
    with minidl.autocast("float16"):
        assert (a @ a).dtype == np.float16 and minidl.get_autocast_dtype() == np.float16
        with minidl.autocast(enabled=False, dtype="float16"):
            assert (a @ a).dtype == np.float32 and not minidl.is_autocast_enabled()
            with minidl.autocast("float16"):
                assert (a @ a).dtype == np.float16
        assert (a @ a).dtype == np.float16
    assert (a @ a).dtype == np.float32
    assert rules.blocks == 0 and config.autocast.get() is None


def test_a_block_that_raises_is_left():
    with pytest.raises(KeyError), minidl.autocast("float16"):
        raise KeyError
    assert rules.blocks == 0 and not minidl.is_autocast_enabled()


def test_as_a_decorator():
    a = minidl.ones(2, 2)

    @minidl.autocast("float16")
    def product(n):
        return a @ a if n == 0 else product(n - 1)

    @minidl.autocast("float16")
    def products():
        yield a @ a
        yield a @ a

    assert product(3).dtype == np.float16
    for y in products():
        assert y.dtype == np.float16
        assert (a @ a).dtype == np.float32, "a generator's consumer is outside"
    assert rules.blocks == 0


def test_it_belongs_to_the_thread():
    a, found = minidl.ones(2, 2), []
    with minidl.autocast("float16"):
        thread = threading.Thread(target=lambda: found.append((a @ a).dtype))
        thread.start()
        thread.join()
    assert found == [np.float32]


def casts(monkeypatch):
    """How often each shape is converted to float16 from here on."""
    from minidl.backend.select import cpu

    counted = []
    astype = cpu.astype

    def spy(x, *, dtype):
        if dtype == np.float16 and x.dtype == np.float32:
            counted.append(x.shape)
        return astype(x, dtype=dtype)

    monkeypatch.setattr(cpu, "astype", spy)
    return counted


def test_a_parameter_is_converted_once_in_a_block(monkeypatch):
    w, x = leaf(3, 3), minidl.randn(2, 3)
    counted = casts(monkeypatch)
    with minidl.autocast("float16"):
        y = F.linear(F.linear(x, w), w)
        with minidl.autocast("float16"):
            y = F.linear(y, w)
        assert counted.count((3, 3)) == 1
        assert counted.count((2, 3)) == 1, "the images"
    with minidl.autocast("float16"):
        F.linear(x, w)
    assert counted.count((3, 3)) == 2, "dropped at the end of the block"
    y.float().sum().backward()
    assert w.grad.dtype == np.float32


def test_no_grad_does_not_take_the_gradient_from_later_operations():
    w, x = leaf(3, 3), minidl.randn(2, 3)
    with minidl.autocast("float16"):
        with minidl.no_grad():
            assert not F.linear(x, w).requires_grad
        y = F.linear(x, w)
        with minidl.no_grad():
            assert not F.linear(x, w).requires_grad
    y.float().sum().backward()
    assert w.grad is not None


def test_a_parameter_that_was_written_to_is_converted_again():
    w, x = leaf(3, 3), minidl.ones(2, 3)
    step = optim.SGD([w], lr=1.0)
    with minidl.autocast("float16"):
        F.linear(x, w).sum().backward()
        step.step()
        after = F.linear(x, w)
    np.testing.assert_array_equal(after.detach().numpy(), F.linear(x.half(), w.detach().half()).numpy())


def test_two_losses_of_one_block_each_run_backward():
    w, x = leaf(3, 3), minidl.randn(2, 3)
    with minidl.autocast("float16"):
        first, second = F.linear(x, w).sum(), F.linear(2 * x, w).sum()
    first.backward()
    once = w.grad.numpy().copy()
    second.backward()
    np.testing.assert_allclose(w.grad.numpy(), 3 * once, rtol=2.0**-9)  # two roundings to float16


def test_the_block_keeps_nothing_alive():
    w = leaf(3, 3)
    gone = weakref.ref(w)
    with minidl.autocast("float16"):
        F.linear(minidl.ones(1, 3), w)
        del w
        assert gone() is None
        array = np.ones((3, 3), np.float32)
        for _ in range(20):  # parameters of one memory, probably at one address, one after the other
            other = nn.Parameter(minidl.from_numpy(array))
            F.linear(minidl.ones(1, 3), other).sum().backward()
            assert other.grad is not None
            del other


@pytest.mark.parametrize("warm", [True, False], ids=["converted before", "converted inside"])
def test_checkpointing_runs_again_under_the_same_autocast(warm):
    w, x = leaf(4, 4), leaf(2, 4)

    def block(t):
        return F.softmax(F.linear(F.relu(F.linear(t, w)), w), -1)

    def gradients(run):
        w.grad = x.grad = None
        with minidl.autocast("float16"):
            if warm:
                F.linear(x.detach(), w)
            loss = run(x).sum(0).square().sum()
        loss.backward()
        return w.grad.numpy().copy(), x.grad.numpy().copy()

    plain = gradients(block)
    again = gradients(lambda t: checkpoint(block, t))
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert rules.blocks == 0


def test_a_recorded_backward_pass_keeps_its_dtypes():
    """Second derivatives inside of a block: formulas of gradients are not cast."""
    x, w = leaf(3, 4), leaf(2, 4)
    with minidl.autocast("float16"):
        y = F.softmax(F.linear(x, w), -1).square().sum()
        (g,) = minidl.grad(y, [x], create_graph=True)
        assert g.dtype == np.float32
        g.square().sum().backward()
    assert w.grad.dtype == np.float32
    found, w.grad = w.grad, None
    (g,) = minidl.grad(F.softmax(F.linear(x, w), -1).square().sum(), [x], create_graph=True)
    g.square().sum().backward()
    np.testing.assert_allclose(found.numpy(), w.grad.numpy(), rtol=0.02, atol=0.005)  # some dozen roundings of 2^-11


def test_a_recorded_backward_pass_of_what_was_computed_outside():
    x, w = leaf(3, 4), leaf(2, 4)
    y = F.linear(x, w)
    (expected,) = minidl.grad(y.square().sum(), [x], retain_graph=True)
    with minidl.autocast("float16"):
        (g,) = minidl.grad(y.square().sum(), [x], create_graph=True)
        assert (x @ w.T).dtype == np.float16, "the block goes on"
    np.testing.assert_array_equal(g.detach().numpy(), expected.numpy())


def test_gradients_are_exact_outside():
    """gradcheck is not disturbed by a block around other code."""
    with minidl.autocast("float16"):
        pass
    x = minidl.randn(2, 3, dtype="float64", requires_grad=True)
    assert minidl.autograd.gradcheck(lambda t: minidl.softmax(t @ t.mT, 1), [x])


# ---------------------------------------------------------------------------------------------------------- wrong calls
@pytest.mark.parametrize("dtype", ["int8", "float32", "float64", "half precision", None, 3])
def test_another_dtype_is_refused(dtype):
    with pytest.raises(DTypeError, match="autocast: found .*; it computes in 'bfloat16' or 'float16'"):
        minidl.autocast(dtype)


def test_without_ml_dtypes_the_error_says_what_to_install(monkeypatch):
    from minidl.backend import dtypes

    monkeypatch.setattr(dtypes, "_bfloat16", [])
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    for use in (lambda: minidl.bfloat16, lambda: minidl.autocast("bfloat16"), lambda: minidl.zeros(2, dtype="bfloat16")):
        with pytest.raises(DTypeError, match="bfloat16: .* pip install ml_dtypes"):
            use()


def test_torchs_arguments():
    assert amp.autocast("cuda").dtype == np.float16
    assert amp.autocast(device_type="cuda", dtype=minidl.float16, enabled=False).enabled is False
    with amp.autocast("cpu", dtype="float16", cache_enabled=False):
        assert (minidl.ones(2, 2) @ minidl.ones(2, 2)).dtype == np.float16
    with pytest.raises(ConfigError, match="device_type 'float16' is not known; use 'cuda' or 'cpu', and dtype="):
        amp.autocast("float16")


def test_dtypes_that_do_not_agree_are_still_refused_outside():
    with pytest.raises(DTypeError, match="linear: the input is float16, but another tensor is float32"):
        F.linear(minidl.ones(1, 2).half(), minidl.ones(2, 2))
    x, w = minidl.ones(2, 3, 2, 2).half(), minidl.ones(3, dtype="float64")
    with pytest.raises(DTypeError, match="batch_norm: inputs of dtype float16, float64"):
        F.batch_norm(x, None, None, w, None, training=True)
