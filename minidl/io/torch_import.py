"""Weights from PyTorch's files, without PyTorch and without running anything that is in them.

``torch.save`` writes a pickle, a program that may name and call any function.  Here it is read by a machine that knows
a handful of constructors and refuses everything else by name (:mod:`minidl.io.torch_pickle`); the numbers are then taken
from the bytes beside it (:mod:`minidl.io.torch_file`).
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from minidl.errors import CheckpointError
from minidl.io.safetensors import Arrays
from minidl.io.torch_file import TorchFile, read
from minidl.io.torch_pickle import ITEMSIZE, Opaque, TensorRef

#: Where training scripts put the weights, the likeliest first.
WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params", "ema_state_dict",
    "model_ema", "ema",
)  # fmt: skip
#: What wrappers of models (DataParallel, torch.compile) put before every name.
PREFIXES = ("module.", "_orig_mod.")

_MOST_NAMES, _MOST_DEPTH, _MOST_TEXT = 200_000, 100, 1 << 26
# Tied tensors are read once, and a view may be smaller or larger than its storage, but not so that a small file
# becomes a huge array.
_MOST_GROWTH, _SMALL = 4, 16 << 20


def load_pth(path: str | os.PathLike[str], entry: str | None = None) -> tuple[Arrays, dict[str, str]]:
    """The weights in a file that ``torch.save`` wrote, as NumPy arrays by name, in the file's order.

    Reads the zip format and the one before torch 1.6; a state dict, one inside of a checkpoint (``{"state_dict": ...}``,
    ``{"model": ...}``, ...), and a whole pickled module, whose parameters and buffers get the names of its state dict.
    ``module.`` and ``_orig_mod.`` in front of every name are removed.

    Args:
        path: the file.
        entry: which entry of a checkpoint holds the weights, where that cannot be guessed: ``"ema"``.

    Returns:
        ``(arrays, metadata)``.  bfloat16 becomes float32, which is exact; other dtypes stay.  Tied tensors are one and the
        same array.  The metadata (text to text, as safetensors has it) tells under ``torch.format`` "zip" or "legacy",
        under ``torch.entry`` and ``torch.prefix`` where the weights were and what was removed, under ``torch.class`` the
        class of a whole module, under ``torch.bfloat16`` how many tensors were widened, and under ``torch.values`` the
        numbers and texts beside the weights (epoch, arch, ...) as JSON.

    Raises:
        CheckpointError: no such file; a file that is truncated, corrupt, of another kind or made to do harm (it is named
            what it would have called); no weights in it, or several sets of them.

    Source of the format: the serialization notes of PyTorch's documentation.
    """
    return read(path, lambda file: _load(file, entry))


def _load(file: TorchFile, entry: str | None) -> tuple[Arrays, dict[str, str]]:
    metadata = {"torch.format": file.format}
    refs = _find(file.value, entry, metadata)
    refs = _strip(refs, metadata)
    _check_growth(refs)
    file.load({id(ref.record): ref.record for ref in refs.values()}.values())
    done: dict[TensorRef, Any] = {}
    arrays = {}
    for name, ref in refs.items():
        if ref not in done:
            done[ref] = _array(ref, file.byteorder)
        arrays[name] = done[ref]
    widened = sum(ref.code == "bf16" for ref in refs.values())
    if widened:
        metadata["torch.bfloat16"] = str(widened)
    return arrays, metadata


# ------------------------------------------------------------------------------------- where in the file the weights are
def _find(value: Any, entry: str | None, metadata: dict[str, str]) -> dict[str, TensorRef]:
    """The tensors of the state dict in ``value``, through at most a few wrappers."""
    path: list[str] = []
    values: dict[str, Any] = {}
    if entry is not None:
        if not isinstance(value, dict) or not _holds_weights(value.get(entry)):
            raise CheckpointError(f"has no weights under {entry!r}; it holds {_describe(value)}")
        path.append(entry)
        value = value[entry]
    while isinstance(value, dict) and len(path) < 4 and (inner := _wrapped(value)) is not None:
        values |= {key: v for key, v in value.items() if isinstance(key, str) and _is_note(v)}
        path.append(inner)
        value = value[inner]
    if path:
        metadata["torch.entry"] = ".".join(path)
    if values:
        metadata["torch.values"] = json.dumps(values, sort_keys=True)
    refs: dict[str, TensorRef] = {}
    if isinstance(value, Opaque):
        metadata["torch.class"] = value.name
        _walk(value, "", (), refs)
    elif isinstance(value, dict):
        refs = {key: v for key, v in value.items() if isinstance(key, str) and isinstance(v, TensorRef)}
    if not refs:
        raise CheckpointError(f"holds no weights: expected a state dict or a module, found {_describe(value)}")
    return refs


def _wrapped(value: dict[Any, Any]) -> str | None:
    """The key under which a checkpoint has its weights; None for a dictionary that is itself a state dict."""
    for key in WRAPPERS:
        if _holds_weights(value.get(key)):
            return key
    found = [key for key, v in value.items() if isinstance(key, str) and _holds_weights(v)]
    if len(found) > 1:
        names = ", ".join(repr(key[:40]) for key in found[:8])
        raise CheckpointError(
            f"holds several sets of weights, {names}; choose one with load_pth(path, entry={found[0][:40]!r})"
        )
    return found[0] if found else None


def _holds_weights(value: Any, nested: bool = True) -> bool:
    if isinstance(value, Opaque):
        return isinstance(value.state, dict) and "_parameters" in value.state
    if not isinstance(value, dict):
        return False
    if nested and any(_holds_weights(value.get(key), False) for key in WRAPPERS):
        return True
    return any(isinstance(v, TensorRef) and isinstance(key, str) for key, v in value.items())


def _walk(module: Opaque, prefix: str, above: tuple[Opaque, ...], refs: dict[str, TensorRef]) -> None:
    """Name the tensors of a pickled ``torch.nn.Module`` as its state dict does: parameters, buffers, then the children's."""
    if module in above or len(above) > _MOST_DEPTH:
        raise ValueError("its modules contain themselves, or are nested without end")
    state = module.state if isinstance(module.state, dict) else {}
    hidden = state.get("_non_persistent_buffers_set")
    for kind in ("_parameters", "_buffers"):
        for name, value in _items(state.get(kind)):
            if isinstance(value, TensorRef) and not (
                kind == "_buffers" and isinstance(hidden, list) and name in hidden
            ):
                refs[prefix + name] = value
    for name, child in _items(state.get("_modules")):
        if isinstance(child, Opaque):
            if len(refs) > _MOST_NAMES or len(refs) * len(prefix) > _MOST_TEXT:
                raise ValueError(f"its modules have more than {_MOST_NAMES:,} tensors")
            _walk(child, f"{prefix}{name}.", (*above, module), refs)


