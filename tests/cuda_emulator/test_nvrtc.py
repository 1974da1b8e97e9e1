"""Every kernel compiles to machine code for every architecture, without spills, in no more registers than are written down."""
import json

import pytest

from minidl.errors import DeviceError
from minidl.kernels.cuda import loader, source
from tests.cuda_emulator.registers import TABLE, compiled

REPORT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'avg_pool_grad' for 'sm_80'
ptxas info    : Function properties for avg_pool_grad
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 50 registers, used 0 barriers, 432 bytes cmem[0]
ptxas info    : Compiling entry function 'conv' for 'sm_80'
ptxas info    : Function properties for conv
ptxas         .     40 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 8704 bytes smem, 496 bytes cmem[0]
"""


def nvrtc():
    pytest.importorskip("cupy_backends", reason="NVRTC is not installed")
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except Exception as e:
        pytest.skip(f"NVRTC cannot be loaded: {e}")


def test_the_report_is_read():
    assert loader.parse_report(REPORT) == {"avg_pool_grad": (50, 0, 0), "conv": (64, 32, 8704)}


@pytest.mark.slow
def test_registers_and_spills(tmp_path):
    nvrtc()
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    seen = set()
    for file, arch, dtype, resources in compiled(tmp_path):
        assert set(resources) == set(source.entries(file)) == set(table[file]), f"{file}: kernels and registers.json differ"
        for kernel, needs in resources.items():
            where = f"{file}: {kernel} for {arch}, {dtype}"
            assert needs.spill_bytes == 0, f"{where} spills {needs.spill_bytes} bytes"
            allowed = table[file][kernel]
            assert needs.registers <= allowed, f"{where} takes {needs.registers} registers, {allowed} are allowed"
        seen.add(file)
    assert seen == set(source.files())


def test_a_mistake_is_shown_with_the_compilers_words(tmp_path, monkeypatch):
    nvrtc()
    monkeypatch.setattr(source, "read", lambda name: 'extern "C" __global__ void f(float* y) { y[0] = nothing; }')
    with pytest.raises(DeviceError, match=r"wrong.cu: NVRTC refuses it under .*-arch=sm_90.*(\n.*)*nothing"):
        loader.compile_cubin("wrong.cu", "sm_90", ("VALUE=float", "ACCUMULATE=float"), tmp_path)


def test_a_cubin_is_compiled_once(tmp_path, monkeypatch):
    nvrtc()
    first = loader.compile_cubin("dropout.cu", "sm_90", source.defines("float32"), tmp_path)
    monkeypatch.setattr(loader, "_compile", lambda *_: pytest.fail("compiled again"))
    assert loader.compile_cubin("dropout.cu", "sm_90", source.defines("float32"), tmp_path) == first
    assert first.path.read_bytes()[:4] == b"\x7fELF" and set(first.resources) == set(source.entries("dropout.cu"))
