"""Switching the recording off and on: blocks, decorators, generators, threads, tasks."""

import asyncio
import threading

import pytest

import minidl
from minidl import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from minidl.autograd.grad_mode import is_inference_mode_enabled
from minidl.errors import GraphError


@pytest.fixture
def x():
    return minidl.ones(2, requires_grad=True)


@pytest.mark.parametrize("mode", [no_grad, inference_mode, lambda: set_grad_enabled(False)])
def test_nothing_is_recorded_in_the_block(x, mode):
    with mode():
        y = x * 2
        assert not y.requires_grad and y.grad_fn is None and y.is_leaf
        assert minidl.ones(2, requires_grad=True).requires_grad
        assert not minidl.cat([x, x]).requires_grad and not x.reshape(1, 2).requires_grad and not x.exp().requires_grad
    assert (x * 2).requires_grad


def test_blocks_nest(x):
    with no_grad():
        with enable_grad():
            assert (x * 2).requires_grad
            with no_grad():
                assert not is_grad_enabled()
            assert is_grad_enabled()
        assert not is_grad_enabled()
    assert is_grad_enabled()


def test_an_error_in_the_block_restores():
    with pytest.raises(ZeroDivisionError), no_grad():
        1 / 0
    assert is_grad_enabled()


def test_one_object_may_be_entered_again():
    mode = no_grad()
    with mode, mode:
        assert not is_grad_enabled()
    assert is_grad_enabled()
    with mode:
        assert not is_grad_enabled()
    assert is_grad_enabled()


@pytest.mark.parametrize(
    "decorate",
    [no_grad(), no_grad, inference_mode(), inference_mode, lambda f: set_grad_enabled(False)(f)],
    ids=["no_grad()", "no_grad", "inference_mode()", "inference_mode", "set_grad_enabled(False)"],
)
def test_decorators(x, decorate):
    @decorate
    def twice(x, depth=0):
        """Doubles."""
        assert not is_grad_enabled()
        return twice(x, depth + 1) if depth < 3 else x * 2

    assert not twice(x).requires_grad and is_grad_enabled()
    assert twice.__name__ == "twice" and twice.__doc__ == "Doubles."


def test_set_grad_enabled_as_a_decorator_leaves_the_mode_alone():
    @set_grad_enabled(False)
    def f():
        return is_grad_enabled()

    assert is_grad_enabled() and f() is False and is_grad_enabled()


def test_set_grad_enabled_as_a_function(x):
    set_grad_enabled(False)
    try:
        assert not (x * 2).requires_grad
    finally:
        set_grad_enabled(True)
    assert (x * 2).requires_grad
    with set_grad_enabled(False):
        assert not is_grad_enabled()
    assert is_grad_enabled()


def test_methods_and_classes():
    class Net:
        @no_grad()
        def run(self):
            return is_grad_enabled()

    assert Net().run() is False
    with pytest.raises(TypeError, match="no_grad: decorate the methods of Net"):
        no_grad()(Net)


def test_generators_are_off_only_while_they_run():
    @no_grad()
    def numbers():
        seen = []
        try:
            for _ in range(2):
                assert not is_grad_enabled()
                seen.append((yield is_grad_enabled()))
        except KeyError:
            seen.append("thrown")
            yield is_grad_enabled()
        finally:
            assert not is_grad_enabled()
        return seen

    generator = numbers()
    assert next(generator) is False and is_grad_enabled()
    assert generator.send("a") is False and is_grad_enabled()
    with pytest.raises(StopIteration) as stop:
        generator.send("b")
    assert stop.value.value == ["a", "b"] and is_grad_enabled()
    generator = numbers()
    next(generator)
    assert generator.throw(KeyError()) is False and is_grad_enabled()
    generator.close()
    assert list(numbers()) == [False, False]


def test_coroutines():
    @no_grad()
    async def work():
        before = is_grad_enabled()
        await asyncio.sleep(0)
        return before or is_grad_enabled()

    async def other():
        seen = [is_grad_enabled()]
        await asyncio.sleep(0)
        return all([*seen, is_grad_enabled()])

    async def both():
        return await asyncio.gather(work(), other(), work())

    assert asyncio.run(both()) == [False, True, False]


def test_threads_have_modes_of_their_own(x):
    results = []

    def work():
        results.append((x * 2).requires_grad)
        with no_grad():
            results.append((x * 2).requires_grad)

    with no_grad():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert results == [True, False]


def test_inference_mode(x):
    with inference_mode():
        assert is_inference_mode_enabled() and not is_grad_enabled()
        with no_grad():
            assert not is_grad_enabled()
        with pytest.raises(GraphError, match="inside inference_mode"), enable_grad():
            pass
        with pytest.raises(GraphError, match="inside inference_mode"):
            set_grad_enabled(True)
        assert not is_grad_enabled()
        y = x * 2
    assert not is_inference_mode_enabled()
    assert (y * x).requires_grad  # what came out may be used
    with inference_mode(False):
        assert is_grad_enabled()
        with inference_mode():
            assert not is_grad_enabled()
    with no_grad(), inference_mode(False):
        assert not is_grad_enabled()
    assert minidl.inference is inference_mode


def test_backward_inside_no_grad(x):
    y = (x * x).sum()
    with no_grad():
        y.backward()
    assert x.grad.tolist() == [2, 2]
    with no_grad():
        (g,) = minidl.autograd.grad(enable_grad()(lambda: (x * x * x).sum())(), x, create_graph=True)
    assert g.requires_grad  # asked for, whatever the mode around it
