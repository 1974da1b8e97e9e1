"""Every kernel through NVRTC for this GPU: how long it takes, and what the kernels need."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.device_suite.work import Deadline, Missing, Suite, Task
from minidl.kernels.cuda import loader, source

TINY_FILES = ["elementwise.cu"]


def tasks(suite: Suite) -> Iterator[Task]:
    capability = int(suite.device.facts()["capability"])
    for file in TINY_FILES if suite.tiny else source.files():
        for dtype in source.DTYPES:
            if source.made_for(file, dtype, capability):
                yield Task(f"{file} {dtype}", compile_of(file, dtype, f"sm_{capability}"))


def compile_of(file: str, dtype: str, arch: str) -> Callable[[Deadline], dict[str, Any]]:
    def run(_: Deadline) -> dict[str, Any]:
        try:
            from cupy_backends.cuda.libs import nvrtc

            nvrtc.getVersion()
        except Exception as error:  # an ImportError, or CuPy's own for a library that is not there
            raise Missing(f"NVRTC cannot be loaded: {error}") from None
        with tempfile.TemporaryDirectory() as folder:  # so that it is compiled, not found
            begin = time.perf_counter()
            cubin = loader.compile_cubin(file, arch, source.defines(dtype), Path(folder))
            seconds = time.perf_counter() - begin
            size = cubin.path.stat().st_size
        kernels = {name: needs._asdict() for name, needs in cubin.resources.items()}
        return {"arch": arch, "seconds": round(seconds, 3), "bytes": size, "kernels": kernels}

    return run
