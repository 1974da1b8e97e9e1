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

from minidl.kernels.cpu import engine, memory, threads
from minidl.kernels.cpu.emit import Kernel, Size

_DTYPES = {name: np.dtype(dtype) for name, dtype in
           (("float", np.float32), ("double", np.float64), ("i32", np.int32), ("i64", np.int64))}


class LaunchError(RuntimeError):
    """A launch that would have touched memory it does not own: a bug in the caller, never in a user's program."""


class Program:
    """A compiled kernel.  Call it with its parameters by name: arrays for pointers, ints for integers.

    ``written_by``: the name of the function that wrote it.
    """

    def __init__(self, kernel: Kernel, written_by: str = "") -> None:
        self.kernel, self.name, self.written_by = kernel, kernel.name, written_by
        self.address = engine.load(kernel.text(), kernel.name)[0]
        self.slots = ctypes.c_int64 * len(kernel.parameters)

    def prepare(self, **integers: int) -> Launch:
        """The kernel with its integers given; what remains are the arrays."""
        return Launch(self, integers)

    def __call__(self, *, alone: bool = False, **values: Any) -> None:
        """Run on all threads, or (``alone``, for little work) on this one.

        Raises:
            LaunchError: an array of the wrong dtype or order, or too small.
        """
        pointers = self.kernel.sizes
        launch = Launch(self, {name: value for name, value in values.items() if name not in pointers}, alone)
        launch(**{name: value for name, value in values.items() if name in pointers})


class Launch:
    """A program with its integers: what a shape needs to know is worked out once, and a call only checks and fills in arrays."""

    __slots__ = ("_program", "_template", "_pointers", "_alone")

    def __init__(self, program: Program, integers: dict[str, int], alone: bool = False) -> None:
        kernel = program.kernel
        self._program, self._alone = program, alone
        self._template = bytes(program.slots(*[integers[name] if name not in kernel.sizes else 0 for name in kernel.parameters]))
        self._pointers = [(kernel.parameters.index(name), name, _product(factors, integers), _DTYPES[element])
                          for name, (factors, element) in kernel.sizes.items()]

    def __call__(self, **arrays: np.ndarray) -> None:
        """Run on these arrays.

        Raises:
            LaunchError: an array of the wrong dtype or order, or too small.
        """
        program = self._program
        slots = program.slots.from_buffer_copy(self._template)
        for index, name, needed, dtype in self._pointers:
            array = arrays[name]
            if array.dtype is not dtype and array.dtype != dtype or not array.flags.c_contiguous:
                raise LaunchError(f"kernel {program.name}: {name} must be C-contiguous {dtype}, found {array.dtype} with strides "
                                  f"{array.strides} for shape {array.shape}")
            if array.size < needed:
                raise LaunchError(f"kernel {program.name}: {name} has {array.size} elements, the kernel touches {needed}")
            slots[index] = memory.address(array)
        threads.run(program.address, ctypes.addressof(slots), self._alone)


def _product(factors: Any, integers: dict[str, int]) -> int:
    total = 1
    for factor in factors:
        total *= integers[factor] if type(factor) is str else factor if type(factor) is int else factor(integers)
    return total


def program(build: Callable[..., Kernel]) -> Callable[..., Program]:
    """Decorator: ``build(isa, *options)`` writes a kernel; what it becomes is ``f(*options) -> Program``, compiled once."""

    @functools.cache
    def compiled(*options: Any) -> Program:
        return Program(build(engine.host_isa(), *options), build.__name__)

    functools.update_wrapper(compiled, build)
    programs[build.__name__] = build
    return compiled


programs: dict[str, Callable[..., Kernel]] = {}      # every builder by name, for the tools that list and show kernels

__all__ = ["Launch", "LaunchError", "Program", "Size", "program", "programs"]
