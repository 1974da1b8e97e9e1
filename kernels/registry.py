"""Which function computes a verb: ``(verb, device, variant) -> callable``.

``lookup`` is called for every operation of every step, so its answer is cached per thread in a plain dict; ``use`` swaps
that dict, ``register`` and ``refresh`` empty it.  Families of kernels are imported when one of their verbs is first
looked up: importing minidl.kernels loads none of them.
"""
import contextlib
import functools
import importlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from minidl.errors import ConfigError
from minidl.kernels import contract

Kernel = Callable[..., Any]

ENVIRONMENT = "MINIDL_KERNELS"

# The packages that hold a module per family; importing that module registers its kernels.
_PACKAGES = ("minidl.kernels.plain", "minidl.kernels.reference")

# The families that the fast CPU kernels (minidl.kernels.cpu) have a module for.
_VECTOR_FAMILIES = ("activation", "attention", "conv", "dropout", "elementwise", "loss", "norm", "optim", "philox", "pool",
                    "softmax", "sums")

# The families that the CUDA kernels (minidl.kernels.cuda) have a module for.
_CUDA_FAMILIES = ("activation", "attention", "conv", "dropout", "elementwise", "embedding", "lists", "loss", "norm", "optim",
                  "philox", "pool", "softmax", "sums")

# Best first; a variant that is in nobody's order is used only when asked for by name.
_CUDA_ORDER = ("depthwise", "tensor", "pipelined", "cuda")
_ORDER: dict[str, tuple[str, ...]] = {"cpu": ("vector", "numpy", "reference"), "cuda": (*_CUDA_ORDER, "cupy"),
                                     "emu": (*_CUDA_ORDER, "numpy")}

_table: dict[tuple[str, str], dict[str, Kernel]] = {}
_loaded: set[str] = set()
_lock = threading.RLock()
_environment: dict[str, str] | None = None


class _Cache(dict[tuple[str, str], Kernel]):
    """What was already looked up under one choice; emptied, in whatever thread it lives, when the table changes."""

    def __init__(self) -> None:
        super().__init__()
        with _lock:
            _caches[id(self)] = self


_caches: "weakref.WeakValueDictionary[int, _Cache]" = weakref.WeakValueDictionary()


def _forget() -> None:
    for cache in list(_caches.values()):
        cache.clear()


class _Local(threading.local):
    """What one thread has chosen and what it has already looked up."""

    def __init__(self) -> None:
        self.choice: dict[str, str] = {}
        self.cache = _Cache()


_local = _Local()


def register(verb: str, device: str, variant: str) -> Callable[[Kernel], Kernel]:
    """Decorator: the function below computes ``verb`` on ``device`` ("cpu", "cuda") and is called ``variant``.

    Its arguments and results are those of the verb's contract.  A second kernel under the same three names is a ConfigError.
    """
    contract.spec(verb)

    def decorate(kernel: Kernel) -> Kernel:
        with _lock:
            entry = _table.setdefault((verb, device), {})
            if variant in entry and entry[variant] is not kernel:
                raise ConfigError(f"kernel {verb!r} on {device!r} already has a variant {variant!r}; pick another name")
            entry[variant] = kernel
            _forget()
        return kernel

    return decorate


def plain(verb: str) -> Callable[[Kernel], Kernel]:
    """Decorator for array-module code ``f(xp, ...)``: variant "numpy" on the CPU and, from the same source, "cupy" on CUDA.

    "emu", the device of the CUDA emulator, has NumPy arrays: there it is "numpy" too.
    """

    def decorate(kernel: Kernel) -> Kernel:
        import numpy

        register(verb, "cpu", "numpy")(functools.partial(kernel, numpy))
        register(verb, "cuda", "cupy")(functools.partial(_on_cupy, kernel))
        register(verb, "emu", "numpy")(functools.partial(kernel, numpy))
        return kernel

    return decorate


def _on_cupy(kernel: Kernel, *args: Any, **options: Any) -> Any:
    import cupy

    return kernel(cupy, *args, **options)


def reference(verb: str) -> Callable[[Kernel], Kernel]:
    """Decorator for an oracle: variant "reference", NumPy only."""
    return register(verb, "cpu", "reference")


def lookup(verb: str, device: str = "cpu") -> Kernel:
    """The kernel that computes ``verb`` on ``device`` under the choices in force in this thread.

    Raises:
        ConfigError: no such verb, no kernel for the device, or a chosen variant that the device does not have; the message
            lists what there is.
    """
    return _local.cache.get((verb, device)) or _resolve(verb, device)


