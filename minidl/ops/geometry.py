"""Output sizes of convolution and pooling: pure functions on tuples of ints.

The operation, the layer, the shape tables and the kernels share these, so that a shape is computed, and an impossible one
explained, in one place.
"""
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from minidl.errors import ShapeError

Pair = int | Sequence[int]
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]


Compute = TypeVar("Compute", bound=Callable[..., Any])
_LOOKED_UP = {int, str, bool, type(None)}


def _remembered(compute: Compute) -> Compute:
    """Decorator: look up what was computed before, since a net asks for the same few geometries at every step."""
    found = functools.lru_cache(1024, typed=True)(compute)

    @functools.wraps(compute)
    def look_up(*arguments: Any, **options: Any) -> Any:
        for value in (*arguments, *options.values()):
            # 1.0 is equal to 1, and is refused; so what is looked up are numbers, and tuples of numbers, of type int alone.
            if type(value) not in _LOOKED_UP and not (type(value) is tuple and {int}.issuperset(map(type, value))):
                return compute(*arguments, **options)
        return found(*arguments, **options)

    return look_up  # type: ignore[return-value]


class Conv2dGeometry(NamedTuple):
    """Everything a convolution kernel needs to know about its shapes.

    ``x (N, C, H, W)``, ``w (O, C/groups, kh, kw)``, ``y (N, O, out_h, out_w)``; ``padding`` is (top, bottom, left, right).
    """

    N: int
    C: int
    H: int
    W: int
    O: int  # noqa: E741 - the letter that the shape comments use
    kh: int
    kw: int
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    out_h: int
    out_w: int


class Pool2dGeometry(NamedTuple):
    """Everything a pooling kernel needs: ``x (N, C, H, W)``, ``y (N, C, out_h, out_w)``; padding (top, bottom, left, right).

    In ceil mode the last window may reach past the padding.
    """

    N: int
    C: int
    H: int
    W: int
    kh: int
    kw: int
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    out_h: int
    out_w: int


class PaddingAdvice(NamedTuple):
    """What ``suggest_padding`` found.

    Attributes:
        symmetric: the paddings P in 0 .. f-1, the same on both sides, with which every input is covered exactly.
        every: whether every P does.
        padding: the (before, after) that gives ceil(n / stride) outputs, or the nearest that fits.
        out: the number of outputs under ``padding``.
        text: the finding as a sentence.
    """

    symmetric: tuple[int, ...]
    every: bool
    padding: tuple[int, int]
    out: int
    text: str


