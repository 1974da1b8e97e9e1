"""Every net a second time, in PyTorch, from the same source.

minidl's nets are written with nothing but names that PyTorch has as well. So their source files run again here with
torch.nn in the place of minidl.nn: the twin has the same state dict, and must give the same numbers.
"""
from __future__ import annotations

import builtins
import contextlib
import importlib.util
from collections import OrderedDict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import minidl
from minidl import models


class Twins:
    """Builds nets out of PyTorch's layers: ``Twins(torch).create("resnet20", num_classes=10)``.

    ``inplace``: ReLUs and residual sums overwrite their input, as in torchvision's nets: less memory, and faster.
    """

    def __init__(self, torch, inplace=False):
        self.torch = torch
        self.builders = {}
        self._modules = {}
        init = SimpleNamespace(**vars(torch.nn.init), skip_init=contextlib.nullcontext)
        nn = SimpleNamespace(**{name: getattr(torch.nn, name) for name in dir(torch.nn) if name != "init"})
        nn.init = init
        # PyTorch's Sequential takes named layers in an OrderedDict only.
        nn.Sequential = lambda *layers: torch.nn.Sequential(
            *(OrderedDict(layer) if isinstance(layer, dict) else layer for layer in layers)
        )

        class BatchNorm2d(torch.nn.BatchNorm2d):
            """PyTorch's, with the end of a residual block that ours can compute in the same pass."""

            def forward(self, x, *, relu=False, residual=None):
                y = super().forward(x)
                if residual is not None:
                    y = y.add_(residual) if inplace else y + residual
                return functional.relu(y) if relu else y

        class ReLU(torch.nn.ReLU):
            def __init__(self):
                super().__init__(inplace)

        functional = SimpleNamespace(**vars(torch.nn.functional))
        functional.relu = torch.relu_ if inplace else torch.relu
        nn.BatchNorm2d, nn.ReLU = BatchNorm2d, ReLU
        self._replacements = {
            "minidl": SimpleNamespace(nn=nn),
            "minidl.nn": SimpleNamespace(functional=functional, init=init),
            "minidl.tensor": SimpleNamespace(Tensor=torch.Tensor),
            "minidl.ops.creation": torch,
            "minidl.ops.shape": torch,
            "minidl.models.registry": SimpleNamespace(register=self._register),
        }
        for module in vars(models).values():
            if isinstance(module, ModuleType) and not module.__name__.endswith(("registry", "weights")):
                self.module(module.__name__)

    def _register(self, name, **facts):
        def add(build):
            self.builders[name] = build
            return build

        return add

    def module(self, name):
        """The module ``name`` of minidl.models, run with PyTorch's layers."""
        if name not in self._modules:
            module = self._modules[name] = ModuleType(name)
            module.__builtins__ = {**vars(builtins), "__import__": self._import}
            path = Path(importlib.util.find_spec(name).origin)
            exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
        return self._modules[name]

    def _import(self, name, globals=None, locals=None, fromlist=(), level=0):
        if name in self._replacements:
            return self._replacements[name]
        if name.startswith("minidl.models.") and not name.endswith(".weights"):
            return self.module(name)
        return builtins.__import__(name, globals, locals, fromlist, level)

    def create(self, name, **options):
        """The twin of ``models.create(name, **options)``."""
        return self.builders[name](**options)

    def of(self, model, name, **options):
        """The twin of ``model``, sharing its parameters' memory; nothing is drawn or copied."""
        torch = self.torch
        with torch.device("meta"):
            twin = self.create(name, **options)
        state = {key: torch.from_numpy(value.numpy()) for key, value in model.state_dict().items()}
        twin.load_state_dict(state, assign=True)
        return twin.train(model.training)


def randomise(model):
    """Give ``model`` a random state: parameters that keep the size of what they pass on, statistics of a trained net."""
    with minidl.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if name.endswith("running_var"):
                tensor.copy_(minidl.rand(*tensor.shape) + 0.5)
            elif tensor.ndim > 1:
                tensor.copy_(minidl.randn(*tensor.shape) * (1.5 / tensor[0].numel() ** 0.5))
            elif tensor.is_floating_point():
                scale = 1.0 if name.endswith("weight") else 0.0  # of a norm
                tensor.copy_(minidl.randn(*tensor.shape) * 0.1 + scale)
    return model
