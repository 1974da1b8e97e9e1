"""Kernels: arrays in, arrays out.  They know hardware, not calculus, and never see a Tensor.

A *verb* names what is computed (``conv2d``), its *contract* says exactly what goes in and comes out, and its *variants* are
the ways of computing it.  See the README beside this file.

    >>> from minidl import kernels
    >>> with kernels.use(conv2d="reference"):
    ...     conv2d = kernels.lookup("conv2d", "cpu")
"""
if __name__ != "minidl.kernels":
    # Imported under a second name there would be two registries, and a choice made in one would be ignored by the other.
    raise ImportError(
        f"this package is minidl.kernels, but it is being imported as {__name__!r}; write `from minidl import kernels`"
    )

from minidl.kernels.contract import KernelSpec, spec, verbs
from minidl.kernels.registry import lookup, refresh, register, use, variants

__all__ = ["KernelSpec", "lookup", "refresh", "register", "spec", "use", "variants", "verbs"]
