"""What a PyTorch file's pickle says, written down without importing or running anything.

Every name that the pickle mentions becomes a stand-in.  Only the constructors in ``_CALLS`` can be called, and each is
replaced by a few lines here that record their arguments: a tensor is a :class:`TensorRef` into a :class:`Storage`, the
object of a class that minidl does not know is an :class:`Opaque` with its attributes.  Names from Python's standard
library that are not in ``_HARMLESS`` - ``os.system``, ``eval``, ... - are refused as soon as they appear, other calls
when they are made.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

from minidl.pickles import Machine, Refused

# torch's names of storages and dtypes -> NumPy's code of one element; "bf16" is widened when it is read.
_STORAGES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
    "UntypedStorage": "u1",  # bytes; the tensor says what they are
}
_DTYPES = {
    "float32": "f4",
    "float64": "f8",
    "float16": "f2",
    "bfloat16": "bf16",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "?",
    "complex64": "c8",
    "complex128": "c16",
}
ITEMSIZE = {code: 2 if code == "bf16" else 1 if code == "?" else int(code[1:]) for code in _STORAGES.values()}
ITEMSIZE |= {"u2": 2, "u4": 4, "u8": 8}

# Standard-library names that appear in saved nets and do nothing by themselves.  The first module of each line is how
# Python 2, and so protocol 2, calls it.
_HARMLESS = {
    *(f"{module}.{name}" for module in ("__builtin__", "builtins") for name in (
        "set", "frozenset", "list", "dict", "tuple", "int", "float", "bool", "str", "complex", "slice", "object", "long",
    )),
    "collections.OrderedDict", "collections.defaultdict", "collections.Counter",
    "copy_reg._reconstructor", "copyreg._reconstructor",
    "_codecs.encode", "functools.partial", "argparse.Namespace", "types.SimpleNamespace", "datetime.datetime",
    "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib._local.PosixPath",
}  # fmt: skip
_PYTHON_2 = {"__builtin__", "copy_reg", "commands", "popen2", "cPickle", "exceptions", "new", "imp"}  # no longer there
_ORDERED = "collections.OrderedDict"


@dataclasses.dataclass(frozen=True)
class Name:
    """A name that the pickle imports: ``torch.nn.modules.conv.Conv2d``."""

    name: str


@dataclasses.dataclass(eq=False)
class Opaque:
    """An object of a class that is not known here, with whatever attributes the pickle gives it."""

    name: str
    state: Any = None


class Mapping(dict[Any, Any]):
    """An OrderedDict, whose own attributes (``_metadata``) are of no interest."""


@dataclasses.dataclass(eq=False)
class Record:
    """Bytes stored beside the pickle under ``key``: ``count`` elements of ``code``."""

    key: str
    code: str
    count: int
    data: Any = None

    @property
    def nbytes(self) -> int:
        return self.count * ITEMSIZE[self.code]


@dataclasses.dataclass(frozen=True)
class Storage:
    """The elements ``start`` .. ``start + count`` of a record."""

    record: Record
    start: int
    count: int


@dataclasses.dataclass(frozen=True)
class TensorRef:
    """A view of a record: ``offset`` and ``stride`` count elements of ``code``."""

    record: Record
    code: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements."""
        size = 1
        for n in self.shape:
            size *= n
        return size


