"""Which calls the vector kernels take.

Every verb here has a condition on its arguments; a call that does not meet it runs the NumPy variant, and so does every call
where kernels cannot be compiled at all.  The conditions:

=========================  =====================================================================================
conv2d and its gradients   float32; any stride, padding, dilation, groups and number of channels
im2col, col2im             float32, LARGE elements or more; what is not (N, C, H, W) in memory is copied
batch_norm* and gradients  float32, COSTLY elements or more
relu, relu_grad, add,      float32, equal shapes, LARGE elements or more
tanh_grad
sigmoid, tanh, silu, gelu  float32, COSTLY elements or more; the gradients also need equal shapes
and gradients
softmax, log_softmax       float32, COSTLY elements or more; any axis, the innermost one of memory without a copy
and gradients
softmax_cross_entropy      float32, COSTLY elements or more, no weights of classes
and gradient
layer_norm and gradient    float32, COSTLY elements or more
attention and gradient     float32, four axes, queries, keys and values of one size, at most LONG queries and keys
local_response_norm        float32, COSTLY elements or more, NEIGHBOURS channels in a sum at most
and gradient
channel_sum                float32, LARGE elements or more
max_pool2d, avg_pool2d     float32; the gradients also need a dilation of 1
philox_bits,               COSTLY elements or more, float32
philox_uniform
dropout, dropout_mask      float32, COSTLY elements or more, 2^-32 <= p < 1
sgd_, adam_, adamw_,       float32, C-contiguous arrays
rmsprop_, adagrad_,
adadelta_
=========================  =====================================================================================

Arrays of float16 and bfloat16 are widened, computed in float32 by these kernels, and the results rounded once.
"""
from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.kernels.cpu.engine import Unavailable
from minidl.kernels.registry import Kernel, register, variants

LARGE = 1 << 14                                      # elements from which a launch is worth its overhead
COSTLY = 1 << 10                                     # the same, where NumPy needs an exponential or half a dozen passes
LONG = 512                                           # queries and keys whose scores fit a core's cache
NEIGHBOURS = 16                                      # each is written out, with a mask of its own

FLOAT32 = np.dtype(np.float32)
STATISTICS = {"batch_norm", "batch_norm_relu", "layer_norm"}         # beside the result they return a mean and a deviation
MIXED = {"batch_norm_grad", "batch_norm_relu_grad", "layer_norm_grad"}
_disabled = False


def vector(verb: str, takes: Callable[..., bool]) -> Callable[[Kernel], Kernel]:
    """Decorator: the function below is the "vector" variant of ``verb`` for the calls that ``takes(*arguments)`` accepts."""

    def decorate(kernel: Kernel) -> Kernel:
        plain = functools.cache(lambda: variants(verb, "cpu")["numpy"])

        @functools.wraps(kernel)
        def run(*arguments: Any, **options: Any) -> Any:
            if not _disabled and takes(*arguments, **options):
                try:
                    return kernel(*arguments, **options)
                except Unavailable as error:
                    _disable(error)
            if not _disabled and hasattr(arguments[0], "dtype") and is_16_bit(arguments[0].dtype):
                return _through_float32(run, verb, arguments, options)
            return plain()(*arguments, **options)

        register(verb, "cpu", "vector")(run)
        return run

    return decorate


def is_16_bit(dtype: np.dtype) -> bool:
    """Whether it is float16, or bfloat16, which to NumPy is of kind V."""
    return dtype.itemsize == 2 and dtype.kind in "fV"


