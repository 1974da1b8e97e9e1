"""A kernel as a Python function of arrays and integers.

Machine code checks nothing, so every launch does: each pointer parameter gets a C-contiguous array of the declared element
type with at least the declared number of elements.
"""
from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.kernels.cpu import engine, threads
from minidl.kernels.cpu.emit import Kernel, Size

_DTYPES = {name: np.dtype(dtype) for name, dtype in
           (("float", np.float32), ("double", np.float64), ("i32", np.int32), ("i64", np.int64))}


class LaunchError(RuntimeError):
    """A launch that would have touched memory it does not own: a bug in the caller, never in a user's program."""


class Program:
    """A compiled kernel.  Call it with its parameters by name: arrays for pointers, ints for integers."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.name = kernel, kernel.name
        self.parameters = tuple(kernel.parameters)
        self._pointers = [(name, factors, _DTYPES[element]) for name, (factors, element) in kernel.sizes.items()]
        self._slots = ctypes.c_int64 * len(self.parameters)
        self._address = engine.load(kernel.text(), kernel.name)[0]

    def __call__(self, *, alone: bool = False, **values: Any) -> None:
        """Run on all threads, or (``alone``, for little work) on this one.

        Raises:
            LaunchError: an array of the wrong dtype or order, or too small.
        """
        for name, factors, dtype in self._pointers:
            array = values[name]
            if array.dtype != dtype or not array.flags.c_contiguous:
                raise LaunchError(f"kernel {self.name}: {name} must be C-contiguous {dtype}, found {array.dtype} with strides "
                                  f"{array.strides} for shape {array.shape}")
            if array.size < (needed := _product(factors, values)):
                raise LaunchError(f"kernel {self.name}: {name} has {array.size} elements, the kernel touches {needed}")
        slots = self._slots(*[v if type(v := values[name]) is int else v.ctypes.data for name in self.parameters])
        threads.run(self._address, ctypes.addressof(slots), alone)


def _product(factors: Any, values: dict[str, Any]) -> int:
    total = 1
    for factor in factors:
        total *= values[factor] if type(factor) is str else factor if type(factor) is int else factor(values)
    return total


def program(build: Callable[..., Kernel]) -> Callable[..., Program]:
    """Decorator: ``build(isa, *options)`` writes a kernel; what it becomes is ``f(*options) -> Program``, compiled once."""

    @functools.cache
    def compiled(*options: Any) -> Program:
        return Program(build(engine.host_isa(), *options))

    functools.update_wrapper(compiled, build)
    programs[build.__name__] = build
    return compiled


programs: dict[str, Callable[..., Kernel]] = {}      # every builder by name, for the tools that list and show kernels

__all__ = ["LaunchError", "Program", "Size", "program", "programs"]
