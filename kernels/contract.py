"""What every kernel promises: one KernelSpec per verb.

The tests draw inputs from these specs and hold every variant to them.  Rules that hold for all verbs:

- arrays in, arrays out; any strides (sliced, transposed, negative, channels-last) and an empty batch are accepted;
- inputs are never written, except by verbs whose name ends in ``_``, which write the arrays that their spec lists;
- results have the dtype of the first array unless the spec says otherwise, and are fresh arrays that the caller owns;
- float16 and bfloat16 (ml_dtypes') are computed in float32 and rounded once at the end; batch norm also takes float32
  parameters beside 16-bit images, and their gradients are then float32;
- results keep the shape but may hold their elements in another order: (N, C, H, W) over channels-last memory;
- ``precision`` of a convolution is "fast" (transforms that reorder its sums are allowed, within the tolerance below) or
  "direct" (every output is one sum of products); "tf32" on a GPU is "fast", and float32 factors may be rounded to 10 bits,
  beyond the tolerance below.  Variants that know one way only ignore it.
"""
import difflib
from typing import NamedTuple

from minidl.errors import ConfigError


class Tolerance(NamedTuple):
    """``|got - oracle| <= atol + rtol * |oracle|``, for inputs of order one."""

    rtol: float
    atol: float
    reason: str


EXACT = {
    dtype: Tolerance(0.0, 0.0, "the same values are moved, compared or drawn, none is rounded")
    for dtype in ("float16", "float32", "float64")
}
SUMS = {
    "float16": Tolerance(2e-3, 2e-3, "float16 keeps 11 bits (half an ulp is 4.9e-4); computed in float32, rounded at the end"),
    "float32": Tolerance(2e-5, 2e-5, "sums of up to some thousand terms of order one in another order: sqrt(n) * 6e-8"),
    "float64": Tolerance(1e-12, 1e-12, "as float32, with an ulp of 1.1e-16, plus the cancellation of centred sums"),
}
CONVOLUTIONS = {
    "float16": SUMS["float16"],
    "float32": Tolerance(4e-5, 4e-5, "as sums; Winograd's transforms (\"fast\") lose two to three bits"),
    "float64": SUMS["float64"],
}
POINTWISE = {
    "float16": Tolerance(2e-3, 2e-3, "rounded once from float32"),
    "float32": Tolerance(4e-6, 4e-6, "a handful of roundings, and exp/log/pow within 4 ulp"),
    "float64": Tolerance(1e-13, 1e-13, "a handful of roundings"),
}


class KernelSpec(NamedTuple):
    """The contract of one verb.

    Attributes:
        verb: the name at every level, from here to the Function.
        family: the module that holds it in each package of kernels.
        signature: arguments and results with their shapes; ``geom`` is a tuple of minidl.ops.geometry.
        formula: what is computed.
        accumulate: the dtype of sums.
        tolerance: by dtype, against the oracle.
        deterministic: the same bits from the same inputs, whatever the number of threads.
        oracle: what the reference variant itself is checked against.
    """

    verb: str
    family: str
    signature: str
    formula: str
    accumulate: str
    tolerance: dict[str, Tolerance]
    oracle: str
    deterministic: bool = True


_OWN = "the dtype itself, float32 for float16"
_WIDE = "the dtype itself, float32 for float16; float32 sums over many elements are NumPy's pairwise sums or BLAS dots"

_CONV = "scipy.signal.correlate2d per channel pair; torch.nn.functional.conv2d and its gradients where torch is installed"
_POOL = "torch.nn.functional where torch is installed; hand-worked examples"
_NORM = "torch.nn.functional where torch is installed; a float64 evaluation of the formula"
_LOSS = "torch.nn.functional.cross_entropy where torch is installed; a float64 evaluation of the formula"
_FUNCTION = "scipy.special in float64"
_ATTENTION = "torch.nn.functional.scaled_dot_product_attention where torch is installed"
_OPTIM = "torch.optim, step by step, where torch is installed"
_RANDOM = "the known-answer vectors published with Random123"

