"""Nets by name: ``models.create("resnet20")``, ``models.list_models()``."""
from minidl.models import convnetjs, lenet, mlp, resnet_cifar, smallconv, stack
from minidl.models.registry import ModelInfo, create, list_models, model_info, register
