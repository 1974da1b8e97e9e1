"""Activations that need an exponential, and their gradients: one pass each, on all threads.

The formulas avoid what costs digits: GELU is x times the normal distribution function, which keeps its relative accuracy where
1 + erf(x) would be the difference of two numbers near 1, and its tanh form is x sigmoid(2z) for the same reason.
"""
from __future__ import annotations

import math
from typing import Any

from minidl.kernels.cpu import functions
from minidl.kernels.cpu.dispatch import takes_function, takes_function_grad, vector
from minidl.kernels.cpu.elementwise import elementwise, run
from minidl.kernels.cpu.emit import Kernel, Vector
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.launch import program

CUBIC = 0.044715                                     # of GELU's tanh form


@program
def sigmoid_kernel(isa: ISA) -> Kernel:
    """1 / (1 + e^-x)."""
    return elementwise(isa, "sigmoid", ("x",), functions.sigmoid)


@program
def sigmoid_grad_kernel(isa: ISA) -> Kernel:
    """g y (1 - y)."""
    return elementwise(isa, "sigmoid_grad", ("g", "of"), lambda k, g, y: g * y * (k.constant(1) - y))


@program
def tanh_kernel(isa: ISA) -> Kernel:
    """The hyperbolic tangent."""
    return elementwise(isa, "tanh", ("x",), functions.tanh)


@program
def silu_kernel(isa: ISA) -> Kernel:
    """x sigmoid(x)."""
    return elementwise(isa, "silu", ("x",), lambda k, x: x * functions.sigmoid(k, x))


@program
def silu_grad_kernel(isa: ISA) -> Kernel:
    """g s (1 + x (1 - s)) with s = sigmoid(x)."""
    def formula(k: Kernel, g: Vector, x: Vector) -> Vector:
        s, one = functions.sigmoid(k, x), k.constant(1)
        return g * (s * k.fma(x, one - s, one))
    return elementwise(isa, "silu_grad", ("g", "x"), formula)


@program
def gelu_kernel(isa: ISA) -> Kernel:
    """x Phi(x)."""
    return elementwise(isa, "gelu", ("x",), lambda k, x: x * functions.normal_cdf(k, x)[0])


@program
def gelu_grad_kernel(isa: ISA) -> Kernel:
    """g (Phi(x) + x phi(x)), phi the density."""
    def formula(k: Kernel, g: Vector, x: Vector) -> Vector:
        below, bell = functions.normal_cdf(k, x)
        return g * k.fma(x * k.constant(1 / math.sqrt(2 * math.pi)), bell, below)
    return elementwise(isa, "gelu_grad", ("g", "x"), formula)


@program
def gelu_tanh_kernel(isa: ISA) -> Kernel:
    """x (1 + tanh z) / 2 = x sigmoid(2z) with z = sqrt(2 / pi) (x + 0.044715 x^3)."""
    def formula(k: Kernel, x: Vector) -> Vector:
        return x * functions.sigmoid(k, _twice_z(k, x, x * x))
    return elementwise(isa, "gelu_tanh", ("x",), formula)


@program
def gelu_tanh_grad_kernel(isa: ISA) -> Kernel:
    """g (s + x s (1 - s) (2z)') with s = sigmoid(2z)."""
    def formula(k: Kernel, g: Vector, x: Vector) -> Vector:
        square = x * x
        square = k.select(square > k.constant(1e6), k.constant(1e6), square)     # an infinite slope times 0 would be NaN
        s, c = functions.sigmoid(k, _twice_z(k, x, square)), math.sqrt(8 / math.pi)
        slope = k.fma(square, k.constant(3 * CUBIC * c), k.constant(c))
        return g * k.fma(x * s * (k.constant(1) - s), slope, s)
    return elementwise(isa, "gelu_tanh_grad", ("g", "x"), formula)


def _twice_z(k: Kernel, x: Vector, square: Vector) -> Vector:
    c = math.sqrt(8 / math.pi)
    return x * k.fma(square, k.constant(CUBIC * c), k.constant(c))


@vector("sigmoid", takes_function)
def sigmoid(x: Any) -> Any:
    return run(sigmoid_kernel, ("x",), x)


@vector("sigmoid_grad", takes_function_grad)
def sigmoid_grad(gy: Any, y: Any) -> Any:
    return run(sigmoid_grad_kernel, ("g", "of"), gy, y)


@vector("tanh", takes_function)
def tanh(x: Any) -> Any:
    return run(tanh_kernel, ("x",), x)


@vector("silu", takes_function)
def silu(x: Any) -> Any:
    return run(silu_kernel, ("x",), x)


@vector("silu_grad", takes_function_grad)
def silu_grad(gy: Any, x: Any) -> Any:
    return run(silu_grad_kernel, ("g", "x"), gy, x)


@vector("gelu", takes_function)
def gelu(x: Any, approximate: str) -> Any:
    return run(gelu_tanh_kernel if approximate == "tanh" else gelu_kernel, ("x",), x)


@vector("gelu_grad", takes_function_grad)
def gelu_grad(gy: Any, x: Any, approximate: str) -> Any:
    return run(gelu_tanh_grad_kernel if approximate == "tanh" else gelu_grad_kernel, ("g", "x"), gy, x)
