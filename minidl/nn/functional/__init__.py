"""The functions behind the layers, with PyTorch's names, arguments and defaults."""
from minidl.nn.functional.activation import (
    dropout,
    dropout2d,
    elu,
    gelu,
    glu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    logsigmoid,
    mish,
    prelu,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softmin,
    softplus,
    tanh,
)
from minidl.nn.functional.attention import multi_head_attention, scaled_dot_product_attention
from minidl.nn.functional.conv import conv2d, conv_transpose2d, fold, unfold
from minidl.nn.functional.distance import cosine_similarity, pairwise_distance
from minidl.nn.functional.linear import embedding, linear, normalize, one_hot, pad
from minidl.nn.functional.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    multi_margin_loss,
    nll_loss,
    smooth_l1_loss,
)
from minidl.nn.functional.norm import batch_norm, group_norm, instance_norm, layer_norm, local_response_norm, rms_norm
from minidl.nn.functional.pool import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    interpolate,
    max_pool2d,
)
from minidl.nn.functional.rearrange import channel_shuffle, pixel_shuffle, pixel_unshuffle
from minidl.ops.softmax import log_softmax, softmax

__all__ = [
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "batch_norm", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "channel_shuffle", "conv2d", "conv_transpose2d", "cosine_similarity", "cross_entropy",
    "dropout", "dropout2d", "elu", "embedding", "fold", "gelu", "glu", "group_norm", "hardsigmoid", "hardswish", "hardtanh",
    "huber_loss", "instance_norm", "interpolate", "kl_div", "l1_loss", "layer_norm", "leaky_relu", "linear",
    "local_response_norm", "log_softmax", "logsigmoid", "max_pool2d", "mish", "mse_loss", "multi_head_attention",
    "multi_margin_loss", "nll_loss", "normalize", "one_hot", "pad", "pairwise_distance", "pixel_shuffle", "pixel_unshuffle",
    "prelu", "relu", "relu6", "rms_norm", "scaled_dot_product_attention", "selu", "sigmoid", "silu", "smooth_l1_loss",
    "softmax", "softmin", "softplus", "tanh", "unfold",
]
