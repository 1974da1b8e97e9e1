"""The Tensor: an array, the backend that computes with it, and its place in the graph.

Operators, methods and functions on tensors come from :mod:`minidl.ops`, which attaches them here when it is imported.
"""
from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from minidl.autograd.node import Leaf, Retain
from minidl.backend.dtypes import is_known
from minidl.config import grad_mode
from minidl.errors import DTypeError, GraphError, ShapeError

RANK = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2}     # bool < integer < floating point (V: bfloat16), as PyTorch promotes
SCALAR_CACHE = 4096                                  # Python scalars kept as arrays, per backend


class Tensor:
    """An n-dimensional array that remembers how it was computed.

    Attributes:
        data: the raw array of the backend (a ``numpy.ndarray`` on the CPU).  Writing into it directly is invisible to the
            engine; call :func:`minidl.autograd.increment_version` afterwards, or use the in-place methods.
        F: the backend: verbs on arrays.
        edge: where the gradient goes - a Node (it was computed), a Leaf (the user asked for a gradient), or None.

    Make one with :func:`minidl.tensor`, :func:`minidl.zeros`, :func:`minidl.randn`, ...
    """

    __slots__ = ("data", "F", "edge", "origin", "views", "__weakref__")
    __array_ufunc__ = None                           # ndarray * Tensor must reach Tensor.__rmul__
    __hash__ = object.__hash__                       # == compares elements; a tensor is itself as a key
    origin: Any                                      # of a view: (parent, verb, options)
    views: list[Any]                                 # weak references to the views of this tensor

    def __init__(self, data: Any, F: Any, edge: Any = None):
        # `origin` and `views` stay unset until a view is made: two stores less for each operation.
        self.data = data
        self.F = F
        self.edge = edge

    # ------------------------------------------------------------------------------------------------------- properties
    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def device(self) -> str:
        return self.F.device

    @property
    def is_cuda(self) -> bool:
        return self.F.kind == "cuda"

    @property
    def itemsize(self) -> int:
        return self.data.itemsize

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    @property
    def is_leaf(self) -> bool:
        return self.edge is None or type(self.edge) is Leaf

    @property
    def grad_fn(self) -> Any:
        """The recorded operation that made this tensor, None for a leaf."""
        return None if self.is_leaf else self.edge

    @property
    def requires_grad(self) -> bool:
        return self.edge is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    @property
    def grad(self) -> Tensor | None:
        """The gradient that ``backward`` left here; for a computed tensor only after ``retain_grad()``."""
        return None if self.edge is None else self.edge.grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if self.edge is None:
            if value is None:
                return
            raise GraphError("grad: this tensor needs no gradient; call requires_grad_() first")
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(f"grad: expected a Tensor or None, found {type(value).__name__}")
            if value.shape != self.shape:
                raise ShapeError(f"grad: found shape {value.shape} for a tensor of shape {self.shape}; they must be equal")
            if value.dtype != self.dtype:
                raise DTypeError(f"grad: found {value.dtype} for a tensor of {self.dtype}; they must be equal")
        self.edge.grad = value

    def size(self, dim: int | None = None) -> Any:
        """The shape, or its entry ``dim``."""
        if dim is None:
            return self.shape
        if not -self.data.ndim <= dim < self.data.ndim:
            raise IndexError(f"size: axis {dim} is out of range for a tensor of shape {self.shape}")
        return self.data.shape[dim]

    def dim(self) -> int:
        return self.data.ndim

    def numel(self) -> int:
        """The number of elements."""
        return self.data.size

    def element_size(self) -> int:
        """Bytes per element."""
        return self.data.itemsize

    def is_floating_point(self) -> bool:
        return self.data.dtype.kind in "fV"

    def is_contiguous(self) -> bool:
        return bool(self.data.flags.c_contiguous)

    def stride(self) -> tuple[int, ...]:
        """Steps between neighbours along each axis, in elements (as PyTorch; NumPy counts bytes)."""
        return tuple(s // self.data.itemsize for s in self.data.strides)

    # ------------------------------------------------------------------------------------------------------------ graph
    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for a gradient (or stop asking), in place."""
        if not requires_grad:
            if not self.is_leaf:
                raise GraphError("requires_grad_(False): this tensor was computed from others; use detach()")
            self.edge = None
        elif self.edge is None:
            if self.data.dtype.kind not in "fV":
                raise DTypeError(f"requires_grad_: found {self.data.dtype}; only floating-point tensors have gradients, "
                                 "convert with .float()")
            self.edge = Leaf(self.F, self.data.shape)
            self._unlink()
        return self

    def backward(self, gradient: Tensor | None = None, retain_graph: bool | None = None, create_graph: bool = False,
                 inputs: Any = None) -> None:
        """Add d self / d leaf to ``.grad`` of every leaf that needs one.

        Args:
            gradient: d loss / d self, of self's shape; may be left out for a tensor of one element (then 1).
            retain_graph: keep the graph for another backward; by default only with ``create_graph``.
            create_graph: record the backward pass itself, for higher derivatives.
            inputs: add to these leaves only.

        Raises:
            GraphError: nothing to differentiate, a graph already freed, or no gradient for a tensor of several elements.
            InplaceError: an array that the pass needs was changed in place.
        """
        from minidl.autograd.engine import backward
        backward(self, gradient, retain_graph, create_graph, inputs)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Handle:
        """Call ``hook(gradient)`` when this tensor's gradient is known; what it returns, if not None, replaces it."""
        if self.edge is None:
            raise GraphError("register_hook: this tensor needs no gradient, so none will arrive; call requires_grad_() first")
        if self.edge.hooks is None:
            self.edge.hooks = []
        self.edge.hooks.append(hook)
        return Handle(self.edge.hooks, hook)

    def retain_grad(self) -> None:
        """Keep the gradient of a computed tensor in ``.grad``; nothing to do for a leaf."""
        if self.edge is None:
            raise GraphError("retain_grad: this tensor needs no gradient; call requires_grad_() first")
        if not self.is_leaf and not any(type(h) is Retain for h in self.edge.hooks or ()):
            self.register_hook(Retain())

    def explain(self) -> None:
        """Print the backward pass from this tensor, told in words (:func:`minidl.autograd.explain` returns them)."""
        from minidl.autograd.graph import explain
        print(explain(self))

    def detach(self) -> Tensor:
        """The same memory, outside the graph."""
        return Tensor(self.data, self.F)

    def detach_(self) -> Tensor:
        """Take this tensor out of the graph, in place."""
        self.edge = None
        self._unlink()
        return self

    def _unlink(self) -> None:
        """Forget what this is a view of: from now on its edge is its own business."""
        if hasattr(self, "origin"):
            del self.origin

    # ----------------------------------------------------------------------------------------------------- leaving minidl
    def item(self) -> float | int | bool:
        """The only element, as a Python number."""
        if self.data.size != 1:
            raise ShapeError(f"item: needs a tensor of one element, found shape {self.shape}; use tolist() or an index")
        return self.data.item()

    def tolist(self) -> Any:
        return self.data.tolist()

    def numpy(self) -> Any:
        """The elements as a NumPy array; on the CPU it shares their memory."""
        if self.edge is not None:
            raise GraphError("numpy: this tensor needs a gradient, which NumPy would lose; use .detach().numpy()")
        return self.F.to_host(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.F.to_numpy(self.numpy(), dtype, copy)

    def __dlpack__(self, **options: Any) -> Any:
        if self.edge is not None:
            raise GraphError("__dlpack__: this tensor needs a gradient, which the other library would lose; use .detach()")
        if any(s < 0 for s in self.data.strides):    # PyTorch aborts the process on these
            raise BufferError("__dlpack__: this view runs backwards through memory, which DLPack cannot say; use .contiguous()")
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.data.__dlpack_device__()

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.F.to_host(self.data), self.F.device, self.requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise GraphError("deepcopy: only leaves can be copied with their graph; use .detach().clone()")
        new = type(self).__new__(type(self))
        new.data, new.F = self.F.copy(self.data), self.F
        new.edge = None if self.edge is None else Leaf(self.F, self.shape)
        if new.edge is not None and self.grad is not None:
            new.edge.grad = self.grad.__deepcopy__(memo)
        memo[id(self)] = new
        return new

    # ------------------------------------------------------------------------------------------------- Python's protocols
    def __len__(self) -> int:
        if not self.data.ndim:
            raise TypeError("len() of a 0-d tensor")
        return len(self.data)

    def __iter__(self) -> Iterator[Tensor]:
        if not self.data.ndim:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(len(self.data)))      # one by one: a write refreshes all living views

    def __bool__(self) -> bool:
        if self.data.size != 1:
            raise ShapeError(f"bool: the truth of a tensor of shape {self.shape} is ambiguous; use .any() or .all()")
        return bool(self.data.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.data.dtype.kind not in "iub":
            raise TypeError(f"only integer tensors of one element can be an index, found {self.dtype}")
        return int(self.item())

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    def __format__(self, spec: str) -> str:
        if self.data.ndim == 0 or spec and self.data.size == 1:
            return format(self.item(), spec)
        if spec:
            raise TypeError(f"format: {spec!r} needs a tensor of one element, found shape {self.shape}; format its tolist()")
        return repr(self)

    def __repr__(self) -> str:
        return f"tensor({self.F.describe(self.data, 7)}{self._suffix()})"

    def _suffix(self) -> str:
        parts = []
        if self.data.size == 0 and self.data.ndim > 1:
            parts.append(f"size={self.shape}")
        if self.dtype.name not in ("float32", "int64", "bool"):
            parts.append(f"dtype={self.dtype.name}")
        if self.device != "cpu":
            parts.append(f"device={self.device!r}")
        if self.grad_fn is not None:
            parts.append(f"grad_fn=<{self.grad_fn.name}>")
        elif self.requires_grad:
            parts.append("requires_grad=True")
        return "".join(", " + p for p in parts)

    if TYPE_CHECKING:                                # attached by minidl.ops
        def __getattr__(self, name: str) -> Any: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __eq__(self, other: Any) -> Any: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...


class Handle:
    """What ``register_hook`` returns; ``remove()`` takes the hook away again."""

    def __init__(self, hooks: list[Any], hook: Any):
        self._hooks, self._hook = hooks, hook
        self._removed = False

    def remove(self) -> None:
        """Stop calling the hook; a second call does nothing."""
        if not self._removed:
            self._removed = True
            self._hooks.remove(self._hook)


def _rebuild(kind: type[Tensor], array: Any, device: str, requires_grad: bool) -> Tensor:
    from minidl.backend import get_backend
    F = get_backend(device)
    is_known(array.dtype)                            # bfloat16 may be new to this process
    t = kind.__new__(kind)
    t.data, t.F, t.edge = F.asarray(array), F, None
    return t.requires_grad_(requires_grad)


# ---------------------------------------------------------------------------------------------------- operands and dtypes
def promote(F: Any, x: Any, z: Any) -> Any:
    """The dtype of an operation on two arrays, as PyTorch's ``result_type``.

    bool < integer < floating point.  Within a category the wider wins, except that a 0-d array yields to an array with
    axes: a float64 number does not turn a float32 image into float64.
    """
    try:
        rank_x, rank_z = RANK[x.dtype.kind], RANK[z.dtype.kind]
    except KeyError as e:
        raise DTypeError(f"minidl computes with bool, integers and floating point; found {x.dtype} and {z.dtype}") from e
    if rank_x != rank_z:
        return x.dtype if rank_x > rank_z else z.dtype
    if (x.ndim == 0) != (z.ndim == 0):
        return x.dtype if x.ndim else z.dtype
    return F.promote_types(x.dtype, z.dtype)


def as_operand(value: Any, like: Any, verb: str) -> Tensor:
    """An operand of an elementwise operation as a Tensor beside the Tensor ``like``.

    A Python scalar takes the other's dtype unless that would lose its kind (a float beside integers is float32).
    """
    if isinstance(value, Tensor):
        return value
    if not isinstance(like, Tensor):
        raise TypeError(f"{verb}: expected a Tensor, found {type(like).__name__}; wrap it in minidl.tensor()")
    kind, F = type(value), like.F
    if kind is float or kind is int or kind is bool:
        dtype = like.data.dtype
        if kind is float and dtype.kind in "iub":
            dtype = F.float32
        elif kind is int and dtype.kind == "b":
            dtype = F.int64
        key = (value, dtype)
        array = F.scalars.get(key)                   # a cached 0-d array: NumPy takes 250 ns longer for a Python scalar
        if array is None:
            try:
                array = F.scalar(value, dtype)
            except OverflowError:
                raise DTypeError(f"{verb}: {value} does not fit {dtype}") from None
            if value != 0 and value == value:        # 0.0 == -0.0 as a key, and NaN never equals itself
                if len(F.scalars) >= SCALAR_CACHE:
                    F.scalars.clear()
                F.scalars[key] = array
        return Tensor(array, F)
    if isinstance(value, F.xp.generic):              # numpy.float64(2) is as weak as 2.0
        return as_operand(value.item(), like, verb)
    array = F.asarray(value)
    if not is_known(array.dtype):
        raise TypeError(f"{verb}: expected a Tensor or a number, found {type(value).__name__}")
    return Tensor(array, F)


# ------------------------------------------------------------------------------------------------------------------ views
def link_view(view: Tensor, parent: Tensor, verb: str, options: dict[str, Any]) -> None:
    """Note that ``view`` shares the memory of ``parent``: ``view = tensors.<verb>(parent, **options)``."""
    if not grad_mode.get():
        view.origin = None                           # nobody will tell it of a recorded write, see ops.inplace
        return
    origin = getattr(parent, "origin", None)
    root = parent if origin is None else origin[3]
    view.origin = (parent, verb, options, root)
    views = getattr(root, "views", None)
    if views is None:
        views = root.views = []
    elif len(views) >= 16 and len(views) & (len(views) - 1) == 0:        # now and then, forget the dead
        views[:] = [r for r in views if r() is not None]
    views.append(weakref.ref(view))