def _resolve(verb: str, device: str) -> Kernel:
    with _lock:  # so that what is stored cannot be older than the table
        found = variants(verb, device)
        if not found:
            raise ConfigError(f"kernel {verb!r} has no variant for device {device!r}; devices: {', '.join(_devices(verb))}")
        order = [*_ORDER.get(device, ()), *found]
        named = _chosen(verb)
        if named is not None:
            name, exact = named
            if exact and name not in found:
                raise ConfigError(_unknown_variant(verb, name, device, found))
            order.insert(0, name)
        kernel = next(found[name] for name in order if name in found)
        _local.cache[verb, device] = kernel
        return kernel


def _chosen(verb: str) -> tuple[str, bool] | None:
    """The variant asked for, and whether it was asked for this verb by name; ``use`` beats the environment."""
    for choice in (_local.choice, _from_environment()):
        if verb in choice:
            return choice[verb], True
        if "*" in choice:
            return choice["*"], False
    return None


def variants(verb: str, device: str = "cpu") -> dict[str, Kernel]:
    """Every kernel of ``verb`` on ``device``, by variant name."""
    _load(contract.spec(verb).family)
    return dict(_table.get((verb, device), {}))


def next_best(verb: str, device: str, variant: str) -> Kernel:
    """What computes a call that ``variant`` refuses: the one after it in the device's order, or the first of all if it has no
    place there.  The last of an order takes every call."""
    found, order = variants(verb, device), _ORDER[device]
    return next(found[name] for name in order[order.index(variant) + 1 if variant in order else 0 :] if name in found)


def best_first(verb: str, device: str) -> tuple[str, ...]:
    """The variants in the order in which they are asked, then those that run when they are asked for by name alone."""
    found = variants(verb, device)
    return tuple(dict.fromkeys((*(name for name in _ORDER.get(device, ()) if name in found), *found)))


def _load(family: str) -> None:
    if family in _loaded:
        return
    with _lock:
        if family in _loaded:
            return
        for package in _PACKAGES:
            importlib.import_module(f"{package}.{family}")
        if family in _VECTOR_FAMILIES:
            importlib.import_module(f"minidl.kernels.cpu.{family}")
        if family in _CUDA_FAMILIES:
            importlib.import_module(f"minidl.kernels.cuda.{family}")
        importlib.import_module("minidl.kernels.numba_loops").register_family(family)
        _loaded.add(family)


def _devices(verb: str) -> list[str]:
    return sorted(device for known, device in _table if known == verb)


@contextlib.contextmanager
def use(everywhere: str | None = None, /, **choice: str) -> Iterator[None]:
    """Choose variants for the block, in this thread: ``use(conv2d="reference")``.

    One positional name chooses that variant for every verb that has it: ``use("reference")``.  Blocks nest: an inner block
    adds to the outer one's choices, and a positional name replaces them all.

    Raises:
        ConfigError: an unknown verb, or a variant that no device has.
    """
    for verb, name in choice.items():
        _check(verb, name)
    if everywhere is not None:
        _check_everywhere(everywhere)
    outer = _local.choice, _local.cache
    inner = {"*": everywhere} if everywhere is not None else dict(_local.choice)
    _local.choice, _local.cache = {**inner, **choice}, _Cache()
    try:
        yield
    finally:
        _local.choice, _local.cache = outer


def refresh() -> None:
    """Read MINIDL_KERNELS again; it is otherwise read once, at the first lookup."""
    global _environment
    with _lock:
        _environment = None
        _forget()


def _from_environment() -> dict[str, str]:
    global _environment
    if _environment is None:
        with _lock:
            parsed = _parse(os.environ.get(ENVIRONMENT, ""))
            _environment = parsed
            return parsed
    return _environment


def _parse(text: str) -> dict[str, str]:
    choice: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        verb, equals, name = (piece.strip() for piece in part.partition("="))
        try:
            if equals:
                _check(verb, name)
                choice[verb] = name
            else:
                _check_everywhere(verb)
                choice["*"] = verb
        except ConfigError as error:
            raise ConfigError(
                f"{ENVIRONMENT}={text!r}: {error} (the form is verb=variant,verb=variant or one variant for all)"
            ) from None
    return choice


def _check(verb: str, name: str) -> None:
    _load(contract.spec(verb).family)
    if not any(name in _table[verb, device] for device in _devices(verb)):
        raise ConfigError(_unknown_variant(verb, name, "cpu", _table.get((verb, "cpu"), {})))


def _check_everywhere(name: str) -> None:
    for verb in contract.verbs():
        _load(contract.spec(verb).family)
    known = sorted({variant for entry in _table.values() for variant in entry})
    if name not in known:
        raise ConfigError(f"no kernel has a variant {name!r}; variants: {', '.join(known)}")


def _unknown_variant(verb: str, name: str, device: str, found: dict[str, Kernel]) -> str:
    return f"kernel {verb!r} has no variant {name!r} on {device!r}; it has: {', '.join(sorted(found))}"
