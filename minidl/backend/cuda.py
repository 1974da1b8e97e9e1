"""The CUDA backend: CuPy for arrays, minidl's own kernels for the rest."""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from minidl.backend.base import Array, Backend
from minidl.backend.bfloat16 import accept_bfloat16
from minidl.backend.cuda_install import why_not
from minidl.backend.cuda_memory import watch
from minidl.config import allow_tf32, conv_precision
from minidl.errors import DeviceError
from minidl.kernels import lookup
from minidl.kernels.cuda import capture


def device_count() -> int:
    """The number of CUDA devices, 0 without CuPy or a driver."""
    if why_not() is not None:
        return 0
    import cupy
    return int(cupy.cuda.runtime.getDeviceCount())


class LaunchedVerbs(Backend):
    """The elementwise verbs that have a kernel of our own; the rest of a Backend looks kernels up by itself."""

    def _conv_precision(self) -> str:
        precision = conv_precision.get()
        return "tf32" if precision == "fast" and allow_tf32.get() else precision

    def relu(self, x: Array) -> Array:
        return lookup("relu", self.kind)(x)

    def relu_grad(self, gy: Array, y: Array) -> Array:
        return lookup("relu_grad", self.kind)(gy, y)

    def launched_add(self, a: Array, b: Array) -> Array:
        """a + b; sums of two shapes or dtypes are the array module's."""
        if isinstance(b, self.xp.ndarray) and a.shape == b.shape and a.dtype == b.dtype:
            return lookup("add", self.kind)(a, b)
        return self.xp.add(a, b)

    def sigmoid(self, x: Array) -> Array:
        return lookup("sigmoid", self.kind)(x) if x.dtype.kind in "fV" else super().sigmoid(x)

    def launched_tanh(self, x: Array) -> Array:
        return lookup("tanh", self.kind)(x) if x.dtype.kind in "fV" else self.xp.asarray(self.xp.tanh(x))

    def matmul(self, a: Array, b: Array) -> Array:
        from minidl.kernels.cuda import cublas, launch  # not for `import minidl`
        if cublas.takes(a, b):
            return cublas.matmul(launch.gpu_of(self.kind), a, b, allow_tf32.get())
        return self.xp.asarray(self.xp.matmul(a, b))

    def linear(self, x: Array, w: Array, b: Array | None) -> Array:
        y = super().linear(x, w, None)
        if b is not None:
            lookup("add_bias_", self.kind)(y, b)
        return y

    linear_weight_grad = Backend.linear_weight_grad

    def _add_at(self, x: Array, index: Any, values: Array) -> None:
        lookup("add_at_", self.kind)(x, index, values)   # CuPy's own uses atomics, which add in another order every time


class CUDA(LaunchedVerbs):
    """Verbs on CuPy arrays of one device."""

    def __init__(self, index: int):
        import cupy
        super().__init__(cupy, f"cuda:{index}", "cuda")
        self.index = index
        self.add = self.checked_add
        self.tanh = self.launched_tanh
        watch(cupy)
        if device_count() > 1:
            self._enter_in_every_verb()

    def _enter_in_every_verb(self) -> None:
        """CuPy computes on the thread's current device and refuses the others' arrays: make this one current in each verb."""
        def entering(verb: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(verb)
            def run(*arguments: Any, **options: Any) -> Any:
                with self.xp.cuda.Device(self.index):
                    return verb(*arguments, **options)
            return run

        for name in dir(self):
            verb = getattr(self, name)
            if not name.startswith("_") and callable(verb):
                setattr(self, name, entering(verb))

    def to_host(self, x: Array) -> Any:
        return self.xp.asnumpy(x)

    def asarray(self, value: Any, dtype: Any = None) -> Array:
        self._from_host(value)
        with self.xp.cuda.Device(self.index):
            return self.xp.asarray(value, dtype=dtype)

    def array(self, value: Any, dtype: Any = None) -> Array:
        self._from_host(value)
        return super().array(value, dtype)

    def scalar(self, value: float, dtype: Any) -> Array:
        with capture.outside(self.xp):               # it is remembered, so it must have its value now
            return self.xp.array(value, dtype=dtype)

    def _from_host(self, value: Any) -> None:
        if capture.current() is not None and not isinstance(value, (self.xp.ndarray, int, float)):
            raise DeviceError("the step copies an array from the host, and a CUDA graph would go on with its numbers of now; "
                              "make it a tensor before, and pass it to the step")  # fmt: skip

    def writeable(self, x: Array) -> bool:
        return all(stride or size < 2 for size, stride in zip(x.shape, x.strides, strict=True))

    def checked_add(self, a: Array, b: Array) -> Array:
        """a + b, where a may be the gradient that was there before."""
        active = capture.current()
        if active is not None and a.data.ptr in active.refused:
            raise DeviceError("the step adds to gradients of the step before, which a CUDA graph would not find; call "
                              "optimizer.zero_grad() in the step")  # fmt: skip
        return self.launched_add(a, b)

    def memory_allocated(self) -> int:
        with self.xp.cuda.Device(self.index):
            return int(self.xp.get_default_memory_pool().used_bytes())

    def each_step(self, owner: Any, run: Callable[[], None]) -> None:
        capture.update(owner, run)

    def uncaptured(self, what: str) -> None:
        if capture.current() is not None:
            raise DeviceError(f"{what}: a CUDA graph would not repeat it; keep it out of the step")

    def synchronize(self) -> None:
        self.xp.cuda.Device(self.index).synchronize()


@functools.cache
def cuda_backend(index: int) -> CUDA:
    """The backend of device ``index``.

    Raises:
        DeviceError: no CUDA here (the message says why), or no such device.
    """
    reason = why_not()
    if reason is not None:
        raise DeviceError(f"cuda: {reason}; use device 'cpu', or minidl.cuda.is_available() to choose")
    count = device_count()
    if index >= count:
        raise DeviceError(f"cuda:{index}: there are {count} devices, numbered from 0")
    backend = CUDA(index)
    accept_bfloat16(backend)
    return backend
