"""Launches of activation.cu: the activations that need an exponential, and their gradients."""
from typing import Any

from minidl.kernels.cuda.elementwise import naive, register, run, takes
from minidl.kernels.cuda.launch import Array, cuda

FILE = "activation.cu"

for _verb in ("sigmoid", "sigmoid_grad", "silu", "silu_grad"):
    register(FILE, _verb, _verb)
register(FILE, "tanh", "tanh_packed")                # "tanh" is the C library's


def _form(approximate: str, grad: str = "") -> str:
    return f"gelu_tanh{grad}" if approximate == "tanh" else f"gelu{grad}"


@cuda("gelu", "naive", lambda x, approximate: takes(x))
def gelu_naive(gpu: Any, x: Array, approximate: str) -> Array:
    return run(gpu, FILE, naive(_form(approximate)), x)


@cuda("gelu", "cuda", lambda x, approximate: takes(x))
def gelu(gpu: Any, x: Array, approximate: str) -> Array:
    return run(gpu, FILE, _form(approximate), x)


@cuda("gelu_grad", "naive", lambda gy, x, approximate: takes(gy, x))
def gelu_grad_naive(gpu: Any, gy: Array, x: Array, approximate: str) -> Array:
    return run(gpu, FILE, naive(_form(approximate, "_grad")), gy, x)


@cuda("gelu_grad", "cuda", lambda gy, x, approximate: takes(gy, x))
def gelu_grad(gpu: Any, gy: Array, x: Array, approximate: str) -> Array:
    return run(gpu, FILE, _form(approximate, "_grad"), gy, x)
