"""Containers: Sequential, ModuleList, ModuleDict and ParameterList."""
from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, overload

from minidl.nn.activation import ReLU
from minidl.nn.conv import Conv2d
from minidl.nn.hooks import watched
from minidl.nn.module import MODULE, Module, _indent
from minidl.nn.norm import BatchNorm1d, BatchNorm2d
from minidl.nn.parameter import Parameter

_FUSING = (BatchNorm1d, BatchNorm2d, Conv2d)      # their forward takes relu=True


class _ModuleSequence(Module):
    """Children named "0", "1", ... that can be indexed, sliced and extended like a list."""

    def _names(self) -> list[str]:
        return [name for name, kind in self._kinds.items() if kind == MODULE]

    def _values(self) -> list[Any]:
        own = self.__dict__
        return [own[name] for name, kind in self._kinds.items() if kind == MODULE]

    def _set_all(self, items: Iterable[Module]) -> None:
        """Renumber: the children become exactly ``items``."""
        items = list(items)
        for name in self._names():
            delattr(self, name)
        for index, item in enumerate(items):
            self.register_module(str(index), item)

    def _position(self, index: int) -> int:
        index, size = operator.index(index), len(self)
        if not -size <= index < size:
            raise IndexError(f"{type(self).__name__}: index {index} is out of range for {size} modules")
        return index % size

    def __len__(self) -> int:
        return len(self._names())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values())

    def __contains__(self, module: object) -> bool:
        return any(module is own for own in self._values())

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._names()[self._position(index)], module)

    def __delitem__(self, index: int | slice) -> None:
        values = self._values()
        del values[index if isinstance(index, slice) else self._position(index)]
        self._set_all(values)

    def append(self, module: Module) -> Any:
        """Add one module at the end; returns the container."""
        self.register_module(str(len(self)), module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Insert a module before ``index``; the later ones are renumbered."""
        values = self._values()
        values.insert(index, module)
        self._set_all(values)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add several modules at the end; returns the container."""
        for module in list(modules):
            self.append(module)
        return self

    def pop(self, index: int = -1) -> Any:
        """Remove and return one module."""
        values = self._values()
        module = values.pop(self._position(index))
        self._set_all(values)
        return module


class Sequential(_ModuleSequence):
    """Modules applied one after the other: ``Sequential(Conv2d(...), ReLU())``, or a dict of named modules.

    Indexing gives a module, slicing a Sequential that shares the modules (and keeps their names).
    """

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.register_module(name, module)
        else:
            for index, module in enumerate(modules):
                self.register_module(str(index), module)

    def forward(self, x: Any) -> Any:
        """Feed ``x`` through every module in order.

        A batch norm or a convolution and the ReLU behind it are computed in one pass over memory, unless a hook watches one
        of them.
        """
        waiting: Any = None                          # one of _FUSING that has not run yet: a ReLU may follow
        for module in self._values():
            if waiting is not None:
                fused = type(module) is ReLU and not watched(module)
                x, waiting = waiting(x, relu=True) if fused else waiting(x), None
                if fused:
                    continue
            if type(module) in _FUSING and not watched(module):
                waiting = module
            else:
                x = module(x)
        return x if waiting is None else waiting(x)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            part = type(self).__new__(type(self))
            Module.__init__(part)
            for name in self._names()[index]:
                part.register_module(name, self.__dict__[name])
            return part
        return self._values()[self._position(index)]

    def __add__(self, other: Sequential) -> Sequential:
        if not isinstance(other, Sequential):
            return NotImplemented
        return Sequential(*self, *other)


class ModuleList(_ModuleSequence):
    """A list of modules whose parameters are found; it has no forward of its own."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self.extend(modules or ())

    def __getitem__(self, index: int | slice) -> Any:
        values = self._values()
        return type(self)(values[index]) if isinstance(index, slice) else values[self._position(index)]

    def __iadd__(self, modules: Iterable[Module]) -> ModuleList:
        return self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList(chain(self, other))

    def __repr__(self) -> str:
        """Runs of equal modules are printed once: ``(0-2): 3 x Block(...)``."""
        runs: list[tuple[int, int, str]] = []
        for index, module in enumerate(self):
            text = repr(module)
            if runs and runs[-1][2] == text:
                runs[-1] = (runs[-1][0], index, text)
            else:
                runs.append((index, index, text))
        if not runs:
            return f"{type(self).__name__}()"
        lines = [
            _indent(f"({a}): {text}" if a == b else f"({a}-{b}): {b - a + 1} x {text}") for a, b, text in runs
        ]
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"


class ModuleDict(Module):
    """Modules by name, in order of insertion, with a dict's methods."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, key: str) -> Any:
        if key not in self._kinds:
            raise KeyError(f"{type(self).__name__} has no {key!r}; it has: {', '.join(self._kinds) or 'nothing'}")
        return self.__dict__[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.register_module(key, module)

    def __delitem__(self, key: str) -> None:
        self[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._kinds)

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __contains__(self, key: object) -> bool:
        return key in self._kinds

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._kinds.keys()

    def values(self) -> Iterable[Any]:
        """The modules."""
        return [self.__dict__[key] for key in self._kinds]

    def items(self) -> Iterable[tuple[str, Any]]:
        """The (name, module) pairs."""
        return [(key, self.__dict__[key]) for key in self._kinds]

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add or replace modules from a mapping or from pairs."""
        for key, module in modules.items() if isinstance(modules, (Mapping, ModuleDict)) else modules:
            self[key] = module

    def pop(self, key: str) -> Any:
        """Remove and return the module under ``key``."""
        module = self[key]
        del self[key]
        return module

    def clear(self) -> None:
        """Remove every module."""
        for key in list(self):
            del self[key]


class ParameterList(Module):
    """A list of parameters (plain Tensors are made Parameters)."""

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self.extend(values or ())

    def _position(self, index: int) -> int:
        index, size = operator.index(index), len(self)
        if not -size <= index < size:
            raise IndexError(f"{type(self).__name__}: index {index} is out of range for {size} parameters")
        return index % size

    def __len__(self) -> int:
        return len(self._kinds)

    def __iter__(self) -> Iterator[Any]:
        return iter([self.__dict__[name] for name in self._kinds])

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return self.__dict__[str(self._position(index))]

    def __setitem__(self, index: int, value: Any) -> None:
        setattr(self, str(self._position(index)), _as_parameter(value))

    def append(self, value: Any) -> ParameterList:
        """Add one parameter at the end; returns the list."""
        self.register_parameter(str(len(self)), _as_parameter(value))
        return self

    def extend(self, values: Iterable[Any]) -> ParameterList:
        """Add several parameters at the end; returns the list."""
        for value in list(values):
            self.append(value)
        return self

    def extra_repr(self) -> str:
        """One line per parameter: its class, dtype and shape."""
        return "\n".join(f"({i}): Parameter of {p.dtype} of shape {tuple(p.shape)}" for i, p in enumerate(self))


def _as_parameter(value: Any) -> Parameter:
    return value if isinstance(value, Parameter) else Parameter(value)
