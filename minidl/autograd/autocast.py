"""Mixed precision: which operations are computed in 16 bits, and how their inputs get there.

Inside ``minidl.autocast("bfloat16")`` every operation looks up its rule in :data:`RULES` and converts its floating-point inputs
before it runs.  A conversion is an operation itself, so gradients come back through it: a float32 parameter gets a float32
gradient, however it was used.

==============  ======================================================================================================
``lower``       products and convolutions: computed from 16-bit inputs, added up in float32, rounded to 16 bits
``float32``     what overflows, cancels or adds up many numbers: exponentials, logarithms, powers, sums, softmax, losses,
                layer norm; 16-bit inputs are widened first and the result is float32
``widest``      operations of several inputs that need one dtype: float32 as soon as one input is
``as it is``    everything else keeps the dtype that it is given.  Batch norm is one of these: its images are 16 bits, its
                parameters and statistics float32 beside them
==============  ======================================================================================================

The lists are those of torch.autocast("cuda").  float64, integers and bool are never converted.  What only the backward pass uses
is left as it is: a gradient has the dtype of what it is the gradient of.
"""
from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import Token
from typing import Any

from minidl import config
from minidl.autograd import node as clock
from minidl.autograd.grad_mode import _Mode
from minidl.autograd.node import Leaf, Node, written_since
from minidl.backend.dtypes import dtype_of, float32, float64
from minidl.errors import DTypeError
from minidl.tensor import Tensor

LOWER, FLOAT32, WIDEST, AS_IT_IS = "lower", "float32", "widest", "as it is"

_TABLE = {
    LOWER: """
        matmul linear linear_weight_grad einsum attention
        conv2d conv2d_input_grad conv2d_weight_grad
        """,
    FLOAT32: """
        exp expm1 log log1p log2 log10 pow pow_scalar square rsqrt reciprocal tan sinh cosh asin acos
        sum prod cumsum softmax log_softmax softmax_cross_entropy nll_loss softplus
        layer_norm group_norm local_response_norm
        """,
    WIDEST: """
        add sub mul div maximum minimum fmod remainder floor_divide atan2
        where concatenate stack setitem scatter scatter_add
        """,
    AS_IT_IS: """
        neg abs sqrt erf sin cos atan sign floor ceil round trunc clip masked_fill
        relu leaky_relu elu gelu silu sigmoid tanh dropout
        mean amax amin sum_to
        batch_norm batch_norm_relu batch_norm_inference batch_norm_relu_inference
        max_pool2d max_pool2d_grad max_pool2d_take avg_pool2d avg_pool2d_grad
        adaptive_avg_pool2d adaptive_avg_pool2d_grad adaptive_max_pool2d adaptive_max_pool2d_grad
        im2col col2im nll_loss_grad
        embedding embedding_grad gather getitem getitem_grad zero_at view_write overwrite
        reshape transpose broadcast_to copy contiguous flip roll pad triangle zeros_like
        astype to_device
        """,
}
RULES = {verb: rule for rule, verbs in _TABLE.items() for verb in verbs.split()}

blocks = 0                                           # autocast blocks open in any thread: without one, operations ask no further
_counting = threading.Lock()


class Casting:
    """The state of a block: ``dtype`` for the rule "lower", None where autocast is off; and the parameters converted so far."""

    __slots__ = ("dtype", "cache")

    def __init__(self, dtype: Any, cache: dict[Any, Any]):
        self.dtype, self.cache = dtype, cache


class Cast(Node):
    """A parameter's conversion that all operations of a block share; several backward passes may go through it."""

    __slots__ = ("leaf",)
    keeps = ()

    def __init__(self, F: Any, leaf: Leaf):
        self.leaf = leaf
        super().__init__(F, (leaf,), ())

    @property
    def needs(self) -> tuple[Leaf]:                  # type: ignore[override]
        return (self.leaf,)

    @needs.setter
    def needs(self, value: Any) -> None:             # the engine frees what a pass has used; there is nothing to free here
        pass

    @property
    def saved(self) -> tuple[()]:                    # type: ignore[override]
        return ()

    @saved.setter
    def saved(self, value: Any) -> None:
        pass

    def backward(self, F: Any, gy: Any) -> tuple[Any]:
        return (F.astype(gy, dtype=float32),)


def rule_of(cls: Any, verb: str | None) -> str | None:
    """The rule that a Function's ``apply`` follows; None for "as it is".

    A user's Function says ``autocast = "float32"`` (or another rule) in its class.
    """
    rule = cls.autocast if cls.autocast is not None else RULES.get(verb) if verb else AS_IT_IS
    if rule not in (None, *_TABLE):
        raise TypeError(f"{cls.__name__}: autocast={rule!r} is no rule; the rules are {', '.join(map(repr, _TABLE))}")
    return None if rule == AS_IT_IS else rule