def conv_out(n: int, f: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Number of outputs along one axis: ``floor((n - dilation*(f-1) - 1 + 2*padding) / stride) + 1``.

    >>> conv_out(7, 3, 2), conv_out(32, 5, 1, padding=2), conv_out(224, 11, 4, padding=2)
    (3, 32, 55)

    Raises:
        ShapeError: the filter is larger than the padded input, or an argument is out of range.
    """
    for name, value in (("n", n), ("f", f), ("stride", stride), ("padding", padding), ("dilation", dilation)):
        least = 0 if name in ("n", "padding") else 1
        if value < least:
            raise ShapeError(f"conv_out: {name}={value}, but it must be at least {least}")
    return _out("conv_out", "the axis", n, f, stride, padding, padding, dilation)


def suggest_padding(n: int, f: int, stride: int = 1) -> PaddingAdvice:
    """Which paddings make a filter of size f with this stride cover n inputs exactly.

    ``(n - f + total) / stride`` must be whole.  When the stride is even, a symmetric padding (an even total) cannot change
    the parity: then either every P fits or none, and padding one side more is the way out.

    >>> suggest_padding(32, 5, 2).padding
    (1, 2)
    """
    if n < 1 or f < 1 or stride < 1:
        raise ShapeError(f"suggest_padding: n={n}, f={f}, stride={stride}, but each must be at least 1")
    symmetric = tuple(p for p in range(max(f, stride)) if n + 2 * p >= f and (n - f + 2 * p) % stride == 0)
    # Whether P fits depends on P mod stride only.
    every = all((n - f + 2 * p) % stride == 0 for p in range(stride))
    total = (-(-n // stride) - 1) * stride + f - n
    if total < 0:
        total %= stride
    before = total // 2
    padding = before, total - before
    out = (n - f + total) // stride + 1
    case = f"n={n}, f={f}, stride={stride}"
    if every:
        text = f"{case}: every symmetric padding fits; {padding} gives {out}"
    elif symmetric:
        text = f"{case}: symmetric paddings that fit: {', '.join(map(str, symmetric))}; {padding} gives {out}"
    else:
        why = f"{n - f} + 2P is never a multiple of {stride}"
        text = f"{case}: no symmetric padding fits ({why}); pad {padding}, which gives {out}"
    return PaddingAdvice(symmetric, every, padding, out, text)


@_remembered
def conv2d_geometry(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    strict: bool = False,
    name: str = "conv2d",
) -> Conv2dGeometry:
    """The geometry of ``conv2d(x, w)``.

    Args:
        x_shape: (N, C, H, W).
        w_shape: (O, C/groups, kh, kw).
        stride, dilation: int or (h, w).
        padding: int, (h, w), "same", "valid", or ((top, bottom), (left, right)).  "same" keeps H and W, needs stride 1, and
            puts the odd pixel at the bottom and right, as torch.
        groups: divides C and O.
        strict: raise where the stride leaves inputs uncovered, instead of flooring as torch.
        name: the layer or operation that messages name.

    Raises:
        ShapeError: shapes that do not fit; the message names the operation, both shapes, the axis and the likely fix.
    """
    x_shape, w_shape = tuple(x_shape), tuple(w_shape)
    shapes = f"{name}: input {x_shape} and weight {w_shape}"
    if len(x_shape) != 4:
        hint = "; add the batch axis with x[None]" if len(x_shape) == 3 else ""
        raise ShapeError(f"{shapes}: the input must have 4 axes (N, C, H, W), not {len(x_shape)}{hint}")
    if len(w_shape) != 4:
        raise ShapeError(f"{shapes}: the weight must have 4 axes (out, in/groups, kh, kw), not {len(w_shape)}")
    n, c, h, w = x_shape
    o, i, kh, kw = w_shape
    _check_groups(shapes, c, o, groups)
    if i * groups != c:
        raise ShapeError(
            f"{shapes}: the weight expects {i * groups} input channels ({i} x {groups} groups), the input has {c} (axis 1); "
            f"make the layer with in_channels={c}, or check that the input is (N, C, H, W)"
        )
    step, spread = _pair(shapes, "stride", stride, 1), _pair(shapes, "dilation", dilation, 1)
    _check_kernel(shapes, kh, kw)
    pads = _padding(shapes, padding, (kh, kw), step, spread)
    out_h = _out(shapes, "height (axis 2)", h, kh, step[0], pads[0], pads[1], spread[0])
    out_w = _out(shapes, "width (axis 3)", w, kw, step[1], pads[2], pads[3], spread[1])
    if strict:
        _check_fit(name, "height", h, kh, step[0], pads[:2], spread[0])
        _check_fit(name, "width", w, kw, step[1], pads[2:], spread[1])
    return Conv2dGeometry(n, c, h, w, o, kh, kw, step, pads, spread, groups, out_h, out_w)


@_remembered
def conv_transpose2d_geometry(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    stride: Pair = 1,
    padding: Padding = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    name: str = "conv_transpose2d",
) -> Conv2dGeometry:
    """The geometry of ``conv_transpose2d(x, w)``, as that of the convolution that it transposes.

    ``x (N, I, h, w)``, weight ``(I, O/groups, kh, kw)``.  The result describes the convolution with the same weight that
    takes the transpose's output (N, C=O, H, W) to x's shape (N, O=I, out_h=h, out_w=w), so that
    ``conv_transpose2d(x, w) = conv2d_input_grad(x, w, geom)``; ``H = (h-1)*stride - 2*padding + dilation*(kh-1) +
    output_padding + 1``.

    Raises:
        ShapeError: shapes that do not fit, or an output_padding that is not smaller than stride or dilation.
    """
    x_shape, w_shape = tuple(x_shape), tuple(w_shape)
    shapes = f"{name}: input {x_shape} and weight {w_shape}"
    if len(x_shape) != 4:
        hint = "; add the batch axis with x[None]" if len(x_shape) == 3 else ""
        raise ShapeError(f"{shapes}: the input must have 4 axes (N, C, H, W), not {len(x_shape)}{hint}")
    if len(w_shape) != 4:
        raise ShapeError(f"{shapes}: the weight must have 4 axes (in, out/groups, kh, kw), not {len(w_shape)}")
    n, c, h, w = x_shape
    i, o, kh, kw = w_shape
    if i != c:
        raise ShapeError(
            f"{shapes}: the weight expects {i} input channels (its axis 0), the input has {c} (axis 1); "
            f"make the layer with in_channels={c}"
        )
    _check_groups(shapes, c, o * max(groups, 1), groups)
    step, spread = _pair(shapes, "stride", stride, 1), _pair(shapes, "dilation", dilation, 1)
    extra = _pair(shapes, "output_padding", output_padding, 0)
    _check_kernel(shapes, kh, kw)
    if isinstance(padding, str):
        raise ShapeError(f"{shapes}: padding={padding!r}, but a transposed convolution takes numbers only")
    pads = _padding(shapes, padding, (kh, kw), step, spread)
    out = []
    for axis, size, k, s, d, e, before, after in (
        ("height (axis 2)", h, kh, step[0], spread[0], extra[0], pads[0], pads[1]),
        ("width (axis 3)", w, kw, step[1], spread[1], extra[1], pads[2], pads[3]),
    ):
        if e >= max(s, d):
            raise ShapeError(
                f"{shapes}: output_padding {e} along {axis} must be smaller than stride {s} or dilation {d}; "
                f"use at most {max(s, d) - 1}"
            )
        full = (size - 1) * s - before - after + d * (k - 1) + e + 1
        if full < 1:
            raise ShapeError(
                f"{shapes}: the output would have {full} along {axis}, "
                f"({size}-1)*{s} - {before + after} + {d}*({k}-1) + {e} + 1; use less padding or a larger kernel"
            )
        out.append(full)
    return Conv2dGeometry(n, o * groups, out[0], out[1], c, kh, kw, step, pads, spread, groups, h, w)


@_remembered
def pool2d_geometry(
    x_shape: Sequence[int],
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    name: str = "pool2d",
) -> Pool2dGeometry:
    """The geometry of a pooling over ``x (N, C, H, W)``; stride defaults to kernel_size.

    With ceil_mode the division rounds up, but a last window that would start in the padding after the input is dropped, as
    torch does.

    Raises:
        ShapeError: a window larger than the padded input, padding of more than half the kernel, a window that sees only
            padding, or an input without 4 axes.
    """
    x_shape = tuple(x_shape)
    shapes = f"{name}: input {x_shape}, kernel_size {kernel_size if isinstance(kernel_size, int) else tuple(kernel_size)}"
    if len(x_shape) != 4:
        hint = "; add the batch axis with x[None]" if len(x_shape) == 3 else ""
        raise ShapeError(f"{shapes}: the input must have 4 axes (N, C, H, W), not {len(x_shape)}{hint}")
    n, c, h, w = x_shape
    kernel = _pair(shapes, "kernel_size", kernel_size, 1)
    step = kernel if stride is None else _pair(shapes, "stride", stride, 1)
    pads, spread = _pair(shapes, "padding", padding, 0), _pair(shapes, "dilation", dilation, 1)
    out = []
    for axis, size, k, s, p, d in zip(("height (axis 2)", "width (axis 3)"), (h, w), kernel, step, pads, spread, strict=True):
        if p > k // 2:
            raise ShapeError(f"{shapes}: padding {p} along {axis} is more than half of the kernel of {k}; use at most {k // 2}")
        spare = size + 2 * p - d * (k - 1) - 1
        if ceil_mode and spare > -s:  # rounding up lets even a first window reach past the padding
            count = -(-spare // s) + 1
            if (count - 1) * s >= size + p:
                count -= 1
        else:
            count = _out(shapes, axis, size, k, s, p, p, d)
        if d > size and any(all(not 0 <= i * s - p + u * d < size for u in range(k)) for i in range(count)):
            raise ShapeError(f"{shapes}: dilation {d} steps over the {axis} of {size}, so that a window sees padding only; "
                             f"use a dilation of at most {size}")
        out.append(count)
    return Pool2dGeometry(n, c, h, w, *kernel, step, (pads[0], pads[0], pads[1], pads[1]), spread, out[0], out[1])


def _pair(shapes: str, what: str, value: Pair, least: int) -> tuple[int, int]:
    try:
        pair = tuple(operator.index(number) for number in (value if isinstance(value, Sequence) else (value, value)))
    except TypeError:  # not a whole number
        pair = ()
    if len(pair) != 2:
        raise ShapeError(f"{shapes}: {what}={value!r}, but it must be an int or a pair (h, w)")
    if min(pair) < least:
        raise ShapeError(f"{shapes}: {what}={value!r}, but it must be at least {least}")
    return pair[0], pair[1]


def _padding(
    shapes: str, padding: Padding, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Any way of writing a padding as (top, bottom, left, right)."""
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        if stride != (1, 1):
            raise ShapeError(
                f"{shapes}: padding='same' needs stride 1, not {stride}: a strided output is smaller than its input; "
                "give the padding in numbers, minidl.ops.geometry.suggest_padding proposes one"
            )
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2
    if isinstance(padding, str):
        raise ShapeError(f"{shapes}: padding={padding!r}, but it must be 'same', 'valid' or numbers")
    if isinstance(padding, Sequence) and len(padding) == 2 and all(isinstance(side, Sequence) for side in padding):
        (top, bottom), (left, right) = (_pair(shapes, "padding", side, 0) for side in padding)  # type: ignore[arg-type]
        return top, bottom, left, right
    if isinstance(padding, Sequence) and len(padding) == 4:
        pairs = tuple(padding[:2]), tuple(padding[2:])
        raise ShapeError(
            f"{shapes}: padding={padding!r}, but the sides of each axis go in a pair of their own: padding={pairs} for "
            "top, bottom, left and right"
        )
    h, w = _pair(shapes, "padding", padding, 0)  # type: ignore[arg-type]
    return h, h, w, w


def _check_groups(shapes: str, c: int, o: int, groups: int) -> None:
    if groups < 1:
        raise ShapeError(f"{shapes}: groups={groups}, but it must be at least 1")
    for what, channels in (("input", c), ("output", o)):
        if channels % groups:
            fits = [g for g in range(1, min(c, o) + 1) if c % g == 0 and o % g == 0]
            raise ShapeError(
                f"{shapes}: groups={groups} does not divide the {channels} {what} channels; "
                f"groups that divide both {c} and {o}: {', '.join(map(str, fits))}"
            )


def _check_kernel(shapes: str, kh: int, kw: int) -> None:
    if kh < 1 or kw < 1:
        raise ShapeError(f"{shapes}: the kernel is {kh}x{kw}, but both sides must be at least 1")


def _out(shapes: str, axis: str, n: int, f: int, stride: int, before: int, after: int, dilation: int) -> int:
    window, padded = dilation * (f - 1) + 1, n + before + after
    if window > padded:
        spread = f" (dilated by {dilation} to {window})" if dilation > 1 else ""
        need = -(-(window - n) // 2)
        raise ShapeError(
            f"{shapes}: the kernel of {f}{spread} is larger than the padded {axis} of {padded} ({n} + padding {before + after}); "
            f"use padding={need} or more, a smaller kernel, or a larger input"
        )
    return (padded - window) // stride + 1


def _check_fit(name: str, axis: str, n: int, f: int, stride: int, pads: tuple[int, int], dilation: int) -> None:
    """The strict rule of the lectures: (N - F + 2P)/S + 1 must be whole."""
    window, total = dilation * (f - 1) + 1, sum(pads)
    if (n - window + total) % stride == 0:
        return
    quotient = (n - window + total) / stride + 1
    advice = suggest_padding(n, window, stride)
    if advice.symmetric:
        p = min(advice.symmetric, key=lambda p: (abs(2 * p - total), p))
        fix = f"padding={p} -> {(n - window + 2 * p) // stride + 1}"
    else:
        before, after = advice.padding
        fix = f"no symmetric padding fits; ({before}, {after}) -> {advice.out}"
    padding = f"{pads[0]}" if pads[0] == pads[1] else f"({pads[0]}, {pads[1]})"
    raise ShapeError(
        f"{name}: a filter of {window} with stride {stride} and padding {padding} doesn't fit {axis} {n}: "
        f"({n} - {window} + {total})/{stride} + 1 = {quotient:.2f}; try {fix}, or strict=False to round down to {int(quotient)}"
    )
