"""Resident memory of this process, as Linux counts it: bytes, or 0 where it cannot be read."""

from __future__ import annotations

from contextlib import suppress


def _status(field: str) -> int:
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(field):
                return 1024 * int(line.split()[1])
    return 0


def resident() -> int:
    """Bytes in memory now."""
    return _status("VmRSS:")


def peak() -> int:
    """The most bytes that were in memory since the process began or since ``forget_peak()``."""
    return _status("VmHWM:")


def forget_peak() -> None:
    """Count the peak from now on."""
    with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