_SPECS = (
    KernelSpec("relu", "elementwise", "(x) -> y", "max(x, 0); NaN stays NaN", "none", EXACT, "a loop"),
    KernelSpec("relu_grad", "elementwise", "(gy, y) -> gx, all of one shape", "gy where y > 0, else 0", "none", EXACT, "a loop"),
    KernelSpec("tanh_grad", "elementwise", "(gy, y) -> gx, all of one shape", "gy * (1 - y^2), y being tanh(x)", "none",
               POINTWISE, "a loop"),
    KernelSpec("add", "elementwise", "(a, b) -> y, all of one shape", "a + b", "none", EXACT, "a loop"),
    KernelSpec("add_bias_", "elementwise", "(y (...,N), b (N,))", "y += b", "none", EXACT, "a loop"),
    KernelSpec("channel_sum", "sums", "(x (N,C,...)) -> y (C,)", "the sum over every axis but 1: the gradient of a bias", _WIDE,
               SUMS, "math.fsum"),
    KernelSpec("sigmoid", "activation", "(x) -> y", "1 / (1 + exp(-x))", "none", POINTWISE, _FUNCTION),
    KernelSpec("sigmoid_grad", "activation", "(gy, y) -> gx, all of one shape", "gy * y * (1 - y)", "none", POINTWISE, _FUNCTION),
    KernelSpec("tanh", "activation", "(x) -> y", "tanh(x)", "none", POINTWISE, _FUNCTION),
    KernelSpec("silu", "activation", "(x) -> y", "x * sigmoid(x)", "none", POINTWISE, _FUNCTION),
    KernelSpec("silu_grad", "activation", "(gy, x) -> gx, all of one shape", "gy * s * (1 + x * (1 - s)), s = sigmoid(x)", "none",
               POINTWISE, _FUNCTION),
    KernelSpec("gelu", "activation", "(x, approximate=\"none\" | \"tanh\") -> y",
               "x * Phi(x), Phi the normal distribution; or x/2 * (1 + tanh(z)), z = sqrt(2/pi) * (x + 0.044715 x^3)", "none",
               POINTWISE, _FUNCTION),
    KernelSpec("gelu_grad", "activation", "(gy, x, approximate) -> gx, all of one shape", "gy times the derivative of gelu at x",
               "none", POINTWISE, _FUNCTION),
    KernelSpec("conv2d", "conv", "(x (N,C,H,W), w (O,C/groups,kh,kw), b (O,) | None, geom, precision=\"fast\", relu=False)"
               " -> y (N,O,oh,ow)",
               "y[n,o,i,j] = b[o] + sum_cuv w[o,c,u,v] xpad[n,c,i*sh+u*dh,j*sw+v*dw]: cross-correlation;"
               " with relu max(y, 0), in the same pass",
               _WIDE, CONVOLUTIONS, _CONV),
    KernelSpec("conv2d_input_grad", "conv", "(gy (N,O,oh,ow), w, geom, precision=\"fast\") -> gx (N,C,H,W)",
               "the transpose of x -> conv2d(x, w), which is also the transposed convolution", _WIDE, CONVOLUTIONS, _CONV),
    KernelSpec("conv2d_weight_grad", "conv", "(gy (N,O,oh,ow), x (N,C,H,W), geom, precision=\"fast\") -> gw (O,C/groups,kh,kw)",
               "the transpose of w -> conv2d(x, w)", _WIDE, CONVOLUTIONS, _CONV),
    KernelSpec("im2col", "conv", "(x (N,C,H,W), geom) -> cols (N, C*kh*kw, oh*ow)",
               "every window as a column; rows ordered channel, kernel row, kernel column", "none", EXACT, _CONV),
    KernelSpec("col2im", "conv", "(cols (N, C*kh*kw, oh*ow), geom) -> x (N,C,H,W)",
               "the transpose of im2col: overlapping windows add up", _OWN, SUMS, _CONV),
    KernelSpec("max_pool2d", "pool", "(x (N,C,H,W), geom) -> (y (N,C,oh,ow), indices int64 (N,C,oh,ow))",
               "the largest of each window, padding never wins; its flat index into H*W; the first maximum in row order wins,"
               " and the first NaN beats everything", "none", EXACT, _POOL),
    KernelSpec("max_pool2d_grad", "pool", "(gy (N,C,oh,ow), indices, geom) -> gx (N,C,H,W)",
               "gy scattered to indices, each within its window, added where windows overlap", _OWN, SUMS, _POOL),
    KernelSpec("max_pool2d_take", "pool", "(x (N,C,H,W), indices (N,C,oh,ow), geom) -> y (N,C,oh,ow)",
               "x gathered at indices; geom is not read and may be None", "none", EXACT, _POOL),
    KernelSpec("avg_pool2d", "pool", "(x (N,C,H,W), geom, count_include_pad=True) -> y (N,C,oh,ow)",
               "window sum / window size, clipped to the padded input or, without count_include_pad, to the input",
               _OWN, SUMS, _POOL),
    KernelSpec("avg_pool2d_grad", "pool", "(gy (N,C,oh,ow), geom, count_include_pad=True) -> gx (N,C,H,W)",
               "the transpose of avg_pool2d", _OWN, SUMS, _POOL),
    KernelSpec("adaptive_avg_pool2d", "pool", "(x (N,C,H,W), out_hw) -> y (N,C,oh,ow)",
               "mean over rows floor(i*H/oh) to ceil((i+1)*H/oh), columns likewise", _OWN, SUMS, _POOL),
    KernelSpec("adaptive_avg_pool2d_grad", "pool", "(gy (N,C,oh,ow), in_hw) -> gx (N,C,H,W)",
               "the transpose of adaptive_avg_pool2d", _OWN, SUMS, _POOL),
    KernelSpec("adaptive_max_pool2d", "pool", "(x (N,C,H,W), out_hw) -> (y, indices int64), both (N,C,oh,ow)",
               "as max_pool2d, over the windows of adaptive_avg_pool2d", "none", EXACT, _POOL),
    KernelSpec("adaptive_max_pool2d_grad", "pool", "(gy (N,C,oh,ow), indices, in_hw) -> gx (N,C,H,W)",
               "gy scattered to indices, each within its window, added where windows overlap", _OWN, SUMS, _POOL),
    KernelSpec("batch_norm", "norm", "(x (N,C,...), w (C,)|None, b (C,)|None, eps) -> (y, mean (C,), invstd (C,))",
               "y = (x-mean)*invstd*w + b over all axes but 1; biased variance; mean, invstd float32 for float16 x",
               _WIDE, SUMS, _NORM),
    KernelSpec("batch_norm_grad", "norm", "(gy, x, w, mean, invstd) -> (gx, gw (C,), gb (C,))",
               "gx = w*invstd*(gy - mean(gy) - xhat*mean(gy*xhat)); gw = sum(gy*xhat); gb = sum(gy)", _WIDE, SUMS, _NORM),
    KernelSpec("batch_norm_relu", "norm",
               "(x (N,C,...), w (C,)|None, b (C,)|None, residual (as x)|None, eps) -> (y, mean (C,), invstd (C,))",
               "y = max(batch_norm(x, w, b) + residual, 0), in one pass", _WIDE, SUMS, _NORM),
    KernelSpec("batch_norm_relu_grad", "norm", "(gy, x, w, b, y, mean, invstd, residual: bool) -> (gx, gw (C,), gb (C,)[, g])",
               "g = gy where y > 0; gx, gw, gb = batch_norm_grad(g, x, ...); with a residual also g, its gradient",
               _WIDE, SUMS, _NORM),
    KernelSpec("batch_norm_inference", "norm", "(x (N,C,...), w, b, mean (C,), var (C,), eps) -> y",
               "(x-mean)/sqrt(var+eps)*w + b with given statistics", _OWN, SUMS, _NORM),
    KernelSpec("batch_norm_relu_inference", "norm", "(x (N,C,...), w, b, mean (C,), var (C,), residual (as x)|None, eps) -> y",
               "y = max(batch_norm_inference(x, w, b, mean, var) + residual, 0), in one pass", _OWN, SUMS, _NORM),
    KernelSpec("running_stats_", "norm",
               "(running_mean (C,), running_var (C,), mean (C,), invstd (C,), *, count, momentum, eps, unbiased)",
               "both move by momentum towards mean and var = max(1/invstd^2 - eps, 0), times count/(count-1) if unbiased", _OWN,
               SUMS, "torch.nn.functional.batch_norm where torch is installed"),
    KernelSpec("layer_norm", "norm", "(x (*outer,*inner), w (inner)|None, b|None, ndim, eps) -> (y, mean, invstd)",
               "normalised over the last ndim axes; mean and invstd have shape (*outer, 1, ...)", _WIDE, SUMS, _NORM),
    KernelSpec("layer_norm_grad", "norm", "(gy, x, w, mean, invstd, ndim) -> (gx, gw (inner), gb (inner))",
               "as batch_norm_grad, over the last ndim axes", _WIDE, SUMS, _NORM),
    KernelSpec("group_norm", "norm", "(x (N,C,...), w (C,)|None, b|None, groups, eps) -> (y, mean, invstd (N,groups))",
               "normalised over each group of C/groups channels of each sample", _WIDE, SUMS, _NORM),
    KernelSpec("group_norm_grad", "norm", "(gy, x, w, mean, invstd, groups) -> (gx, gw (C,), gb (C,))",
               "as batch_norm_grad, over groups", _WIDE, SUMS, _NORM),
    KernelSpec("local_response_norm", "norm", "(x (N,C,...), size, alpha, beta, k) -> y",
               "x / (k + alpha/size * sum of x^2 over channels c-size//2 .. c+(size-1)//2)^beta, as torch divides by size",
               _OWN, SUMS, _NORM),
    KernelSpec("local_response_norm_grad", "norm", "(gy, x, size, alpha, beta, k) -> gx",
               "the transpose of its derivative at x", _OWN, SUMS, _NORM),
    KernelSpec("softmax", "softmax", "(x, axis) -> y", "exp(x - max) / sum(exp(x - max))", _OWN, POINTWISE, _LOSS),
    KernelSpec("softmax_grad", "softmax", "(gy, y, axis) -> gx", "y * (gy - sum(gy*y))", _OWN, SUMS, _LOSS),
    KernelSpec("log_softmax", "softmax", "(x, axis) -> y", "x - max - log(sum(exp(x - max)))", _OWN, POINTWISE, _LOSS),
    KernelSpec("log_softmax_grad", "softmax", "(gy, y, axis) -> gx", "gy - exp(y) * sum(gy)", _OWN, SUMS, _LOSS),
    KernelSpec("softmax_cross_entropy", "loss",
               "(logits (M,C), labels (M,), weight (C,)|None, ignore_index, label_smoothing)"
               " -> (losses (M,), sample_weights (M,))",
               "-(1-e)*weight[t]*logp[t] - e/C * sum_c weight[c]*logp[c], 0 where t == ignore_index;"
               " sample_weights = weight[t] or 0: the mean is sum(losses)/sum(sample_weights)",
               _OWN, SUMS, _LOSS),
    KernelSpec("softmax_cross_entropy_grad", "loss",
               "(g (M,), logits (M,C), labels (M,), weight, ignore_index, label_smoothing) -> glogits (M,C)",
               "g * (softmax*((1-e)*weight[t] + e/C*sum(weight)) - (1-e)*weight[t]*onehot - e/C*weight)", _OWN, SUMS, _LOSS),
    KernelSpec("nll_loss", "loss",
               "(logp (M,C), labels (M,), weight (C,)|None, ignore_index) -> (losses (M,), sample_weights (M,))",
               "-weight[t] * logp[t], 0 where t == ignore_index", "none", POINTWISE, _LOSS),
    KernelSpec("nll_loss_grad", "loss", "(g (M,), labels (M,), num_classes, weight, ignore_index) -> glogp (M,C)",
               "-weight[t] * g at t, else 0", "none", POINTWISE, _LOSS),
    KernelSpec("philox_bits", "philox", "(seed, offset, n) -> uint32 (n,)",
               "word i is word i%4 of Philox4x32-10 at counter (i//4 low, high, offset low, high) under key (seed low, high)",
               "none", EXACT, _RANDOM),
    KernelSpec("philox_uniform", "philox", "(shape, key=(seed, offset), dtype) -> y in [0, 1)",
               "the top 24 bits of a word (float32), 11 (float16), or 53 of two words (float64), times a power of two",
               "none", EXACT, _RANDOM),
    KernelSpec("philox_normal", "philox", "(shape, key=(seed, offset), dtype) -> y",
               "Box and Muller 1958: from uniforms u, v: sqrt(-2 log(1-u)) * (cos, sin)(2 pi v)", _OWN, POINTWISE, _RANDOM),
    KernelSpec("dropout", "dropout", "(x, p, key=(seed, offset)) -> y",
               "x * mask / (1-p); element i in row order is kept where Philox word i >= p * 2^32", "none", POINTWISE, _RANDOM),
    KernelSpec("dropout_mask", "dropout", "(shape, p, key, dtype) -> mask",
               "what dropout multiplies by: 0 or 1/(1-p)", "none", EXACT, _RANDOM),
    KernelSpec("attention", "attention", "(q (...,L,E), k (...,S,E), v (...,S,V), scale) -> (y (...,L,V), kept)",
               "weights = softmax(scale * q k'); y = weights v; kept: weights (...,L,S), or from a kernel that never writes them"
               " log_sums (...,L) = log(sum(exp(scale * q k'))), in float32 for float16", _WIDE, SUMS, _ATTENTION),
    KernelSpec("attention_grad", "attention", "(gy (...,L,V), q, k, v, kept, scale) -> (gq, gk, gv)",
               "gv = weights' gy; gs = scale * softmax_grad(gy v', weights); gq = gs k; gk = gs' q; weights are kept, or"
               " exp(scale * q k' - log_sums)", _WIDE, SUMS, _ATTENTION),
    KernelSpec("embedding", "embedding", "(weight (V,D), indices int (...)) -> y (...,D)", "rows of weight", "none", EXACT,
               "a loop"),
    KernelSpec("embedding_grad", "embedding", "(gy (...,D), indices int (...), num) -> gweight (num,D)",
               "gy added into the rows it came from, those of one index in their order", _OWN, SUMS, "a loop"),
    KernelSpec("add_at_", "embedding", "(x, index, values, which broadcast to x[index]); index as in x[index]",
               "x[index] += values, where an element that is meant several times gets all of its values, in their order", _OWN,
               SUMS, "a loop"),
    KernelSpec("sgd_", "optim",
               "(params, grads, buffers, *, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False, maximize=False)",
               "g += weight_decay*p; v = momentum*v + (1-dampening)*g (first v = g); p -= lr*(g + momentum*v | v | g);"
               " buffers[i] is None before its first step and is filled", _OWN, SUMS, _OPTIM),
    KernelSpec("adam_", "optim",
               "(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, *, lr, beta1, beta2, eps, weight_decay=0,"
               " amsgrad=False, maximize=False)",
               "m = m + (g-m)(1-beta1); v = beta2 v + (1-beta2) g^2; p -= lr/(1-beta1^t) * m / (sqrt(v)/sqrt(1-beta2^t) + eps);"
               " steps: t of each parameter, counted from 1", _OWN, SUMS, _OPTIM),
    KernelSpec("adamw_", "optim", "as adam_", "as adam_, with p *= 1 - lr*weight_decay instead of g += weight_decay*p", _OWN,
               SUMS, _OPTIM),
    KernelSpec("rmsprop_", "optim",
               "(params, grads, square_avgs, grad_avgs, buffers, *, lr, alpha, eps, weight_decay=0, momentum=0,"
               " centered=False, maximize=False)",
               "v = alpha v + (1-alpha) g^2; d = g / (sqrt(v - gbar^2 if centered else v) + eps); p -= lr*(momentum buffer | d)",
               _OWN, SUMS, _OPTIM),
    KernelSpec("adagrad_", "optim",
               "(params, grads, state_sums, steps, *, lr, lr_decay=0, weight_decay=0, eps=1e-10, maximize=False)",
               "s += g^2; p -= lr/(1 + (t-1) lr_decay) * g / (sqrt(s) + eps)", _OWN, SUMS, _OPTIM),
    KernelSpec("adadelta_", "optim",
               "(params, grads, square_avgs, acc_deltas, *, lr=1, rho=0.9, eps=1e-6, weight_decay=0, maximize=False)",
               "v = rho v + (1-rho) g^2; d = sqrt(u+eps)/sqrt(v+eps) * g; u = rho u + (1-rho) d^2; p -= lr*d",
               _OWN, SUMS, _OPTIM),
    KernelSpec("ema_", "lists", "(averages, values, *, decay): lists of arrays", "a = decay * a + (1 - decay) * v", _OWN,
               POINTWISE, "a loop"),
    KernelSpec("scale_", "lists", "(arrays, *, factor)", "a *= factor", "none", POINTWISE, "a loop"),
    KernelSpec("square_sum", "lists", "(arrays) -> y (), in float32 for float16",
               "the sum of the squares of all numbers of all arrays", _WIDE, SUMS, "math.fsum"),
)

_BY_VERB = {entry.verb: entry for entry in _SPECS}


def verbs() -> tuple[str, ...]:
    """Every verb that has a contract."""
    return tuple(_BY_VERB)


def spec(verb: str) -> KernelSpec:
    """The contract of ``verb``; a ConfigError that lists the verbs if there is none."""
    found = _BY_VERB.get(verb)
    if found is None:
        close = difflib.get_close_matches(verb, _BY_VERB, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"no kernel verb {verb!r}; {hint}verbs: {', '.join(sorted(_BY_VERB))}")
    return found


def declare(entry: KernelSpec) -> KernelSpec:
    """Add a contract, so that kernels of a new verb can be registered.  A second contract for a verb is a ConfigError."""
    if entry.verb in _BY_VERB and _BY_VERB[entry.verb] != entry:
        raise ConfigError(f"kernel verb {entry.verb!r} already has a contract")
    _BY_VERB[entry.verb] = entry
    return entry
