"""Files as torch.save writes them, built byte by byte, so that their reader is tested where torch is not installed."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np

STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
}


@dataclass(frozen=True)
class Global:
    """A name that the pickle imports."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    function: Any
    arguments: tuple[Any, ...]
    items: tuple[tuple[Any, Any], ...] = ()
    state: Any = None


@dataclass(frozen=True)
class Object:
    cls: Global
    state: Any


@dataclass(frozen=True)
class Persistent:
    identity: tuple[Any, ...]


@dataclass(eq=False)
class Storage:
    """Stored bytes; ``count`` and ``key`` may be set to lies."""

    data: bytes
    kind: str
    count: int
    key: str = ""
    view: Any = None


@dataclass(eq=False)
class Saved:
    """What ``program`` collects on its way: the storages by key, in order."""

    legacy: bool = False
    storages: dict[str, Storage] = field(default_factory=dict)
    memo: dict[int, int] = field(default_factory=dict)
    keep: list[Any] = field(default_factory=list)

    def emit(self, value: Any) -> bytes:
        """The instructions of protocol 2 that put ``value`` on the stack."""
        if isinstance(value, Storage | Call | Object) and id(value) in self.memo:
            return b"j" + struct.pack("<I", self.memo[id(value)])
        if isinstance(value, Global):
            return f"c{value.module}\n{value.name}\n".encode()
        if isinstance(value, Persistent):
            return self.emit(value.identity) + b"Q"
        if isinstance(value, Storage):
            key = value.key or str(len(self.storages))
            self.storages[key] = value
            identity = ("storage", Global("torch", value.kind), key, "cpu", value.count)
            return self._memoize(value, self.emit((*identity, value.view) if self.legacy else identity) + b"Q")
        if isinstance(value, Call):
            code = self.emit(value.function) + self.emit(value.arguments) + b"R"
            if value.items:
                code += b"(" + b"".join(self.emit(key) + self.emit(item) for key, item in value.items) + b"u"
            if value.state is not None:
                code += self.emit(value.state) + b"b"
            return self._memoize(value, code)
        if isinstance(value, Object):
            return self._memoize(value, self.emit(value.cls) + b")\x81" + self.emit(value.state) + b"b")
        if isinstance(value, dict):
            return b"}(" + b"".join(self.emit(key) + self.emit(item) for key, item in value.items()) + b"u"
        if isinstance(value, tuple | list):
            return b"(" + b"".join(map(self.emit, value)) + (b"t" if isinstance(value, tuple) else b"l")
        return pickle.dumps(value, 2)[2:-1]

    def _memoize(self, value: Any, code: bytes) -> bytes:
        self.keep.append(value)  # alive, so that no other object gets its id
        self.memo[id(value)] = 1000 + len(self.memo)
        return code + b"r" + struct.pack("<I", self.memo[id(value)])

    def program(self, value: Any) -> bytes:
        return b"\x80\x02" + self.emit(value) + b"."


def storage(array: Any, **lies: Any) -> Storage:
    array = np.asarray(array)
    return Storage(array.tobytes(), STORAGES[array.dtype.name], array.size, **lies)


def bfloat16(array: Any) -> Storage:
    """float32 cut off to bfloat16."""
    array = np.asarray(array, np.float32)
    return Storage((array.view(np.uint32) >> 16).astype("<u2").tobytes(), "BFloat16Storage", array.size)


def view(stored: Storage, shape: Any, stride: Any, offset: int = 0) -> Call:
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, (stored, offset, tuple(shape), tuple(stride), False, ordered({})))


def tensor(array: Any) -> Call:
    array = np.ascontiguousarray(array)
    return view(storage(array), array.shape, [step // array.itemsize for step in array.strides])


def parameter(data: Call) -> Call:
    return Call(Global("torch._utils", "_rebuild_parameter"), (data, True, ordered({})))


def ordered(items: dict[Any, Any], state: Any = None) -> Call:
    return Call(Global("collections", "OrderedDict"), (), tuple(items.items()), state)


def module(
    cls: str,
    parameters: dict[str, Any] | None = None,
    buffers: dict[str, Any] | None = None,
    modules: dict[str, Any] | None = None,
    hidden: tuple[str, ...] = (),
    **attributes: Any,
) -> Object:
    """An instance of the module class ``cls`` with what torch pickles of it."""
    where, _, name = cls.rpartition(".")
    parts = {"_parameters": parameters, "_buffers": buffers, "_modules": modules}
    state = {"training": True} | {key: ordered(part or {}) for key, part in parts.items()}
    state["_non_persistent_buffers_set"] = Call(Global("__builtin__", "set"), (list(hidden),))
    return Object(Global(where, name), state | attributes)


def zip_file(
    value: Any, *, deflate: bool = False, byteorder: str | None = "little", extra: dict[str, bytes] | None = None
) -> bytes:
    saved = Saved()
    entries = {"data.pkl": saved.program(value), ".format_version": b"1", ".storage_alignment": b"64"}
    if byteorder:
        entries["byteorder"] = byteorder.encode()
    entries |= {f"data/{key}": stored.data for key, stored in saved.storages.items()}
    entries |= {"version": b"3\n", ".data/serialization_id": b"0" * 40} | (extra or {})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(f"archive/{name}")
            info.compress_type = archive.compression
            # Storages start at multiples of 64 bytes: torch fills up with an extra field of zeros.
            start = file.tell() + 30 + len(info.filename)
            info.extra = b"FB" + struct.pack("<H", -(start + 4) % 64) + b"\0" * (-(start + 4) % 64)
            archive.writestr(info, content)
    return file.getvalue()


def legacy_file(value: Any, *, little_endian: bool = True) -> bytes:
    saved = Saved(legacy=True)
    program = saved.program(value)
    pickles = [
        pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        pickle.dumps(1001, 2),
        pickle.dumps(
            {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"short": 2, "int": 4, "long": 4}},
            2,
        ),
        program,
        pickle.dumps(sorted(saved.storages), 2),
    ]
    raw = [struct.pack("<q", saved.storages[key].count) + saved.storages[key].data for key in sorted(saved.storages)]
    return b"".join(pickles + raw)
