"""Define-by-run automatic differentiation: nodes, the engine that walks them, and the tools that look at them."""
from typing import Any

from minidl.autograd.anomaly import detect_anomaly
from minidl.autograd.checkpoint import checkpoint
from minidl.autograd.engine import backward, grad
from minidl.autograd.function import Function
from minidl.autograd.grad_mode import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from minidl.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from minidl.autograd.graph import explain, to_dot
from minidl.autograd.node import stamp as _stamp

__all__ = ["Function", "GradcheckError", "backward", "checkpoint", "detect_anomaly", "enable_grad", "explain", "grad",
           "gradcheck", "gradgradcheck", "increment_version", "inference_mode", "is_grad_enabled", "no_grad",
           "set_grad_enabled", "to_dot"]


def increment_version(*tensors: Any) -> None:
    """Say that the memory of these tensors was written to directly, so that a backward pass that needs what was there raises."""
    for t in tensors:
        if isinstance(t, (list, tuple)):
            increment_version(*t)
        else:
            _stamp(t.data, t.F)

