"""Making tensors."""
from __future__ import annotations

import operator
from typing import Any

from minidl.autograd.function import Function, tensors
from minidl.autograd.node import Leaf
from minidl.backend import get_backend, is_device
from minidl.backend.dtypes import dtype_of, is_known
from minidl.backend.rng import Generator, default_generator
from minidl.config import grad_mode
from minidl.errors import ConfigError, DTypeError, ShapeError
from minidl.ops.elementwise import astype
from minidl.tensor import Tensor


def tensor(data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of ``data``: a number, nested lists, an array or a tensor.

    Python floats become float32 and integers int64; arrays and tensors keep their dtype.

    Raises:
        ShapeError: nested lists of unequal length.
        DTypeError: data that is not numbers, or ``requires_grad`` of integers.
    """
    F = get_backend(device)
    dtype = dtype if dtype is None else _dtype("tensor", dtype, F)
    if isinstance(data, Tensor):
        array = F.array(data.data if data.F is F else data.F.to_host(data.data), dtype)
    else:
        try:
            array = F.array(_with_plain_tensors(data), dtype)
        except ValueError as e:
            raise ShapeError(f"tensor: the nested lists are not of equal length ({e})") from None
        except OverflowError as e:
            raise DTypeError(f"tensor: {e}") from None
        if dtype is None and array.dtype == F.float64 and not hasattr(data, "dtype"):
            array = array.astype(F.float32)
    if not is_known(array.dtype):
        raise DTypeError(f"tensor: expected numbers, found {array.dtype} from {type(data).__name__}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return _leaf(array, F, requires_grad, "tensor")


def _with_plain_tensors(data: Any) -> Any:
    """Nested lists with the tensors in them as lists."""
    if isinstance(data, (list, tuple)):
        return [_with_plain_tensors(d) for d in data]
    return data.tolist() if isinstance(data, Tensor) else data


def _dtype(name: str, dtype: Any, F: Any, default: Any = None, also: str = "") -> Any:
    """``dtype``, however it was named, as the backend's dtype object; ``default`` (float32) for None."""
    if dtype is None:
        return F.float32 if default is None else default
    found = dtype_of(dtype)
    if found is None:
        raise DTypeError(f"{name}: {dtype!r} is no dtype of minidl (minidl.float32, minidl.int64, minidl.bool, ...){also}")
    return found


def _leaf(array: Any, F: Any, requires_grad: bool, name: str) -> Tensor:
    if requires_grad and array.dtype.kind not in "fV":
        raise DTypeError(f"{name}: only floating-point tensors have gradients, found {array.dtype}; pass dtype=minidl.float32")
    return Tensor(array, F, Leaf(F, array.shape) if requires_grad else None)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """``data`` as a tensor, sharing memory where it can: a tensor of that dtype and device is returned itself."""
    if isinstance(data, Tensor):
        return data.to(dtype or data.dtype).to(device or data.device)
    if hasattr(data, "__array_interface__"):
        F = get_backend(device)
        return Tensor(F.asarray(data, dtype), F)
    return tensor(data, dtype, device)


def from_numpy(array: Any) -> Tensor:
    """A tensor on the CPU that shares the array's memory."""
    F = get_backend("cpu")
    if not hasattr(array, "__array_interface__") or not is_known(array.dtype):
        raise DTypeError(f"from_numpy: expected a NumPy array of numbers, found {getattr(array, 'dtype', type(array).__name__)}")
    if not array.dtype.isnative:
        raise DTypeError(f"from_numpy: {array.dtype} is in another byte order than this machine's; use minidl.tensor(), "
                         "which copies")
    return Tensor(F.asarray(array), F)


def from_dlpack(other: Any) -> Tensor:
    """A tensor that shares the memory of another library's (PyTorch, CuPy, JAX, ...)."""
    if not hasattr(other, "__dlpack__"):
        raise TypeError(f"from_dlpack: {type(other).__name__} does not speak DLPack; use minidl.tensor() or minidl.from_numpy()")
    F = get_backend("cpu" if other.__dlpack_device__()[0] in (1, 3) else "cuda")         # 1: CPU, 3: pinned CPU memory
    try:
        array = F.xp.from_dlpack(other)
    except (RuntimeError, BufferError) as e:
        kind = getattr(other, "dtype", "array")
        raise DTypeError(f"from_dlpack: cannot take {type(other).__module__}'s {kind} ({e})") from None
    if not is_known(array.dtype):
        raise DTypeError(f"from_dlpack: {array.dtype} is no dtype of minidl, which has real numbers and bool; convert it first")
    return Tensor(array, F)


def zeros(*shape: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of ``shape``; float32 by default."""
    F = get_backend(device)
    return _leaf(F.zeros(_checked("zeros", shape), _dtype("zeros", dtype, F)), F, requires_grad, "zeros")


def ones(*shape: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of ``shape``; float32 by default."""
    F = get_backend(device)
    return _leaf(F.ones(_checked("ones", shape), _dtype("ones", dtype, F)), F, requires_grad, "ones")


def empty(*shape: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Memory of ``shape`` with whatever was in it; float32 by default."""
    F = get_backend(device)
    return _leaf(F.empty(_checked("empty", shape), _dtype("empty", dtype, F)), F, requires_grad, "empty")


def full(shape: Any, fill_value: float, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """``fill_value`` everywhere; float32 for a float, int64 for an integer, bool for a bool."""
    F = get_backend(device)
    default = F.bool if isinstance(fill_value, bool) else F.int64 if isinstance(fill_value, int) else F.float32
    return _leaf(F.full(_checked("full", (shape,)), fill_value, _dtype("full", dtype, F, default)), F, requires_grad, "full")


def _checked(name: str, shape: Any) -> tuple[int, ...]:
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = shape[0]
    try:
        sizes = tuple(operator.index(n) for n in shape)
    except TypeError:
        raise ShapeError(f"{name}: sizes must be integers, found {shape!r}") from None
    if any(n < 0 for n in sizes):
        raise ShapeError(f"{name}: sizes must be at least 0, found {sizes}")
    return sizes


def zeros_like(x: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of x's shape, dtype and device."""
    return zeros(x.shape, dtype=dtype or x.dtype, device=x.F, requires_grad=requires_grad)


def ones_like(x: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of x's shape, dtype and device."""
    return ones(x.shape, dtype=dtype or x.dtype, device=x.F, requires_grad=requires_grad)


def full_like(x: Tensor, fill_value: float, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """``fill_value`` in x's shape, dtype and device."""
    return full(x.shape, fill_value, dtype or x.dtype, x.F, requires_grad)


def empty_like(x: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Memory of x's shape, dtype and device with whatever was in it."""
    return empty(x.shape, dtype=dtype or x.dtype, device=x.F, requires_grad=requires_grad)


def new_zeros(x: Tensor, *shape: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of ``shape`` in x's dtype and on its device."""
    return zeros(*shape, dtype=dtype or x.dtype, device=x.F, requires_grad=requires_grad)


def new_ones(x: Tensor, *shape: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of ``shape`` in x's dtype and on its device."""
    return ones(*shape, dtype=dtype or x.dtype, device=x.F, requires_grad=requires_grad)


def new_empty(x: Tensor, *shape: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Memory of ``shape`` with whatever was in it, in x's dtype and on its device."""
    return empty(*shape, dtype=dtype or x.dtype, device=x.F, requires_grad=requires_grad)


def new_full(x: Tensor, shape: Any, fill_value: float, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """``fill_value`` in ``shape``, in x's dtype and on its device."""
    return full(shape, fill_value, dtype or x.dtype, x.F, requires_grad)


def arange(start: float, end: float | None = None, step: float = 1, dtype: Any = None, device: Any = None,
           requires_grad: bool = False) -> Tensor:
    """start, start + step, ... before ``end`` (from 0 with one argument); int64 if all are integers, else float32."""
    F = get_backend(device)
    if end is None:
        start, end = 0, start
    if step == 0 or (end - start) * step < 0:
        raise ValueError(f"arange: a step of {step} does not lead from {start} to {end}")
    default = F.int64 if all(isinstance(v, int) for v in (start, end, step)) else F.float32
    return _leaf(F.arange(start, end, step, _dtype("arange", dtype, F, default)), F, requires_grad, "arange")


def linspace(start: float, end: float, steps: int, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """``steps`` numbers from start to end, both included, equally far apart."""
    F = get_backend(device)
    (steps,) = _checked("linspace", (steps,))
    return _leaf(F.linspace(start, end, steps, _dtype("linspace", dtype, F)), F, requires_grad, "linspace")


def eye(n: int, m: int | None = None, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones on the diagonal of an (n, m) matrix, zeros elsewhere."""
    F = get_backend(device)
    n, m = _checked("eye", (n, n if m is None else m))
    return _leaf(F.eye(n, m, _dtype("eye", dtype, F)), F, requires_grad, "eye")


# ---------------------------------------------------------------------------------------------------------------- random
def rand(*shape: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
         generator: Generator | None = None) -> Tensor:
    """Uniform random numbers in [0, 1)."""
    F = get_backend(device)
    drawn = (generator or default_generator).uniform(_checked("rand", shape), dtype=dtype or F.float32)
    return _leaf(F.asarray(drawn), F, requires_grad, "rand")


def randn(*shape: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
          generator: Generator | None = None) -> Tensor:
    """Random numbers from the normal distribution of mean 0 and variance 1."""
    F = get_backend(device)
    drawn = (generator or default_generator).normal(_checked("randn", shape), dtype=dtype or F.float32)
    return _leaf(F.asarray(drawn), F, requires_grad, "randn")


def randint(low: int, high: Any, size: Any = None, dtype: Any = None, device: Any = None,
            generator: Generator | None = None) -> Tensor:
    """Random integers from low to high - 1, int64 by default; ``randint(high, size)`` starts at 0."""
    if size is None:
        low, high, size = 0, low, high
    F = get_backend(device)
    drawn = (generator or default_generator).randint(low, high, _checked("randint", (size,)))
    return Tensor(F.asarray(drawn, _dtype("randint", dtype, F, F.int64)), F)


def randperm(n: int, device: Any = None, generator: Generator | None = None) -> Tensor:
    """The integers 0 to n - 1 in random order, int64."""
    F = get_backend(device)
    return Tensor(F.asarray((generator or default_generator).permutation(n)), F)


def rand_like(x: Tensor) -> Tensor:
    """Uniform random numbers of x's shape, dtype and device."""
    return rand(x.shape, dtype=x.dtype, device=x.F)


def randn_like(x: Tensor) -> Tensor:
    """Normal random numbers of x's shape, dtype and device."""
    return randn(x.shape, dtype=x.dtype, device=x.F)


def bernoulli(x: Tensor, generator: Generator | None = None) -> Tensor:
    """1 with the probability that x gives for each element, else 0; in x's dtype.

    Raises:
        ConfigError: an element of x is no probability.
    """
    if not (bool((x >= 0).all()) and bool((x <= 1).all())):
        raise ConfigError("bernoulli: the elements must be probabilities, between 0 and 1")
    return (rand(x.shape, dtype=x.dtype, device=x.F, generator=generator) < x).to(x.dtype)


# -------------------------------------------------------------------------------------------------------------- transfer
class ToDevice(Function, verb="to_device"):
    """x on another device; the gradient travels back."""

    source: Any                                      # the backend it came from

    @classmethod
    def specialise(cls, verb: str) -> Any:           # its result is on another backend than its input
        def apply(x: Tensor, *, target: Any) -> Tensor:
            y = x.F.to_device(x.data, target=target)
            if x.edge is None or not grad_mode.get():
                return Tensor(y, target)
            node = cls(target, (x.edge,), ())
            node.source = x.F
            return Tensor(y, target, node)
        return apply

    def backward(self, F, gy):                       # type: ignore[no-untyped-def]
        return (F.to_device(gy, target=self.source),)


def to(x: Tensor, *args: Any, dtype: Any = None, device: Any = None, copy: bool = False, non_blocking: bool = False) -> Tensor:
    """x in another dtype, on another device, or both: ``x.to("cuda")``, ``x.to(minidl.float64)``, ``x.to(other)``.

    x itself where nothing changes, unless ``copy``.  ``non_blocking`` is there for code written for PyTorch; transfers wait.
    """
    for a in args:
        if isinstance(a, Tensor):
            dtype, device = a.dtype, a.F
        elif isinstance(a, str) and is_device(a) or hasattr(a, "xp"):
            device = a
        elif type(a) is int:
            device = f"cuda:{a}"                     # as in PyTorch
        elif a is not None:
            dtype = a
    y = x if dtype is None else astype(x, _dtype("to", dtype, x.F, also=", nor a device: 'cpu', 'cuda', 'cuda:0'"))
    if device is not None and (target := get_backend(device)) is not y.F:
        y = tensors.to_device(y, target=target)
    return y.clone() if copy and y is x else y


def type_as(x: Tensor, other: Tensor) -> Tensor:
    """x in the dtype of ``other``."""
    return to(x, other.dtype)
