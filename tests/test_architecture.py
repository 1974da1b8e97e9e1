"""The shape of the house: which room may import which, how heavy `import minidl` is, and what no file may contain."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys

import pytest

from tests.sources import MINIDL, ROOT, Source, is_stdlib, modules, room_of, sources

# Which rooms a room may import, besides itself: kernels know hardware, the rest knows calculus. Imports inside
# functions count as well: they only hide a dependency from start-up time, not from the reader.
LEAVES = {"errors", "config"}
BACKEND = LEAVES | {"kernels", "backend"}
CORE = BACKEND | {"autograd", "tensor", "ops", "cuda"}
NN = CORE | {"amp", "nn.functional", "nn"}
RUN = NN | {"optim", "models", "data", "io"}
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "pickles": set(),  # a stack machine for io and data: the standard library alone
    "config": {"errors"},
    "kernels": {"errors"},
    "backend": LEAVES | {"kernels"},
    "io": LEAVES | {"backend", "pickles"},
    "data": LEAVES | {"backend", "pickles"},
    "autograd": BACKEND | {"tensor"},  # the engine and the thing it differentiates know each other
    "tensor": BACKEND | {"autograd"},
    "ops": BACKEND | {"autograd", "tensor"},
    "cuda": BACKEND | {"autograd", "tensor"},
    "amp": CORE,
    "nn.functional": CORE,
    "nn": CORE | {"nn.functional"},
    "optim": NN,
    "models": NN | {"io"},
    "train": RUN | {""},
    "transfer": RUN | {"train", ""},
    "inspect": RUN | {""},
    "": RUN,  # minidl/__init__.py, the list of public names
    "cli": RUN | {"train", "transfer", "inspect", ""},
    "__main__": {"cli"},
}

# Where packages from outside the standard library may be imported; everywhere else goes through the backend's verbs.
OUTSIDE: dict[str, set[str]] = {
    "numpy": {"kernels", "backend", "data", "io"},
    "numba": {"kernels", "backend"},
    "llvmlite": {"kernels"},
    "cupy": {"kernels", "backend"},
    "cuda": {"kernels"},
    "cupyx": {"kernels", "backend"},
    "cupy_backends": {"kernels", "backend"},
    "ml_dtypes": {"kernels", "backend", "io"},
    "PIL": {"data", "io", "inspect"},
    "safetensors": {"io"},
    "onnx": {"io"},
    "onnxruntime": {"io"},
    "sklearn": {"data", "transfer"},
    "click": {"cli"},
    "rich": {"cli", "train"},
    "matplotlib": {"inspect"},
}
# Single files with one permission more than their room.
OUTSIDE_FILES = {
    ("minidl.autograd.gradcheck", "numpy"),
    ("minidl.inspect.kernel_bench", "torch"),  # what kernels are timed beside, where it is installed
}

HEAVY = (
    "numba",
    "llvmlite",
    "cupy",
    "PIL",
    "rich",
    "click",
    "safetensors",
    "scipy",
    "sklearn",
    "torch",
    "matplotlib",
    "asyncio",
)

MAX_FILE_LINES = 600
MAX_CORE_LINES = 4000  # of code; docstrings and comments are welcome
# Modules that `import minidl` may load on top of those that `import numpy` loads. Counted, not timed: a loaded machine
# changes seconds, not modules. minidl's own files are about a hundred; one stray heavy import brings hundreds.
MAX_MODULES_ON_IMPORT = 150


def every_source() -> list:
    return [pytest.param(source, id=source.module) for source in sources()]


@pytest.mark.parametrize("source", every_source())
def test_a_room_imports_only_the_rooms_below_it(source: Source) -> None:
    assert source.room in ROOMS, f"{source.path}: a new room {source.room!r}: say in ROOMS what it may import"
    allowed = ROOMS[source.room] | {source.room}
    for found in source.imports():
        if found.top == "minidl":
            room = room_of(found.name)
            assert room in allowed, (
                f"{source.path}:{found.line}: {source.room or 'minidl/__init__.py'} imports {found.name}; "
                f"it may import {', '.join(sorted(allowed))}"
            )
        assert found.top not in ("kernels", "tests", "benchmarks"), f"{source.path}:{found.line}: imports {found.name}"


@pytest.mark.parametrize("source", every_source())
def test_outside_packages_stay_in_their_rooms(source: Source) -> None:
    for found in source.imports():
        if found.top == "minidl" or is_stdlib(found.name) or (source.module, found.top) in OUTSIDE_FILES:
            continue
        rooms = OUTSIDE.get(found.top, set())
        assert source.room in rooms, (
            f"{source.path}:{found.line}: imports {found.name}, which only "
            f"{', '.join(sorted(rooms)) or 'no room'} may; use a Tensor or the backend's verbs"
        )


def problems(tree: ast.Module) -> list[str]:
    """What no file of the package may do, each as 'line: what and why'."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and not _narrows(node.test):
            found.append(f"{node.lineno}: assert vanishes under python -O; raise one of minidl.errors")
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{node.lineno}: a bare except also swallows Ctrl-C; name the exceptions")
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("eval", "builtins.eval"):
                found.append(f"{node.lineno}: eval runs whatever text it is given")
            if name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open"):
                found.append(f"{node.lineno}: {name} can run code out of a data file; use a restricted Unpickler")
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle" and getattr(keyword.value, "value", None) is not False:
                    found.append(f"{node.lineno}: allow_pickle can run code out of a data file")
                if keyword.arg == "shell" and getattr(keyword.value, "value", None) is not False:
                    found.append(f"{node.lineno}: shell=True hands text to a shell")
    return found