def cast(rule: str, args: Sequence[Any]) -> Sequence[Any]:
    """The arguments of an operation, converted as its rule says."""
    state = config.autocast.get()
    if state is None or state.dtype is None:
        return args
    dtype = state.dtype if rule == LOWER else float32
    if rule == WIDEST and len({t.data.dtype for t in args if is_castable(t)}) < 2:
        return args
    return [_converted(t, dtype, state) if is_castable(t) and t.data.dtype != dtype else t for t in args]


def is_castable(t: Any) -> bool:
    """Whether autocast converts it: a floating-point tensor, and not of float64."""
    return isinstance(t, Tensor) and t.data.dtype.kind in "fV" and t.data.dtype != float64


def _converted(t: Tensor, dtype: Any, state: Casting) -> Any:
    if type(t.edge) is not Leaf or t.data.dtype != float32:
        return t.astype(dtype)
    key = id(t), dtype, config.grad_mode.get()
    found = state.cache.get(key)
    if found is not None:
        alive, array, made, converted = found
        if alive() is t and t.data is array and not written_since(array, t.F, made):
            return converted
    made = clock.tick()
    F = t.F
    converted = Tensor(F.astype(t.data, dtype=dtype), F, Cast(F, t.edge) if config.grad_mode.get() else None)
    state.cache[key] = weakref.ref(t), t.data, made, converted
    return converted


def is_autocast_enabled() -> bool:
    """Whether operations are now cast."""
    state = config.autocast.get()
    return state is not None and state.dtype is not None


def get_autocast_dtype() -> Any:
    """The dtype that products are now computed in by autocast; None where it is off."""
    state = config.autocast.get()
    return None if state is None else state.dtype


class autocast(_Mode):
    """Compute products in 16 bits, and what needs it in float32: a ``with`` block, or a decorator.

        with minidl.autocast("bfloat16"):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()                              # outside of the block
        optimizer.step()                             # float32 parameters, float32 gradients

    Which operation is computed in what says :data:`minidl.amp.RULES`.  Parameters stay float32; within a block each is converted
    once, and again only when it was written to.  Blocks nest, and the inner one decides; the switch belongs to the thread.

    Args:
        dtype: "bfloat16" or "float16", or that dtype.  float16 needs a :class:`minidl.amp.GradScaler`: gradients below 6e-8
            vanish in it.
        enabled: False switches autocast off for the block, so that one line serves both ways.

    Raises:
        DTypeError: another dtype, or bfloat16 without ml_dtypes.
    """

    def __init__(self, dtype: Any = "bfloat16", enabled: bool = True):
        found = dtype_of(dtype)
        if found is None or found.name not in ("bfloat16", "float16"):
            raise DTypeError(f"autocast: found {getattr(found, 'name', dtype)!r}; it computes in 'bfloat16' or 'float16'; leave "
                             "autocast out for float32, and use minidl.amp.autocast for a device as PyTorch's first argument")
        self.dtype = found
        self.enabled = bool(enabled)
        self._entered: list[Token[Any]] = []

    def __enter__(self) -> autocast:                 # type: ignore[override]
        outer = config.autocast.get()
        cache = {} if outer is None else outer.cache
        _count(1)
        self._entered.append(config.autocast.set(Casting(self.dtype if self.enabled else None, cache)))
        return self

    def __exit__(self, *exc: object) -> None:
        config.autocast.reset(self._entered.pop())
        _count(-1)

    def _again(self) -> autocast:
        return autocast(self.dtype, self.enabled)


def _count(change: int) -> None:
    global blocks
    with _counting:
        blocks += change


_NOTHING: Any = nullcontext()


def paused(recorded: bool) -> Any:
    """A block for a backward pass that is ``recorded``: its formulas keep the dtypes of the forward pass."""
    return restored(None) if recorded and blocks else _NOTHING


@contextmanager
def restored(dtype: Any) -> Iterator[None]:
    """A block in which autocast is as it was (``dtype`` from :func:`get_autocast_dtype`), its parameters not yet converted.

    Checkpointing runs a function twice so, and both runs record the same conversions.
    """
    _count(1)
    token = config.autocast.set(Casting(dtype, {}))
    try:
        yield
    finally:
        config.autocast.reset(token)
        _count(-1)


def in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a function of several operations, as a loss: under autocast its 16-bit tensors are widened first."""
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if blocks and is_autocast_enabled():
            args = tuple(cast(FLOAT32, args))
            kwargs = dict(zip(kwargs, cast(FLOAT32, tuple(kwargs.values())), strict=True))
        return function(*args, **kwargs)
    return wrapped
