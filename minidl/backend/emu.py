"""The CUDA emulator as a device: NumPy arrays, and the launch code and kernels of the CUDA backend.

It is for tests, and the emulator itself is among them (tests/cuda_emulator): this class only sends the verbs there.
"""
from __future__ import annotations

from typing import Any

from minidl.backend.cpu import CPU
from minidl.backend.cuda import LaunchedVerbs


class Emu(LaunchedVerbs, CPU):  # type: ignore[misc] # the same verbs; LaunchedVerbs' come first
    """Verbs on NumPy arrays, computed by CUDA kernels where there is one."""

    def __init__(self) -> None:
        super().__init__("emu")
        self.add = self.launched_add
        self.tanh = self.launched_tanh

    def asarray(self, value: Any, dtype: Any = None) -> Any:
        return self.xp.array(value, dtype)           # a device shares no memory with the host

    def to_host(self, x: Any) -> Any:
        return x.copy()

    def add_into(self, x: Any, value: Any) -> Any:
        return self.add(x, value)
