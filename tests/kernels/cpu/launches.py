"""Random calls of every vector kernel on random, ragged shapes, between guard bands and on the C library's own heap.

As a program, ``python -m tests.kernels.cpu.launches COUNT SEED``, it runs until so many kernels were launched.  Every second
call works between guard bands, with all its memory poisoned; the others on the heap, where the C library notices a block
whose borders were written over, at the latest when it is freed.
"""
import sys
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

from minidl.kernels import variants
from minidl.kernels.cpu import dispatch, launch, memory, threads
from minidl.ops.geometry import conv2d_geometry, pool2d_geometry
from tests.kernels.cases import arrange
from tests.kernels.cpu.guards import guard_bands

CHANNELS = (1, 2, 3, 5, 7, 8, 15, 16, 17, 24, 31, 32, 33, 40, 63, 64, 65, 96, 100)


class Draw:
    """Random shapes and arrays, and what is called with them."""

    def __init__(self, seed):
        self.rng, self.verbs = np.random.default_rng(seed), set()

    def run(self, verb, *arguments, **options):
        """The vector variant's result."""
        self.verbs.add(verb)
        return variants(verb)["vector"](*arguments, **options)

    def integer(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def one(self, *values):
        return values[self.integer(0, len(values) - 1)]

    def array(self, *shape, layout=None):
        """Normal numbers in a random layout, between guard bands if these are up."""
        values = memory.empty(shape)
        values[...] = self.rng.standard_normal(shape, dtype=np.float32)
        return values if layout == "contiguous" else arrange(values, layout or self.one("contiguous", "channels_last", "sliced"))

    def maybe(self, *shape):
        return self.one(None, self.array(*shape))

    def images(self, most=20):
        return self.integer(0, 4), self.one(*CHANNELS), self.integer(1, most), self.integer(1, most)

    def shape(self, least=1):
        return tuple(self.integer(least, 40) for _ in range(self.integer(2, 4)))

    def pads(self, most):
        return tuple(tuple(self.integer(0, most) for _ in range(2)) for _ in range(2))


def convolution(d):
    groups = d.one(1, 1, 1, 2, 3)
    c, o = (d.one(*CHANNELS) * groups for _ in range(2))
    usual = d.one(True, False)
    kh, kw = (3, 3) if usual else (d.integer(1, 7), d.integer(1, 7))
    stride, dilation = ((1, 1), (1, 1)) if usual else ((d.integer(1, 4), d.integer(1, 4)), (d.integer(1, 3), d.integer(1, 2)))
    padding = d.pads(3)
    h, w = (max(1, dl * (k - 1) + 1 - sum(p)) + d.integer(0, 14) for dl, k, p in zip(dilation, (kh, kw), padding, strict=True))
    n, precision = d.integer(0, 3), d.one("fast", "direct")
    geom = conv2d_geometry((n, c, h, w), (o, c // groups, kh, kw), stride, padding, dilation, groups)
    x, weight, gy = d.array(n, c, h, w), d.array(o, c // groups, kh, kw), d.array(n, o, geom.out_h, geom.out_w)
    yield d.run("conv2d", x, weight, d.maybe(o), geom, precision)
    yield d.run("conv2d_input_grad", gy, weight, geom, precision)
    yield d.run("conv2d_weight_grad", gy, x, geom, precision)
    columns = d.run("im2col", x, geom)
    yield columns
    yield d.run("col2im", d.array(*columns.shape), geom)


def pooling(d):
    n, c, h, w = d.images()
    kh, kw = d.integer(1, min(h, 5)), d.integer(1, min(w, 5))
    stride, padding = (d.integer(1, 4), d.integer(1, 4)), (d.integer(0, kh // 2), d.integer(0, kw // 2))
    geom = pool2d_geometry((n, c, h, w), (kh, kw), stride, padding)
    x, gy, include = d.array(n, c, h, w), d.array(n, c, geom.out_h, geom.out_w), d.one(True, False)
    y, indices = d.run("max_pool2d", x, geom)
    yield y
    yield d.run("max_pool2d_grad", gy, indices, geom)
    yield d.run("avg_pool2d", x, geom, include)
    yield d.run("avg_pool2d_grad", gy, geom, include)


def batch_norm(d):
    maps = d.integer(1, 4), d.one(*CHANNELS), d.integer(2, 30), d.integer(1, 30)
    shape = d.one(maps, (d.integer(2, 700), d.one(*CHANNELS)))
    x, gy, residual, c = d.array(*shape), d.array(*shape), d.maybe(*shape), shape[1]
    w, b = d.maybe(c), d.maybe(c)
    y, mean, invstd = d.run("batch_norm", x, w, b, 1e-5)
    yield y, mean, invstd
    yield d.run("batch_norm_grad", gy, x, w, mean, invstd)
    yield d.run("batch_norm_inference", x, w, b, mean, abs(invstd), 1e-5)
    yield d.run("batch_norm_relu_inference", x, w, b, mean, abs(invstd), residual, 1e-5)
    y, mean, invstd = d.run("batch_norm_relu", x, w, b, residual, 1e-5)
    yield y, mean, invstd
    yield d.run("batch_norm_relu_grad", gy, x, w, b, y, mean, invstd, residual is not None)
    yield d.run("channel_sum", x)


def elementwise(d):
    shape = d.shape()
    x, y = d.array(*shape), d.array(*shape)
    for verb in ("relu", "sigmoid", "tanh", "silu"):
        yield d.run(verb, x)
    for verb in ("add", "relu_grad", "sigmoid_grad", "tanh_grad", "silu_grad"):
        yield d.run(verb, x, y)
    approximate = d.one("none", "tanh")
    yield d.run("gelu", x, approximate)
    yield d.run("gelu_grad", x, y, approximate)


def rows(d):
    shape = d.shape()
    x, gy, axis, ndim = d.array(*shape), d.array(*shape), d.integer(0, len(shape) - 1), d.integer(1, len(shape) - 1)
    for verb in ("softmax", "log_softmax"):
        y = d.run(verb, x, axis)
        yield y
        yield d.run(verb + "_grad", gy, y, axis)
    w, b = d.maybe(*shape[-ndim:]), d.maybe(*shape[-ndim:])
    y, mean, invstd = d.run("layer_norm", x, w, b, ndim, 1e-5)
    yield y, mean, invstd
    yield d.run("layer_norm_grad", gy, x, w, mean, invstd, ndim)


def loss(d):
    m, classes, smoothing = d.integer(1, 200), d.integer(1, 130), d.one(0.0, 0.1)
    logits, labels = d.array(m, classes), d.rng.integers(0, classes, m)
    yield d.run("softmax_cross_entropy", logits, labels, None, -100, smoothing)
    yield d.run("softmax_cross_entropy_grad", d.array(m), logits, labels, None, -100, smoothing)


def neighbours(d):
    shape, options = d.images(), (d.integer(1, 7), 1e-3, d.one(0.75, 0.5, 0.6), 2.0)
    x = d.array(*shape)
    yield d.run("local_response_norm", x, *options)
    yield d.run("local_response_norm_grad", d.array(*shape), x, *options)


def attention(d):
    n, heads, queries, keys, size = d.integer(1, 3), d.integer(1, 4), d.integer(1, 70), d.integer(1, 70), d.integer(1, 70)
    q, gy = (d.array(n, heads, queries, size) for _ in range(2))
    k, v = (d.array(n, heads, keys, size) for _ in range(2))
    y, weights = d.run("attention", q, k, v, size**-0.5)
    yield y, weights
    yield d.run("attention_grad", gy, q, k, v, weights, size**-0.5)


def random_numbers(d):
    shape, key, p = d.shape(), (d.integer(0, 2**31), d.integer(0, 2**40)), d.one(0.1, 0.5, 0.9)
    yield d.run("philox_bits", *key, d.integer(1, 5000))
    yield d.run("philox_uniform", shape, key, np.dtype(np.float32))
    yield d.run("dropout", d.array(*shape), p, key)
    yield d.run("dropout_mask", shape, p, key, np.dtype(np.float32))


def optimisers(d):
    sizes = [d.integer(1, d.one(9, 100, 9000)) for _ in range(d.integer(1, 4))]

    def tensors(positive=False):
        found = [d.array(size, layout="contiguous") for size in sizes]
        return [abs(a) for a in found] if positive else found

    nothing, steps = [None] * len(sizes), [d.integer(1, 3)] * len(sizes)
    moving, centred = d.one(0.0, 0.9), d.one(True, False)
    adam = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-3, "weight_decay": 0.1, "maximize": False}
    for verb, states, options in (
        ("sgd_", [list(nothing)], {"lr": 0.1, "momentum": moving}),
        ("adam_", [tensors(), tensors(True), tensors(True) if centred else nothing, steps], {**adam, "amsgrad": centred}),
        ("adamw_", [tensors(), tensors(True), nothing, steps], {**adam, "amsgrad": False}),
        ("rmsprop_", [tensors(True), nothing, tensors() if moving else nothing],
         {"lr": 0.1, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.0, "momentum": moving, "centered": False, "maximize": False}),
        ("adagrad_", [tensors(True), steps], {"lr": 0.1}),
        ("adadelta_", [tensors(True), tensors(True)], {}),
    ):
        params = tensors()
        d.run(verb, params, tensors(), *states, **options)
        yield tuple(params)


FAMILIES = (convolution, pooling, batch_norm, elementwise, rows, loss, neighbours, attention, random_numbers, optimisers)


@contextmanager
def on_the_heap():
    """All arrays from the C library, none from the arena."""
    def empty(shape, dtype=np.float32):
        return np.empty(shape, dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "empty", empty)
        patch.setattr(memory, "scratch", lambda name, size: empty(size))
        yield


@contextmanager
def between_bands():
    """All arrays poisoned and between guard bands."""
    with pytest.MonkeyPatch.context() as patch:
        check = guard_bands(patch)
        yield
        check()


def launches(count, seed, families=FAMILIES):
    """Call the families in turn until ``count`` kernels were launched.

    Returns:
        how often each kernel was launched, and the verbs that were called.

    Raises:
        AssertionError: a kernel wrote outside its arrays, left a part of its result as it was, or read what it must not.
    """
    d, seen, turn, before = Draw(seed), Counter(), 0, threads.get_num_threads()
    original = launch.Launch.__call__

    def counted(self, **arrays):
        seen[self._program.name] += 1
        original(self, **arrays)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch.Launch, "__call__", counted)
        for name in ("LARGE", "COSTLY"):             # small arrays too
            patch.setattr(dispatch, name, 1)
        try:
            while seen.total() < count:
                threads.set_num_threads(1 + turn % 3)
                family, where = families[turn % len(families)], (between_bands, on_the_heap)[turn // len(families) % 2]
                try:
                    with where():
                        for results in family(d):
                            for result in results if isinstance(results, tuple) else (results,):
                                assert np.isfinite(result).all(), "a result is not finite"
                except Exception as error:
                    raise AssertionError(f"seed {seed}, call {turn}, {family.__name__} {where.__name__}: {error}") from error
                turn += 1
        finally:
            threads.set_num_threads(before)
    return seen, d.verbs


if __name__ == "__main__":
    found, _ = launches(int(sys.argv[1]), int(sys.argv[2]))
    print(f"{found.total()} launches of {len(found)} kernels")