def _items(value: Any) -> list[tuple[str, Any]]:
    return [(key, v) for key, v in value.items() if isinstance(key, str)] if isinstance(value, dict) else []


def _is_note(value: Any) -> bool:
    """A number or a short text, such as the epoch or the architecture's name."""
    if isinstance(value, str):
        return len(value) < 200
    return isinstance(value, bool | float) or type(value) is int and abs(value) < 2**63


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        keys = ", ".join(repr(key[:40]) if isinstance(key, str) else str(key)[:40] for key in list(value)[:8])
        return f"a dictionary with the keys {keys}" if value else "an empty dictionary"
    if isinstance(value, Opaque):
        return f"an object of {value.name[:80]} without parameters"
    return "a single tensor" if isinstance(value, TensorRef) else f"a {type(value).__name__}"


def _strip(refs: dict[str, TensorRef], metadata: dict[str, str]) -> dict[str, TensorRef]:
    """Remove what a wrapping module put before every name."""
    removed = ""
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) and name != p for name in refs)), ""):
        refs = {name.removeprefix(prefix): ref for name, ref in refs.items()}
        removed += prefix
    if removed:
        metadata["torch.prefix"] = removed
    return refs


# ------------------------------------------------------------------------------------------------------------ the numbers
def _check_growth(refs: dict[str, TensorRef]) -> None:
    """Refuse views that would make arrays out of all proportion to the bytes that they view."""
    stored = sum({id(ref.record): ref.record.nbytes for ref in refs.values()}.values())
    wanted = sum(ref.size * ITEMSIZE[ref.code] for ref in set(refs.values()))
    if wanted > _MOST_GROWTH * stored + _SMALL:
        raise CheckpointError(f"is a size bomb: its tensors are views of {stored:,} bytes that would take {wanted:,}")


def _array(ref: TensorRef, byteorder: str) -> Any:
    """The elements that ``ref`` views, contiguous, in this machine's byte order."""
    code = {"bf16": "u2", "?": "u1"}.get(ref.code, ref.code)
    dtype = np.dtype(byteorder + code)
    data = ref.record.data
    elements = data[: data.size - data.size % dtype.itemsize].view(dtype)
    if ref.size == 0:
        view = np.empty(ref.shape, dtype)
    else:
        strides = [0 if n == 1 else step * dtype.itemsize for n, step in zip(ref.shape, ref.stride, strict=True)]
        view = np.lib.stride_tricks.as_strided(elements[ref.offset :], ref.shape, strides)
    if ref.code == "bf16":  # the upper half of a float32
        wide = np.array(view, np.uint32, order="C")
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    if ref.code == "?":
        return np.asarray(view != 0, order="C")
    native = np.asarray(view, dtype=dtype.newbyteorder("="), order="C")
    # A part of a large storage is copied, so as not to keep all of it in memory.
    return native.copy() if native.nbytes < data.nbytes and np.may_share_memory(native, data) else native
