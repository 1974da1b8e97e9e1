"""``minidl doctor --gpu`` on the stand-in for CuPy, whose kernels run on the CUDA emulator."""

import pytest
from click.testing import CliRunner

from minidl.backend import cuda_install
from minidl.cli import cli
from minidl.errors import DeviceError
from minidl.inspect import gpu_check
from minidl.kernels.cuda import loader, source
from tests.cuda_emulator.emulator import COMPILER
from tests.fake_cupy import fake_cupy

needs_kernels = pytest.mark.skipif(COMPILER is None, reason="the CUDA emulator needs g++")


@pytest.fixture(autouse=True)
def one_package(monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_install, "packages", lambda: {"cupy-cuda13x": "14.2.0"})
    monkeypatch.setattr(loader, "cache_folder", lambda: tmp_path)


def doctor(status):
    result = CliRunner().invoke(cli, ["doctor", "--gpu"])
    assert result.exit_code == status, result.output
    return result.output.splitlines()


@needs_kernels
def test_all_is_well(install):
    install(fake_cupy(count=1))
    lines = doctor(0)
    assert "Stand-in 0, sm_90, 2 multiprocessors, 1.0 of 1.0 GiB free" in lines[2]
    assert lines[-1] == "All is well." and "compiling for sm_90" in lines
    for file in source.files():
        assert any(line.split()[:1] == [file] for line in lines)
    tried = [line.split()[0].strip(",") for line in lines if line.endswith("well")]
    assert tried == [*gpu_check.FAMILIES, "conv"]


@needs_kernels
def test_a_kernel_that_is_wrong(install, monkeypatch):
    """It is told from the others, and the doctor's verdict is bad."""
    cupy = install(fake_cupy(count=1))
    raw_module = cupy.RawModule

    def module(path):
        found = raw_module(path=path)
        get = found.get_function

        def function(name):
            kernel = get(name)
            if not name.startswith("max_pool_grad"):
                return kernel

            def wrong(grid, block, args, **options):
                kernel(grid, block, args, **options)
                next(a for a in args[::-1] if isinstance(a, cupy.ndarray) and a.dtype == "float32").reshape(-1)[3] += 1

            return wrong

        found.get_function = function
        return found

    cupy.RawModule = module
    monkeypatch.setattr(gpu_check, "FAMILIES", {k: gpu_check.FAMILIES[k] for k in ("pool", "loss")})
    lines = doctor(1)
    assert [line.split()[0] for line in lines if line.endswith("WRONG")] == ["pool,"]
    assert [line for line in lines if line.startswith("! ")][0].startswith("! pool, float32 on cuda:0: differs from the CPU by ")


@needs_kernels
def test_a_kernel_that_fails(install, monkeypatch):
    install(fake_cupy(count=1))
    monkeypatch.setattr(gpu_check, "FAMILIES", {"pool": gpu_check._pooling})

    def fail(*_):
        raise RuntimeError("cudaErrorIllegalAddress:\nan illegal memory access")

    monkeypatch.setattr(gpu_check, "_convolutions", fail)
    lines = doctor(1)
    assert "! conv, float16 on cuda:0: cudaErrorIllegalAddress: an illegal memory access" in lines


def test_a_file_that_is_refused(install, monkeypatch):
    install(fake_cupy(count=1))
    monkeypatch.setattr(gpu_check, "check_all", lambda device: iter(()))
    compile_cubin = loader.compile_cubin

    def refuse(file, arch, defines, folder=None):
        if file == "pool.cu":
            raise DeviceError("pool.cu: NVRTC refuses it under -arch=sm_90: expected a )")
        return compile_cubin(file, arch, defines, folder)

    monkeypatch.setattr(loader, "compile_cubin", refuse)
    lines = doctor(1)
    assert any(line.startswith("  pool.cu ") and line.endswith("REFUSED") for line in lines)
    assert "! pool.cu: NVRTC refuses it under -arch=sm_90: expected a )" in lines


def test_without_a_gpu_the_kernels_are_still_compiled(install):
    install(fake_cupy(count=0))
    lines = doctor(1)
    assert "compiling for sm_90, as an example" in lines
    assert any("conv.cu" in line and "4 dtypes" in line for line in lines)
    assert "not done without a GPU: loading the machine code, running it, comparing it with the CPU" in lines
    assert lines[-2].startswith("! no GPU can be used: CuPy finds no GPU") and lines[-1] == "Something needs attention."


def test_without_a_compiler(install, monkeypatch):
    def missing(*_):
        raise DeviceError("dropout.cu: NVRTC cannot be loaded: libnvrtc.so.13; pip install 'minidl[cuda13]'\nmore")

    install(fake_cupy(count=1))
    monkeypatch.setattr(loader, "compile_cubin", missing)
    lines = doctor(1)
    assert "kernels are not compiled: dropout.cu: NVRTC cannot be loaded: libnvrtc.so.13; pip install 'minidl[cuda13]'" in lines
    assert lines[-2] == "! dropout.cu: NVRTC cannot be loaded: libnvrtc.so.13; pip install 'minidl[cuda13]'"


def test_without_cupy(install, monkeypatch):
    install(None)
    monkeypatch.setattr(cuda_install, "packages", dict)
    lines = doctor(1)
    assert lines[-2].startswith("! no GPU can be used: CuPy is not installed; pip install 'minidl[cuda13]'")
    assert sum(line.startswith("! ") for line in lines) == 1, "one line mends it"


def test_two_packages_are_found_without_looking_deeper(install, monkeypatch):
    install(fake_cupy())
    monkeypatch.setattr(cuda_install, "packages", lambda: {"cupy-cuda12x": "14.2.0", "cupy-cuda13x": "14.2.0"})
    result = CliRunner().invoke(cli, ["doctor"])
    assert "! cupy-cuda12x and cupy-cuda13x are both installed, and overwrite each other: pip uninstall -y" in result.output


def test_a_model_and_the_gpu():
    result = CliRunner().invoke(cli, ["doctor", "run", "--gpu"])
    assert result.exit_code == 2 and "a MODEL or --gpu, not both" in result.output
