"""Arguments to try a kernel on: sizes as a small net for images has them, float32, maps in channels-last memory.

Maps have 16 MB, so that no array stays in a core's own caches from one call to the next; the convolution is one of a ResNet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import minidl
from minidl.errors import ConfigError
from minidl.ops.geometry import conv2d_geometry, pool2d_geometry

Array = Any
Call = Callable[..., Any]

N, C, H, W = 64, 64, 32, 32
ROWS, CLASSES = 4096, 1000
TOKENS, HEADS = (64, 197, 192), 3
WORDS, DRAWS = 10_000, 1 << 20
PARAMETERS = [(256, 256, 3, 3)] * 3 + [(4096, 512), (256,), (512,)]
EPS, KEY = 1e-5, (1, 2)


class Sample(NamedTuple):
    """One call of a verb.

    Attributes:
        what: the sizes, for people.
        arguments, options: what the kernel is called with.
        flop: multiplications and additions of the plain formula, where they, not the memory, are the work; else 0.
        torch: given the module and the arguments as tensors, PyTorch's way of computing the same; None if it has none.
    """

    what: str
    arguments: tuple[Any, ...]
    options: dict[str, Any] = {}
    flop: float = 0.0
    torch: Callable[..., Call] | None = None


def sample(verb: str) -> Sample:
    """The sample of a verb, with fresh random numbers.

    Raises:
        ConfigError: there is none.
    """
    if verb not in SAMPLES:
        raise ConfigError(f"{verb}: there is no sample of its arguments; there are samples of {', '.join(SAMPLES)}")
    return SAMPLES[verb]()


def _draw(*shape: int) -> Array:
    return minidl.randn(*shape).data


def _maps(*shape: int) -> Array:
    n, c, h, w = shape or (N, C, H, W)
    return _draw(n, h, w, c).transpose(0, 3, 1, 2)


def _positive(*shape: int) -> Array:
    return minidl.rand(*shape).data + 0.5


def _on_maps(count: int, torch: Callable[..., Call] | None, *options: Any) -> Callable[[], Sample]:
    """A verb that takes ``count`` maps, then ``options``."""
    return lambda: Sample(_times(N, C, H, W), (*(_maps() for _ in range(count)), *options), torch=torch)


def _on_rows(count: int, torch: Callable[..., Call] | None, *options: Any) -> Callable[[], Sample]:
    """A verb that takes ``count`` matrices, one row for each image, then ``options``."""
    return lambda: Sample(_times(ROWS, CLASSES), (*(_positive(ROWS, CLASSES) for _ in range(count)), *options), torch=torch)


def _times(*shape: int) -> str:
    return "x".join(map(str, shape))


def _convolution(verb: str) -> Callable[[], Sample]:
    def make() -> Sample:
        x_shape, w_shape = (N // 2, C, H // 2, W // 2), (C, C, 3, 3)
        geom = conv2d_geometry(x_shape, w_shape, 1, 1)
        x, gy, w = _maps(*x_shape), _maps(*x_shape), _draw(*w_shape)
        arguments = {"conv2d": (x, w, _draw(C), geom), "conv2d_input_grad": (gy, w, geom), "conv2d_weight_grad": (gy, x, geom)}

        def backward(t: Any, wanted: int) -> Call:
            tx, tw, tgy = t.from_numpy(x), t.from_numpy(w), t.from_numpy(gy)
            which = [i == wanted for i in range(3)]
            return lambda: t.ops.aten.convolution_backward(
                tgy, tx, tw, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, which
            )

        theirs: dict[str, Callable[..., Call]] = {
            "conv2d": lambda t, x, w, b, _: lambda: t.nn.functional.conv2d(x, w, b, padding=1),
            "conv2d_input_grad": lambda t, *_: backward(t, 0),
            "conv2d_weight_grad": lambda t, *_: backward(t, 1),
        }
        flop = 2.0 * math.prod(x_shape) * C * 9
        return Sample(f"{_times(*x_shape)} * {_times(*w_shape)}, padding 1", arguments[verb], flop=flop, torch=theirs[verb])

    return make


def _columns(verb: str) -> Callable[[], Sample]:
    def make() -> Sample:
        n, c = N // 2, C // 4
        geom, what = conv2d_geometry((n, c, H, W), (c, c, 3, 3), 1, 1), f"{_times(n, c, H, W)}, 3x3"
        unfold = {"kernel_size": 3, "padding": 1}
        if verb == "im2col":
            return Sample(what, (_draw(n, c, H, W), geom),
                          torch=lambda t, x, _: lambda: t.nn.functional.unfold(x, **unfold))  # fmt: skip
        return Sample(what, (_draw(n, c * 9, H * W), geom),
                      torch=lambda t, x, _: lambda: t.nn.functional.fold(x, (H, W), **unfold))  # fmt: skip

    return make


def _pooling(verb: str) -> Callable[[], Sample]:
    def make() -> Sample:
        geom = pool2d_geometry((N, C, H, W), 2)
        x, gy = _maps(), _maps(N, C, geom.out_h, geom.out_w)
        if verb.startswith("avg"):
            arguments: tuple[Any, ...] = (gy if verb.endswith("grad") else x, geom)
        else:
            indices = minidl.kernels.lookup("max_pool2d")(x, geom)[1]
            first = {"max_pool2d": (x,), "max_pool2d_grad": (gy, indices), "max_pool2d_take": (x, indices)}[verb]
            arguments = (*first, geom)
        two = ([2, 2], [2, 2], [0, 0])
        theirs: dict[str, Callable[..., Call]] = {
            "max_pool2d": lambda t, x, _: lambda: t.nn.functional.max_pool2d(x, 2, return_indices=True),
            "max_pool2d_grad": lambda t, gy, indices, _: lambda: t.ops.aten.max_pool2d_with_indices_backward(
                gy, t.from_numpy(x), *two, [1, 1], False, indices),
            "avg_pool2d": lambda t, x, _: lambda: t.nn.functional.avg_pool2d(x, 2),
            "avg_pool2d_grad": lambda t, gy, _: lambda: t.ops.aten.avg_pool2d_backward(
                gy, t.from_numpy(x), *two, False, True, None),
        }  # fmt: skip
        return Sample(f"{_times(N, C, H, W)}, 2x2", arguments, torch=theirs.get(verb))

    return make


def _adaptive(verb: str) -> Callable[[], Sample]:
    def make() -> Sample:
        x, gy, size, what = _maps(), _maps(N, C, 7, 7), (7, 7), f"{_times(N, C, H, W)} to 7x7"
        if verb == "adaptive_max_pool2d_grad":
            indices = minidl.kernels.lookup("adaptive_max_pool2d")(x, size)[1]
            return Sample(what, (gy, indices, (H, W)))
        if verb == "adaptive_avg_pool2d_grad":
            return Sample(what, (gy, (H, W)))
        return Sample(what, (x, size),
                      torch=lambda t, x, size: lambda: getattr(t.nn.functional, verb)(x, size))  # fmt: skip

    return make


def _batch_norm(verb: str) -> Callable[[], Sample]:
    def make() -> Sample:
        x, gy, w, b = _maps(), _maps(), _positive(C), _draw(C)
        y, mean, invstd = minidl.kernels.variants("batch_norm_relu")["numpy"](x, w, b, None, EPS)
        arguments: dict[str, tuple[Any, ...]] = {
            "batch_norm": (x, w, b, EPS), "batch_norm_grad": (gy, x, w, mean, invstd),
            "batch_norm_inference": (x, w, b, mean, invstd, EPS), "batch_norm_relu": (x, w, b, None, EPS),
            "batch_norm_relu_grad": (gy, x, w, b, y, mean, invstd, False),
            "batch_norm_relu_inference": (x, w, b, mean, invstd, y, EPS),
        }  # fmt: skip
        theirs: dict[str, Callable[..., Call]] = {
            "batch_norm": lambda t, x, w, b, _: lambda: t.ops.aten.native_batch_norm(x, w, b, None, None, True, 0.1, EPS),
            "batch_norm_grad": lambda t, gy, x, w, m, s: lambda: t.ops.aten.native_batch_norm_backward(
                gy, x, w, None, None, m, s, True, EPS, [True, True, True]),
            "batch_norm_inference": lambda t, x, w, b, m, v, _: lambda: t.nn.functional.batch_norm(x, m, v, w, b),
            "batch_norm_relu_inference": lambda t, x, w, b, m, v, r, _: lambda: t.relu_(
                t.nn.functional.batch_norm(x, m, v, w, b).add_(r)),
            "batch_norm_relu": lambda t, x, w, b, *_: lambda: t.relu_(
                t.ops.aten.native_batch_norm(x, w, b, None, None, True, 0.1, EPS)[0]),
        }  # fmt: skip
        return Sample(_times(N, C, H, W), arguments[verb], torch=theirs.get(verb))

    return make


def _layer_norm(verb: str) -> Callable[[], Sample]:
    def make() -> Sample:
        *outer, size = TOKENS
        x, gy, w, b = _draw(*TOKENS), _draw(*TOKENS), _positive(size), _draw(size)
        if verb == "layer_norm_grad":
            return Sample(_times(*TOKENS), (gy, x, w, _draw(*outer, 1), _positive(*outer, 1), 1))
        return Sample(_times(*TOKENS), (x, w, b, 1, EPS),
                      torch=lambda t, x, w, b, *_: lambda: t.nn.functional.layer_norm(x, (size,), w, b, EPS))  # fmt: skip

    return make


def _group_norm(verb: str) -> Callable[[], Sample]:
    def make() -> Sample:
        x, gy, w, b, what = _maps(), _maps(), _positive(C), _draw(C), f"{_times(N, C, H, W)}, 8 groups"
        if verb == "group_norm_grad":
            return Sample(what, (gy, x, w, _draw(N, 8), _positive(N, 8), 8))
        return Sample(what, (x, w, b, 8, EPS),
                      torch=lambda t, x, w, b, *_: lambda: t.nn.functional.group_norm(x, 8, w, b, EPS))  # fmt: skip

    return make


def _loss(verb: str) -> Callable[[], Sample]:
    def make() -> Sample:
        labels = minidl.randint(0, CLASSES, (ROWS,)).data
        logits, g = _draw(ROWS, CLASSES), _draw(ROWS)
        arguments: dict[str, tuple[Any, ...]] = {
            "softmax_cross_entropy": (logits, labels, None, -100, 0.0),
            "softmax_cross_entropy_grad": (g, logits, labels, None, -100, 0.0),
            "nll_loss": (logits, labels, None, -100), "nll_loss_grad": (g, labels, CLASSES, None, -100),
        }  # fmt: skip
        theirs: dict[str, Callable[..., Call]] = {
            "softmax_cross_entropy": lambda t, x, labels, *_: lambda: t.nn.functional.cross_entropy(x, labels, reduction="none"),
            "nll_loss": lambda t, x, labels, *_: lambda: t.nn.functional.nll_loss(x, labels, reduction="none"),
        }  # fmt: skip
        return Sample(_times(ROWS, CLASSES), arguments[verb], torch=theirs.get(verb))

    return make


def _attention(verb: str) -> Callable[[], Sample]:
    """A forward product is two of matrices; the backward pass is four."""

    def make() -> Sample:
        n, length, width = TOKENS
        size = width // HEADS
        q, k, v, gy = (_draw(n, length, HEADS, size).transpose(0, 2, 1, 3) for _ in range(4))
        scale, flop = size**-0.5, 4.0 * n * length**2 * width
        what = f"{HEADS} heads of {_times(n, length, size)}"
        if verb == "attention_grad":
            weights = minidl.kernels.lookup("attention")(q, k, v, scale)[1]
            return Sample(what, (gy, q, k, v, weights, scale), flop=2 * flop)

        def theirs(t: Any, q: Any, k: Any, v: Any, scale: float) -> Call:
            return lambda: t.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)

        return Sample(what, (q, k, v, scale), flop=flop, torch=theirs)

    return make


def _embedding(verb: str) -> Callable[[], Sample]:
    def make() -> Sample:
        *outer, size = TOKENS
        words, what = minidl.randint(0, WORDS, tuple(outer)).data, f"{_times(*TOKENS)} of {WORDS:,} words"
        if verb == "embedding_grad":
            return Sample(what, (_draw(*TOKENS), words, WORDS))
        if verb == "add_at_":
            return Sample(what, (_draw(WORDS, size), words, _draw(*TOKENS)))
        return Sample(what, (_draw(WORDS, size), words),
                      torch=lambda t, w, i: lambda: t.nn.functional.embedding(i, w))  # fmt: skip

    return make


def _optimizer(**options: Any) -> Callable[..., Any]:
    """A verb that takes lists: parameters and gradients, then the states whose names are given; ``steps`` are numbers."""

    def with_states(*states: str) -> Callable[[], Sample]:
        def make() -> Sample:
            values = {
                "steps": lambda: [10] * len(PARAMETERS), "none": lambda: [None] * len(PARAMETERS),
                "state": lambda: [_positive(*shape) for shape in PARAMETERS],
            }  # fmt: skip
            lists = [[_draw(*shape) for shape in PARAMETERS] for _ in range(2)] + [values[state]() for state in states]
            what = f"{len(PARAMETERS)} parameters, {sum(map(math.prod, PARAMETERS)):,} numbers"
            return Sample(what, tuple(lists), {"lr": 1e-9, **options})

        return make

    return with_states


def _lists(verb: str) -> Callable[[], Sample]:
    """A verb of all parameters at once."""

    def make() -> Sample:
        lists = [[_draw(*shape) for shape in PARAMETERS] for _ in range(2 if verb == "ema_" else 1)]
        options = {"ema_": {"decay": 0.999}, "scale_": {"factor": 1.0}}.get(verb, {})
        return Sample(f"{len(PARAMETERS)} parameters, {sum(map(math.prod, PARAMETERS)):,} numbers", tuple(lists), options)

    return make


_ADAM = _optimizer(beta1=0.9, beta2=0.999, eps=1e-8)("state", "state", "none", "steps")

SAMPLES: dict[str, Callable[[], Sample]] = {
    "relu": _on_maps(1, lambda t, x: lambda: t.relu(x)),
    "relu_grad": _on_maps(2, lambda t, gy, y: lambda: t.ops.aten.threshold_backward(gy, y, 0)),
    "tanh_grad": _on_maps(2, lambda t, gy, y: lambda: t.ops.aten.tanh_backward(gy, y)),
    "add": _on_maps(2, lambda t, a, b: lambda: t.add(a, b)),
    "add_bias_": lambda: Sample(f"{ROWS:,} x {CLASSES}", (_draw(ROWS, CLASSES), _draw(CLASSES))),
    "running_stats_": lambda: Sample(
        f"{C} channels", tuple(_positive(C) for _ in range(4)), {"count": N, "momentum": 0.1, "eps": EPS, "unbiased": True}),
    "channel_sum": _on_maps(1, lambda t, x: lambda: t.sum(x, (0, 2, 3))),
    **{verb: _convolution(verb) for verb in ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")},
    **{verb: _columns(verb) for verb in ("im2col", "col2im")},
    **{verb: _pooling(verb) for verb in ("max_pool2d", "max_pool2d_grad", "max_pool2d_take", "avg_pool2d", "avg_pool2d_grad")},
    **{verb: _adaptive(verb) for verb in (
        "adaptive_avg_pool2d", "adaptive_avg_pool2d_grad", "adaptive_max_pool2d", "adaptive_max_pool2d_grad")},
    **{verb: _batch_norm(verb) for verb in (
        "batch_norm", "batch_norm_grad", "batch_norm_relu", "batch_norm_relu_grad", "batch_norm_inference",
        "batch_norm_relu_inference")},
    **{verb: _layer_norm(verb) for verb in ("layer_norm", "layer_norm_grad")},
    **{verb: _group_norm(verb) for verb in ("group_norm", "group_norm_grad")},
    "local_response_norm": _on_maps(1, lambda t, x, *o: lambda: t.nn.functional.local_response_norm(x, *o), 5, 1e-4, 0.75, 2.0),
    "local_response_norm_grad": _on_maps(2, None, 5, 1e-4, 0.75, 2.0),
    "softmax": _on_rows(1, lambda t, x, axis: lambda: t.softmax(x, axis), 1),
    "softmax_grad": _on_rows(2, lambda t, gy, y, axis: lambda: t.ops.aten._softmax_backward_data(gy, y, axis, y.dtype), 1),
    "log_softmax": _on_rows(1, lambda t, x, axis: lambda: t.log_softmax(x, axis), 1),
    "log_softmax_grad": _on_rows(2, lambda t, g, y, axis: lambda: t.ops.aten._log_softmax_backward_data(g, y, axis, y.dtype), 1),
    "sigmoid": _on_rows(1, lambda t, x: lambda: t.sigmoid(x)),
    "sigmoid_grad": _on_rows(2, lambda t, gy, y: lambda: t.ops.aten.sigmoid_backward(gy, y)),
    "tanh": _on_rows(1, lambda t, x: lambda: t.tanh(x)),
    "silu": _on_rows(1, lambda t, x: lambda: t.nn.functional.silu(x)),
    "silu_grad": _on_rows(2, lambda t, gy, x: lambda: t.ops.aten.silu_backward(gy, x)),
    "gelu": _on_rows(1, lambda t, x, how: lambda: t.nn.functional.gelu(x, approximate=how), "none"),
    "gelu_grad": _on_rows(2, lambda t, gy, x, how: lambda: t.ops.aten.gelu_backward(gy, x, approximate=how), "none"),
    **{verb: _attention(verb) for verb in ("attention", "attention_grad")},
    **{verb: _loss(verb) for verb in ("softmax_cross_entropy", "softmax_cross_entropy_grad", "nll_loss", "nll_loss_grad")},
    "philox_bits": lambda: Sample(f"{DRAWS:,} words", (*KEY, DRAWS)),
    "philox_uniform": lambda: Sample(f"{DRAWS:,} numbers", ((DRAWS,), KEY, "float32")),
    "philox_normal": lambda: Sample(f"{DRAWS:,} numbers", ((DRAWS,), KEY, "float32")),
    "dropout": _on_rows(1, lambda t, x, p, _: lambda: t.nn.functional.dropout(x, p), 0.5, KEY),
    "dropout_mask": lambda: Sample(f"{DRAWS:,} numbers", ((DRAWS,), 0.5, KEY, "float32")),
    **{verb: _embedding(verb) for verb in ("embedding", "embedding_grad", "add_at_")},
    "sgd_": _optimizer(momentum=0.9)("state"),
    "adam_": _ADAM,
    "adamw_": _ADAM,
    "rmsprop_": _optimizer(alpha=0.99, eps=1e-8)("state", "none", "none"),
    "adagrad_": _optimizer()("state", "steps"),
    "adadelta_": _optimizer()("state", "state"),
    **{verb: _lists(verb) for verb in ("ema_", "scale_", "square_sum")},
}  # fmt: skip
