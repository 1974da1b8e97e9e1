"""The package's source files, as the tests of the code itself see them: one room per file, its imports, its tree.

A *room* is a top-level part of minidl: `tensor`, `ops`, `kernels`, `cli`; `nn.functional` is a room of its own. Files
are found beside the imported package, so the same tests read a checkout and an installed wheel.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import minidl
import minidl.kernels

MINIDL = Path(minidl.__file__).parent
KERNELS = Path(minidl.kernels.__file__).parent
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
ROOT = Path(__file__).resolve().parent.parent  # the folder that holds tests/ (and, in a checkout, everything else)


@dataclasses.dataclass(frozen=True)
class Import:
    """One import statement's target: `name` is the full dotted module, `line` where it stands."""

    name: str
    line: int

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of the package under the dotted name it is imported by."""

    path: Path
    module: str

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def room(self) -> str:
        return room_of(self.module)

    def code_lines(self) -> int:
        """Lines that hold code: no blank line, comment or docstring."""
        lines: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in NO_CODE:
                lines.update(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
                lines.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
        return len(lines)

    def __str__(self) -> str:
        return self.module

    def imports(self) -> list[Import]:
        """Every import in the file, inside functions too, but not those for the type checker alone."""
        return list(self._imports(self.tree))

    def _imports(self, node: ast.AST) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = self._resolve(child)
                for alias in child.names:
                    # `from minidl import ops` imports the room, `from minidl.ops import add` a name out of it.
                    deeper = f"{base}.{alias.name}"
                    yield Import(deeper if deeper in modules() else base, child.lineno)
            elif isinstance(child, ast.If) and _is_type_checking(child.test):
                for other in child.orelse:
                    yield from self._imports(other)
            else:
                yield from self._imports(child)

    def _resolve(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.module.split(".")
        base = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*base, node.module] if node.module else base)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def room_of(module: str) -> str:
    """The room a dotted module name belongs to: `minidl.ops.conv` is in `ops`, `minidl` itself in ``""``."""
    parts = module.split(".")
    if parts[0] != "minidl":
        return module
    if parts[1:3] == ["nn", "functional"]:
        return "nn.functional"
    return parts[1] if len(parts) > 1 else ""


def _under(folder: Path, package: str) -> Iterator[Source]:
    for path in sorted(folder.rglob("*.py")):
        parts = list(path.relative_to(folder).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        yield Source(path, ".".join([package, *parts]))


@functools.cache
def sources() -> list[Source]:
    """Every Python file of minidl, kernels included, each once."""
    found = {source.path: source for source in _under(MINIDL, "minidl")}
    found |= {source.path: source for source in _under(KERNELS, "minidl.kernels")}
    return list(found.values())


@functools.cache
def modules() -> frozenset[str]:
    return frozenset(source.module for source in sources())


def is_stdlib(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names
