"""The functions behind the layers, with PyTorch's names, arguments and defaults."""
from minidl.nn.functional.activation import (
    dropout,
    dropout2d,
    elu,
    gelu,
    leaky_relu,
    relu,
    sigmoid,
    silu,
    softmin,
    softplus,
    tanh,
)
from minidl.nn.functional.attention import multi_head_attention, scaled_dot_product_attention
from minidl.nn.functional.conv import conv2d, conv_transpose2d, fold, unfold
from minidl.nn.functional.linear import embedding, linear, normalize, one_hot, pad
from minidl.nn.functional.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    l1_loss,
    mse_loss,
    multi_margin_loss,
    nll_loss,
    smooth_l1_loss,
)
from minidl.nn.functional.norm import batch_norm, group_norm, instance_norm, layer_norm, local_response_norm
from minidl.nn.functional.pool import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    interpolate,
    max_pool2d,
)
from minidl.ops.softmax import log_softmax, softmax

__all__ = [
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "batch_norm", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "conv2d", "conv_transpose2d", "cross_entropy", "dropout", "dropout2d", "elu", "embedding",
    "fold", "gelu", "group_norm", "huber_loss", "instance_norm", "interpolate", "l1_loss", "layer_norm", "leaky_relu", "linear",
    "local_response_norm", "log_softmax", "max_pool2d", "mse_loss", "multi_head_attention", "multi_margin_loss", "nll_loss",
    "normalize", "one_hot", "pad", "relu", "scaled_dot_product_attention", "sigmoid", "silu", "smooth_l1_loss", "softmax",
    "softmin", "softplus", "tanh", "unfold",
]
