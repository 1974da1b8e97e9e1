"""Layers, losses and containers, under PyTorch's names: ``from minidl import nn``."""
from minidl.nn import functional, init, utils
from minidl.nn.activation import (
    ELU,
    GELU,
    GLU,
    SELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softmin,
    Softplus,
    Tanh,
)
from minidl.nn.attention import MultiheadAttention, TransformerEncoder, TransformerEncoderLayer
from minidl.nn.containers import ModuleDict, ModuleList, ParameterList, Sequential
from minidl.nn.conv import Conv2d, ConvTranspose2d
from minidl.nn.distance import CosineSimilarity, PairwiseDistance
from minidl.nn.dropout import Dropout, Dropout2d
from minidl.nn.embedding import Embedding
from minidl.nn.linear import Identity, Linear
from minidl.nn.loss import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MSELoss,
    MultiMarginLoss,
    NLLLoss,
    SmoothL1Loss,
)
from minidl.nn.module import Module
from minidl.nn.norm import BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm2d, LayerNorm, LocalResponseNorm, RMSNorm
from minidl.nn.parameter import Buffer, Parameter
from minidl.nn.pooling import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, MaxPool2d
from minidl.nn.shape import (
    ChannelShuffle,
    CircularPad2d,
    ConstantPad2d,
    Flatten,
    PixelShuffle,
    PixelUnshuffle,
    ReflectionPad2d,
    ReplicationPad2d,
    Unflatten,
    Upsample,
    ZeroPad2d,
)
