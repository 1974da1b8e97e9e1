"""Figures of a GPU's memory, and the error when there is no more, on the stand-in for CuPy."""

import pytest

import minidl
from minidl.cuda.memory import likely_batch
from minidl.errors import DeviceError, MinidlError, OutOfMemoryError
from tests.fake_cupy import fake_cupy

MIB = 1 << 20


def test_what_tensors_hold(install):
    install(fake_cupy())
    cuda = minidl.cuda
    assert cuda.memory_allocated() == cuda.max_memory_allocated() == 0
    x = minidl.zeros(MIB // 4, device="cuda:1")
    assert cuda.memory_allocated(1) == cuda.memory_allocated("cuda:1") == MIB and cuda.memory_allocated() == 0
    y = x + x
    del x
    assert cuda.memory_allocated(1) == MIB and cuda.max_memory_allocated(1) == cuda.memory_reserved(1) == 2 * MIB
    cuda.reset_peak_memory_stats(1)
    assert cuda.max_memory_allocated(1) == MIB
    z = y * y
    assert cuda.max_memory_allocated(1) == 2 * MIB and z.numel()


def test_the_peak_is_exact_while_the_pool_is_rarely_asked(install):
    cupy = install(fake_cupy())
    keep = [minidl.zeros(1000, device="cuda") for _ in range(3)]
    minidl.zeros(10_000, device="cuda")  # the peak, and gone at once
    asked = []
    pool = cupy.get_default_memory_pool()
    used_bytes = pool.used_bytes
    pool.used_bytes = lambda: asked.append(1) or used_bytes()
    for _ in range(100):
        minidl.zeros(10, device="cuda")
    assert len(asked) <= 2 and minidl.cuda.max_memory_allocated() == 3 * 4096 + 40_448 and keep


def test_memory_that_is_kept_is_given_back(install):
    install(fake_cupy())
    x = minidl.zeros(MIB, device="cuda")
    del x
    assert minidl.cuda.memory_allocated() == 0 and minidl.cuda.memory_reserved() == 4 * MIB
    minidl.cuda.empty_cache()
    assert minidl.cuda.memory_reserved() == 0 and minidl.cuda.mem_get_info() == (1 << 30, 1 << 30)


def test_the_summary(install):
    install(fake_cupy())
    x = minidl.zeros(MIB, device="cuda")
    lines = dict(line.rsplit(None, 2)[0::1][:1] + [line.split()[-2]] for line in minidl.cuda.memory_summary().splitlines())
    assert lines == {
        "tensors": "4.0", "tensors, at most": "4.0", "kept by the pool": "0", "other programs and CUDA": "0", "free": "1020.0",
        "GPU": "1.0",
    }  # fmt: skip
    assert x.numel()


def test_out_of_memory(install):
    install(fake_cupy(limit=8 * MIB + 4096))
    x = minidl.zeros(MIB, device="cuda:1")
    with pytest.raises(OutOfMemoryError) as found:
        minidl.zeros(2 * MIB, device="cuda:1")
    assert str(found.value) == (
        "out of memory on cuda:1: 8.0 MiB more were asked for; of 8.0 MiB, tensors use 4.0 MiB, 0 B are kept to be used again, "
        "and others have 0 B. A smaller batch needs less"
    )
    for kind in (DeviceError, MinidlError, MemoryError, RuntimeError):
        assert isinstance(found.value, kind)
    assert (found.value.asked, found.value.used, found.value.available) == (8 * MIB, 4 * MIB, 8 * MIB + 4096)
    assert (x + 1).numel() == MIB  # what fits still works


def test_a_limited_pool(install):
    cupy = install(fake_cupy())
    minidl.zeros(1, device="cuda")
    cupy.get_default_memory_pool().set_limit(size=MIB)
    with pytest.raises(OutOfMemoryError, match=r"and others have 0 B; CuPy's pool is limited to 1.0 MiB\. A smaller"):
        minidl.zeros(MIB, device="cuda")


def test_the_batch_that_should_fit():
    error = OutOfMemoryError("", asked=200, used=900, available=1000)
    assert likely_batch(error, 128, at_rest=100) == 64  # 1000 for 128 images, 900 there
    assert likely_batch(error, 16, at_rest=100) == 8
    assert likely_batch(error, 1, at_rest=100) == 0  # not even one image
    assert likely_batch(OutOfMemoryError("", asked=10, used=1000, available=1000), 64, at_rest=1000) == 0


def test_without_a_gpu(install):
    install(None)
    cuda = minidl.cuda
    assert cuda.memory_allocated() == cuda.max_memory_allocated() == cuda.memory_reserved() == 0
    cuda.empty_cache()
    cuda.reset_peak_memory_stats()
    for ask in (cuda.memory_summary, cuda.mem_get_info, cuda.get_device_name, cuda.get_device_properties, cuda.current_device):
        with pytest.raises(DeviceError, match="cuda: CuPy is not installed"):
            ask()


def test_what_the_gpus_are(install):
    install(fake_cupy())
    cuda = minidl.cuda
    assert cuda.get_device_name("cuda:1") == "Stand-in 1" and cuda.get_device_capability() == (9, 0)
    assert cuda.get_device_properties(0) == ("Stand-in 0", 9, 0, 1 << 30, 2)
    assert cuda.current_device() == 0 and cuda.can_device_access_peer(0, 1) and not cuda.can_device_access_peer(1, "cuda:1")