class Reader(Machine):
    """The machine that reads the pickles of PyTorch files; :attr:`records` then says which bytes they need."""

    extra = frozenset(("POP", "NEWOBJ", "BINPERSID", "EMPTY_SET", "ADDITEMS", "FROZENSET"))

    def __init__(self, budget: int) -> None:
        super().__init__(budget)
        self.records: dict[str, Record] = {}

    def name(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        root = module.partition(".")[0]
        if (root in sys.stdlib_module_names or root in _PYTHON_2) and full not in _HARMLESS:
            raise Refused(f"a call of {full[:80]!r}")
        return Name(full)

    def call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise Refused("a call of something that is not a name")
        constructor = _CALLS.get(function.name)
        if constructor is None:
            raise Refused(f"a call of {function.name[:80]!r}")
        return constructor(self, *arguments)

    def instance(self, cls: Any, arguments: Any) -> Any:
        if not isinstance(cls, Name):
            raise Refused("an object of something that is not a class")
        return Mapping() if cls.name == _ORDERED else Opaque(cls.name)

    def build(self, target: Any, state: Any) -> None:
        if isinstance(target, Opaque):
            # (attributes, slots) for a class with __slots__
            attributes = state[0] if isinstance(state, tuple) and len(state) == 2 else state
            target.state = attributes if isinstance(attributes, dict) else {}
        elif not isinstance(target, Mapping | TensorRef):
            raise Refused(f"a state for a {type(target).__name__}")

    def key(self, key: Any) -> Any:
        # Other keys are kept apart by identity: they name no tensor, and must not be hashed.
        return super().key(key) if type(key) in (str, bytes, int) else Opaque("key", key)

    def persistent(self, identity: Any) -> Any:
        """('storage', class, key, location, count[, view]), or ('module', class, file, source) of old whole modules."""
        match identity:
            case ("module", Name() as cls, *_):
                return cls
            case ("storage", Name(name=name), str(key), str(), int(count), *view):
                pass
            case _:
                raise ValueError("a reference that is not one to a storage")
        module, _, kind = name.rpartition(".")
        if kind not in _STORAGES or module not in ("torch", "torch.cuda", "torch.storage"):
            raise Refused(f"a storage of the type {name[:80]!r}, which minidl cannot read")
        record = self.records.setdefault(key, Record(key, _STORAGES[kind], count))
        if record.code != _STORAGES[kind] or record.count != count or count < 0:
            raise ValueError(f"storage {key[:40]!r} is described in two ways, or has a negative size")
        match view:
            case [] | [None]:
                return Storage(record, 0, count)
            case [(_, int(start), int(size))] if 0 <= start <= start + size <= count:
                return Storage(record, start, size)
        raise ValueError("a view that lies outside of its storage")


def _tensor(
    reader: Reader, storage: Any, offset: Any, shape: Any, stride: Any, requires_grad: Any = False, hooks: Any = None,
    metadata: Any = None, *, code: str | None = None,
) -> TensorRef:  # fmt: skip
    """``torch._utils._rebuild_tensor_v2``: check that the view lies inside its storage."""
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    if metadata:
        raise Refused(
            "a tensor with a lazy conjugate or negation, which minidl cannot read; save tensor.resolve_conj()"
        )
    numbers = (offset, *shape, *stride)
    if len(shape) != len(stride) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise ValueError("a tensor whose offset, shape and stride are not whole numbers that fit together")
    code = code or storage.record.code
    start, count = storage.start, storage.count
    if code != storage.record.code:  # a storage of bytes: v3 counts elements of the tensor's dtype
        if storage.record.code != "u1" or start:
            raise ValueError("a tensor and a storage of different dtypes")
        count //= ITEMSIZE[code]
    if 0 not in shape:
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if last >= count:
            raise ValueError(
                f"a tensor of shape {tuple(shape)}, stride {tuple(stride)} and offset {offset} reaches out of its storage of "
                f"{count} elements"
            )
    return TensorRef(storage.record, code, start + offset, tuple(shape), tuple(stride))


def _tensor_v3(
    reader: Reader, storage: Any, offset: Any, shape: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any,
    metadata: Any = None,
) -> TensorRef:  # fmt: skip
    name = dtype.name.removeprefix("torch.") if isinstance(dtype, Name) else ""
    if name not in _DTYPES:
        raise Refused(f"a tensor of dtype {name[:40] or dtype!r}, which minidl cannot read")
    return _tensor(reader, storage, offset, shape, stride, metadata=metadata, code=_DTYPES[name])


def _parameter(reader: Reader, data: Any, *_: Any) -> Any:
    if not isinstance(data, TensorRef):
        raise ValueError("a parameter without a tensor")
    return data


def _from_type(reader: Reader, function: Any, cls: Any, arguments: Any, state: Any) -> Any:
    """A tensor of a subclass, or with attributes: the tensor is what matters."""
    return reader.call(function, arguments)


def _reconstructor(reader: Reader, cls: Any, base: Any, state: Any) -> Any:
    return reader.instance(cls, ())


def _mapping(reader: Reader, items: Any = ()) -> Mapping:
    pairs = items.items() if isinstance(items, dict) else items
    reader.charge(len(pairs))
    return Mapping((reader.key(key), value) for key, value in pairs)


def _list(reader: Reader, items: Any = ()) -> list[Any]:
    """A set; its elements are not hashed."""
    reader.charge(len(items))
    return list(items)


def _size(reader: Reader, sizes: Any = ()) -> tuple[Any, ...]:
    reader.charge(len(sizes))
    return tuple(sizes)


def _opaque(name: str) -> Callable[..., Any]:
    return lambda reader, *arguments: Opaque(name)


_CALLS: dict[str, Callable[..., Any]] = {
    _ORDERED: _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": lambda reader, *_: Mapping(),
    **{f"{module}.{name}": _list
       for module in ("__builtin__", "builtins") for name in ("set", "frozenset")},
    "copy_reg._reconstructor": _reconstructor,
    "copyreg._reconstructor": _reconstructor,
    "_codecs.encode": lambda reader, text, encoding: reader.latin1(text),
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._tensor._rebuild_from_type": _from_type,
    **{name: _opaque(name) for name in (
        "functools.partial", "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath",
        "pathlib._local.PosixPath", "datetime.datetime", "argparse.Namespace", "torch.device",
        "torch.serialization._get_layout", "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    )},
}  # fmt: skip
