"""Nets by name: ``models.create("resnet20")``, ``models.list_models()``."""
from minidl.models import (
    alexnet,
    convnetjs,
    lenet,
    mlp,
    overfeat,
    preact,
    resnet,
    resnet_cifar,
    smallconv,
    speednet,
    squeezenet,
    stack,
    vgg,
    vit,
)
from minidl.models.registry import ModelInfo, create, fitting_models, list_models, model_info, register
from minidl.models.weights import Weights