def _through_float32(run: Kernel, verb: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Arrays of 16 bits are widened, computed in float32, and the results rounded once."""
    narrow = arguments[0].dtype
    if verb in MIXED:                                # the gradients of parameters are of the parameters' dtype
        parameter = next((a.dtype for a in arguments[2:3] if a is not None), FLOAT32)
        dtypes = (narrow, parameter, parameter, narrow)
    else:
        dtypes = (narrow, FLOAT32, FLOAT32, FLOAT32) if verb in STATISTICS else (narrow,) * 4
    wide = (a.astype(FLOAT32) if hasattr(a, "dtype") and is_16_bit(a.dtype) else a for a in arguments)
    found = run(*wide, **options)
    if type(found) is tuple:
        pairs = zip(found, dtypes, strict=False)
        return tuple(y if y is None or y.dtype != FLOAT32 else y.astype(d, copy=False) for y, d in pairs)
    return found.astype(narrow) if found.dtype == FLOAT32 else found


def _disable(error: Unavailable) -> None:
    """From now on everything runs on NumPy; said once."""
    global _disabled
    _disabled = True
    warnings.warn(f"the fast CPU kernels are off, NumPy computes instead: {error}", RuntimeWarning, stacklevel=4)


def all_float32(*arrays: Any) -> bool:
    """Whether every array that is there is float32."""
    return all(a is None or a.dtype == FLOAT32 for a in arrays)


def takes_conv2d(x: Any, w: Any, b: Any, geom: Any, precision: str = "fast", relu: bool = False) -> bool:
    return all_float32(x, w, b)


def takes_conv2d_input_grad(gy: Any, w: Any, geom: Any, precision: str = "fast") -> bool:
    return all_float32(gy, w)


def takes_conv2d_weight_grad(gy: Any, x: Any, geom: Any, precision: str = "fast") -> bool:
    return all_float32(gy, x)


def takes_im2col(x: Any, geom: Any) -> bool:
    return x.dtype == FLOAT32 and x.size * geom.kh * geom.kw >= LARGE


def takes_col2im(cols: Any, geom: Any) -> bool:
    return cols.dtype == FLOAT32 and cols.size >= LARGE


def takes_batch_norm(x: Any, w: Any, b: Any, eps: float) -> bool:
    return all_float32(x, w, b) and x.size >= COSTLY


def takes_batch_norm_grad(gy: Any, x: Any, w: Any, mean: Any, invstd: Any) -> bool:
    return all_float32(gy, x, w, mean, invstd) and x.size >= COSTLY


def takes_batch_norm_relu(x: Any, w: Any, b: Any, residual: Any, eps: float) -> bool:
    return all_float32(x, w, b, residual) and x.size >= COSTLY


def takes_batch_norm_relu_grad(gy: Any, x: Any, w: Any, b: Any, y: Any, mean: Any, invstd: Any, residual: bool) -> bool:
    return all_float32(gy, x, w, b, y, mean, invstd) and x.size >= COSTLY


def takes_batch_norm_inference(x: Any, w: Any, b: Any, mean: Any, var: Any, eps: float) -> bool:
    return all_float32(x, w, b, mean, var) and x.size >= COSTLY


def takes_batch_norm_relu_inference(x: Any, w: Any, b: Any, mean: Any, var: Any, residual: Any, eps: float) -> bool:
    return all_float32(x, w, b, mean, var, residual) and x.size >= COSTLY


def takes_relu(x: Any) -> bool:
    return x.dtype == FLOAT32 and x.size >= LARGE


def takes_pair(a: Any, b: Any) -> bool:
    return a.size >= LARGE and a.shape == b.shape and a.dtype == FLOAT32 and b.dtype == FLOAT32


def takes_local_response_norm(x: Any, size: int, alpha: float, beta: float, k: float) -> bool:
    return x.dtype == FLOAT32 and x.size >= COSTLY and size <= NEIGHBOURS


def takes_local_response_norm_grad(gy: Any, x: Any, size: int, alpha: float, beta: float, k: float) -> bool:
    return gy.dtype == FLOAT32 and takes_local_response_norm(x, size, alpha, beta, k)


def takes_channel_sum(x: Any) -> bool:
    return x.dtype == FLOAT32 and x.size >= LARGE


def takes_function(x: Any, approximate: str = "none") -> bool:
    return x.dtype == FLOAT32 and x.size >= COSTLY


def takes_function_grad(gy: Any, x: Any, approximate: str = "none") -> bool:
    return gy.size >= COSTLY and gy.shape == x.shape and all_float32(gy, x)


def takes_softmax(x: Any, axis: int) -> bool:
    return takes_function(x)


def takes_softmax_grad(gy: Any, y: Any, axis: int) -> bool:
    return takes_function_grad(gy, y)


def takes_cross_entropy(logits: Any, labels: Any, weight: Any, ignore_index: int, label_smoothing: float) -> bool:
    return weight is None and takes_function(logits)


def takes_cross_entropy_grad(g: Any, logits: Any, labels: Any, weight: Any, ignore_index: int, label_smoothing: float) -> bool:
    return weight is None and g.dtype == FLOAT32 and takes_function(logits)


def takes_attention(q: Any, k: Any, v: Any, scale: float) -> bool:
    return (q.ndim == 4 and all_float32(q, k, v) and q.size >= COSTLY and k.size > 0 and k.shape == v.shape
            and q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[3] and max(q.shape[2], k.shape[2]) <= LONG)


def takes_attention_grad(gy: Any, q: Any, k: Any, v: Any, weights: Any, scale: float) -> bool:
    return takes_attention(q, k, v, scale) and all_float32(gy, weights)


def takes_layer_norm(x: Any, w: Any, b: Any, ndim: int, eps: float) -> bool:
    return takes_function(x) and all_float32(w, b)


def takes_layer_norm_grad(gy: Any, x: Any, w: Any, mean: Any, invstd: Any, ndim: int) -> bool:
    return takes_function_grad(gy, x) and all_float32(w, mean, invstd)


def takes_max_pool(x: Any, geom: Any) -> bool:
    return x.dtype == FLOAT32


def takes_avg_pool(x: Any, geom: Any, count_include_pad: bool = True) -> bool:
    return x.dtype == FLOAT32


def takes_max_pool_grad(gy: Any, indices: Any, geom: Any) -> bool:
    return gy.dtype == FLOAT32 and indices.dtype == np.int64 and _takes_gather(geom)


def takes_avg_pool_grad(gy: Any, geom: Any, count_include_pad: bool = True) -> bool:
    return gy.dtype == FLOAT32 and _takes_gather(geom)


def _takes_gather(geom: Any) -> bool:
    return tuple(geom.dilation) == (1, 1)


def takes_philox_bits(seed: int, offset: int, n: int) -> bool:
    return n >= COSTLY


def takes_philox_uniform(shape: tuple[int, ...], key: Any, dtype: Any) -> bool:
    return dtype == FLOAT32 and math.prod(shape) >= COSTLY


def takes_dropout(x: Any, p: float, key: Any) -> bool:
    return x.dtype == FLOAT32 and x.size >= COSTLY and _takes_probability(p)


def takes_dropout_mask(shape: tuple[int, ...], p: float, key: Any, dtype: Any) -> bool:
    return dtype == FLOAT32 and math.prod(shape) >= COSTLY and _takes_probability(p)


def _takes_probability(p: float) -> bool:
    return 0 < round(p * 2**32) < 2**32


def takes_optimizer(params: Any, grads: Any, *states: Any, **options: Any) -> bool:
    arrays = (a for values in (params, grads, *states) for a in values if isinstance(a, np.ndarray))   # not None, nor steps
    return all(a.dtype == FLOAT32 and a.flags.c_contiguous for a in arrays)