def _narrows(test: ast.expr) -> bool:
    """`assert x is not None` and `assert isinstance(...)`, which only tell the type checker what is known already."""
    if isinstance(test, ast.BoolOp):
        return all(map(_narrows, test.values))
    if isinstance(test, ast.Call):
        return ast.unparse(test.func) == "isinstance"
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.ops[0], ast.IsNot)
        and ast.unparse(test.comparators[0]) == "None"
    )


@pytest.mark.parametrize("source", every_source())
def test_no_forbidden_construct(source: Source) -> None:
    assert [f"{source.path}:{problem}" for problem in problems(source.tree)] == []


@pytest.mark.parametrize(
    "code",
    [
        "assert x > 0, 'positive please'",
        "eval('1 + 1')",
        "pickle.load(file)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "try:\n    f()\nexcept:\n    pass",
    ],
)
def test_forbidden_constructs_are_seen(code: str) -> None:
    assert problems(ast.parse(code))


def test_allowed_constructs_are_not_reported() -> None:
    code = """
assert x is not None
assert isinstance(x, int) and y is not None
class Safe(pickle.Unpickler): pass
np.load(path, allow_pickle=False)
"""
    assert problems(ast.parse(code)) == []


def every_python_file() -> list:
    folders = [ROOT / name for name in ("tests", "benchmarks") if (ROOT / name).is_dir()]
    files = [source.path for source in sources()] + [
        path for folder in folders for path in sorted(folder.rglob("*.py"))
    ]
    return [
        pytest.param(path, id=str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.relative_to(MINIDL)))
        for path in files
    ]


@pytest.mark.parametrize("path", every_python_file())
def test_files_are_short_and_finished(path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE_LINES, f"{path} has {text.count(chr(10))} lines; split it by subject"
    unfinished = re.compile(r"#.*\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
    lines = [f"{path}:{number}" for number, line in enumerate(text.splitlines(), 1) if unfinished.search(line)]
    assert lines == [], "finish it or file it; a note in the source is neither"


def test_the_core_stays_readable_in_an_afternoon() -> None:
    core = [source for source in sources() if source.room in ("tensor", "autograd", "ops")]
    lines = sum(source.code_lines() for source in core)
    assert core and lines < MAX_CORE_LINES, f"tensor, autograd and ops have {lines} lines of code"


def test_lines_of_code_are_counted_without_documentation(tmp_path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        '"""Docstring,\nof two lines."""\n\n# comment\nx = 1  # counts\n\ndef f():\n    """No."""\n    return """a\nb"""\n'
    )
    assert Source(path, "sample").code_lines() == 4  # x = 1, def, and the two lines of the string returned


def fresh_python(code: str, **environment: str) -> str:
    """What `code` prints in a new interpreter that sees the same packages as this one."""
    env = {**os.environ, **environment}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=600)
    assert run.returncode == 0, run.stderr
    return run.stdout


def loaded_by(statement: str) -> set[str]:
    return set(json.loads(fresh_python(f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))")))


def test_import_minidl_is_cheap() -> None:
    modules_loaded = loaded_by("import minidl") - loaded_by("import numpy")
    heavy = sorted(name for name in modules_loaded if name.partition(".")[0] in HEAVY)
    assert heavy == [], "import these inside the functions that need them"
    assert len(modules_loaded) <= MAX_MODULES_ON_IMPORT, sorted(modules_loaded)


@pytest.mark.skipif("minidl.cli" not in modules(), reason="no command line in this build")
def test_the_command_line_starts_light() -> None:
    """`minidl --help` answers within 0.3 s because building the commands loads none of the heavy packages."""
    allowed = ("click", "rich")
    loaded = loaded_by("import minidl.cli")
    heavy = sorted(name for name in loaded if name.partition(".")[0] in HEAVY and name.partition(".")[0] not in allowed)
    assert heavy == [], "import these inside the commands that need them"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="one process per module is only quick with fork")
def test_every_module_can_be_imported_first() -> None:
    """No module works only because another one, which `import minidl` does not load, was imported before it."""
    names = sorted(name for name in modules() if not name.endswith("__main__"))
    code = f"""
import importlib, os, minidl
for name in {names!r}:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
        except Exception as error:
            print(name, repr(error), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    # Rooms for hardware that this machine lacks say so with an ImportError naming the missing package.
    failed = [line for line in fresh_python(code).splitlines() if "cupy" not in line]
    assert failed == []
