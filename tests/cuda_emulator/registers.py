"""What NVRTC makes of every kernel: registers and spills, by architecture and dtype.

``python -m tests.cuda_emulator.registers`` compiles all and rewrites registers.json, the ceilings that test_nvrtc.py holds
them to.  It needs NVRTC (pip install 'minidl[cuda13]') and no GPU.
"""
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from minidl.kernels.cuda import loader, source

TABLE = Path(__file__).with_name("registers.json")
# Every architecture in the two widths that differ most, every dtype on one.
BUILDS = [(arch, dtype) for arch in loader.ARCHITECTURES for dtype in ("float32", "float16")]
BUILDS += [("sm_90", "float64"), ("sm_90", "bfloat16")]


def compiled(folder: Path) -> Iterator[tuple[str, str, str, dict[str, loader.Resources]]]:
    """(file, architecture, dtype, resources of its kernels) for every build that the file is made for."""
    jobs = [(file, arch, dtype) for file in source.files() for arch, dtype in BUILDS
            if source.made_for(file, dtype, int(re.sub(r"\D", "", arch)))]  # fmt: skip

    def build(job):
        file, arch, dtype = job
        return *job, loader.compile_cubin(file, arch, source.defines(dtype), folder).resources

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(build, jobs)


def ceilings(folder: Path) -> dict[str, dict[str, int]]:
    """The most registers that each kernel takes anywhere."""
    table: dict[str, dict[str, int]] = {}
    for file, _, _, resources in compiled(folder):
        row = table.setdefault(file, {})
        for kernel, needs in resources.items():
            row[kernel] = max(row.get(kernel, 0), needs.registers)
    return table


if __name__ == "__main__":
    TABLE.write_text(json.dumps(ceilings(loader.cache_folder()), indent=1, sort_keys=True) + "\n", encoding="utf-8")
