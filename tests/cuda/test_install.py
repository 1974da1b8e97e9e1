"""A machine without a GPU that works: each case is one sentence with what to do."""

import sys

import pytest

import minidl
from minidl.backend import cuda_install
from minidl.errors import DeviceError
from tests.fake_cuda import CUDARuntimeError
from tests.fake_cupy import fake_cupy

CUDA13 = r"pip install 'minidl\[cuda13\]'"


@pytest.fixture
def packaged(monkeypatch):
    """Says which packages are installed."""

    def put(**packages):
        found = {name.replace("_", "-"): version for name, version in packages.items()}
        monkeypatch.setattr(cuda_install, "packages", lambda: found)

    put(cupy_cuda13x="14.2.0")
    return put


def broken(error):
    """Something in sys.meta_path that makes `import cupy` raise."""

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "cupy":
                raise error

    return Finder()


def refused(words):
    """The reason, and the error of asking for a GPU all the same, are the same single line."""
    reason = minidl.cuda.why_not()
    assert "\n" not in reason and not minidl.cuda.is_available() and minidl.cuda.device_count() == 0
    with pytest.raises(DeviceError) as found:
        minidl.ones(1).to("cuda")
    assert str(found.value) == f"cuda: {reason}; use device 'cpu', or minidl.cuda.is_available() to choose"
    assert words in reason, reason


def test_no_cupy(install):
    install(None)
    refused("CuPy is not installed; pip install 'minidl[cuda13]' (or minidl[cuda12] for a driver older than CUDA 13)")


def test_no_driver(install, packaged):
    install(fake_cupy(driver_error=CUDARuntimeError(35), driver=0))
    refused("CuPy finds no usable driver: cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime")
    refused("install NVIDIA's driver, and see that `nvidia-smi` works")


def test_an_older_driver(install, packaged):
    install(fake_cupy(driver_error=CUDARuntimeError(35), driver=12040))
    refused("CuPy is made for CUDA 13, the driver for CUDA 12.4; update the driver, or pip uninstall -y cupy-cuda13x && "
            "pip install 'minidl[cuda12]'")  # fmt: skip


def test_a_driver_that_fails_otherwise(install, packaged):
    install(fake_cupy(driver_error=RuntimeError("cudaErrorUnknown: unknown error")))
    refused("CuPy finds no usable driver: cudaErrorUnknown: unknown error; see whether `nvidia-smi` works")


def test_no_gpu(install, packaged, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    install(fake_cupy(driver_error=CUDARuntimeError(100)))
    assert minidl.cuda.why_not() == "CuPy finds no GPU"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    refused("CuPy finds no GPU; CUDA_VISIBLE_DEVICES='' hides those that are not in it")
    install(fake_cupy(count=0))
    refused("CuPy finds no GPU; CUDA_VISIBLE_DEVICES=''")


def test_an_old_cupy(install, packaged):
    packaged(cupy_cuda12x="13.6.0")
    install(fake_cupy(version="13.6.0"))
    refused("CuPy 13.6.0 is too old, minidl needs 14.2 or newer; pip install -U 'minidl[cuda12]'")


def test_a_broken_installation(packaged, monkeypatch):
    told = "ImportError: libnvrtc.so.12: cannot open"
    page = f"\n====\nFailed to import CuPy.\n\nIf you installed\n\nOriginal error:\n  {told}\n===="
    for error in (ImportError(page), OSError(told)):
        monkeypatch.delitem(sys.modules, "cupy", raising=False)
        monkeypatch.setattr(sys, "meta_path", [broken(error), *sys.meta_path])
        refused(f"CuPy cannot be imported: {told}; pip install --force-reinstall 'minidl[cuda13]'")


def test_two_packages(packaged, monkeypatch, install):
    packaged(cupy_cuda13x="14.2.0", cupy_cuda12x="14.2.0")
    words = (
        "cupy-cuda12x and cupy-cuda13x are both installed, and overwrite each other: "
        "pip uninstall -y cupy-cuda12x cupy-cuda13x && pip install 'minidl[cuda13]'"
    )
    with monkeypatch.context() as m:
        m.delitem(sys.modules, "cupy", raising=False)
        m.setattr(sys, "meta_path", [broken(ImportError("undefined symbol")), *sys.meta_path])
        refused(words)
    install(fake_cupy())  # it may also seem to work
    assert minidl.cuda.is_available() and cuda_install.advice() == [words]


def test_packages_for_an_older_cuda_work_and_are_mentioned(install, packaged):
    packaged(cupy_cuda12x="14.2.0")
    install(fake_cupy(driver=13000, runtime=12090))
    assert minidl.cuda.is_available()
    (advice,) = cuda_install.advice()
    assert advice.startswith("CuPy is made for CUDA 12, the driver for CUDA 13, which also runs newer packages: "
                             "pip uninstall -y cupy-cuda12x && pip install 'minidl[cuda13]'")  # fmt: skip
    install(fake_cupy(driver=13000, runtime=13020))
    assert cuda_install.advice() == []


def test_a_device_that_is_not_there(install):
    install(fake_cupy(count=2))
    for ask in (
        lambda: minidl.ones(1).to("cuda:2"),
        lambda: minidl.cuda.get_device_name(2),
        lambda: minidl.cuda.memory_allocated("cuda:2"),
    ):
        with pytest.raises(DeviceError, match="cuda:2: there are 2 devices, numbered from 0"):
            ask()
    with pytest.raises(DeviceError, match="device 'cpu' is no GPU; use a number, 'cuda' or 'cuda:0'"):
        minidl.cuda.get_device_name("cpu")


def test_what_the_installed_packages_are(monkeypatch):
    from importlib import metadata

    def version(name):
        if name != "cupy-cuda12x":
            raise metadata.PackageNotFoundError(name)
        return "14.2.0"

    monkeypatch.setattr(metadata, "version", version)
    assert cuda_install.packages() == {"cupy-cuda12x": "14.2.0"}
