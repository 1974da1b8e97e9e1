"""From IR text to a function in memory, and the choice of the instruction set.

llvmlite compiles (it is what Numba compiles with; Numba itself is not imported).  Objects are cached by everything that
decides their content: the version of llvmlite, the processor, its features, the options, and the text itself, so that an
edited kernel never meets its old code.
"""
from __future__ import annotations

import functools
import hashlib
import os
import platform
import threading
from typing import Any, NamedTuple

from minidl.errors import ConfigError
from minidl.kernels.cpu.cache import ObjectCache, default_folder

ENVIRONMENT = "MINIDL_ISA"
_OPTIONS = "codegen 3, instcombine, simplifycfg"     # part of the cache's key: change it with the passes below


class ISA(NamedTuple):
    """What kernels are written for.

    Attributes:
        name: "avx512", "avx2", "neon" or "portable".
        width: floats in a vector register.
        registers: vector registers.
        cpu, features: LLVM's names for the processor.
        triple: LLVM's name for the machine, empty for this one.
    """

    name: str
    width: int
    registers: int
    cpu: str
    features: str
    triple: str = ""


# Instruction sets of any machine, to look at what would run there; LLVM compiles for them wherever it was built for them.
ANYWHERE = {
    "avx512": ISA("avx512", 16, 32, "x86-64-v4", "", "x86_64-unknown-linux-gnu"),
    "avx2": ISA("avx2", 8, 16, "x86-64-v3", "", "x86_64-unknown-linux-gnu"),
    "neon": ISA("neon", 4, 32, "generic", "", "aarch64-unknown-linux-gnu"),
}


class Unavailable(Exception):
    """Kernels cannot be compiled here; the message says why."""


def _machine() -> str:
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@functools.cache
def _llvm() -> Any:
    try:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    except Exception as error:                       # missing, broken or for another Python: any failure has one answer
        raise Unavailable(f"llvmlite does not work here ({type(error).__name__}: {error})") from error
    return llvm


def available_isas() -> dict[str, ISA]:
    """The instruction sets that this machine runs, best first."""
    llvm = _llvm()
    host, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features()
    everything = features.flatten()
    found = []
    if _machine() == "x86_64":
        if all(features.get(name) for name in ("avx512f", "avx512bw", "avx512dq", "avx512vl")):
            found.append(ISA("avx512", 16, 32, host, everything))
        if features.get("avx2") and features.get("fma"):
            found.append(ISA("avx2", 8, 16, "x86-64-v3", ""))
        found.append(ISA("portable", 4, 16, "x86-64", ""))
    elif _machine() == "aarch64":
        found += [ISA("neon", 4, 32, host, everything), ISA("portable", 4, 32, "generic", "")]
    else:
        found.append(ISA("portable", 4, 16, host, everything))
    return {isa.name: isa for isa in found}


@functools.cache
def host_isa() -> ISA:
    """The best instruction set of this machine, or the one that $MINIDL_ISA names.

    Raises:
        ConfigError: $MINIDL_ISA names one that this machine does not have.
    """
    found = available_isas()
    wanted = os.environ.get(ENVIRONMENT)
    if not wanted:
        return next(iter(found.values()))
    if wanted not in found:
        raise ConfigError(f"{ENVIRONMENT}={wanted!r}: this machine runs {', '.join(found)}; choose one of these, or unset it")
    return found[wanted]


def isa_named(name: str) -> ISA:
    """An instruction set of this machine, or one of another machine, which :func:`assembly` can show and nothing can run.

    Raises:
        ConfigError: there is none of that name.
        Unavailable: llvmlite is missing.
    """
    found = {**ANYWHERE, **available_isas()}
    if name not in found:
        raise ConfigError(f"no instruction set {name!r}; there are {', '.join(found)}")
    return found[name]


@functools.cache
def _target(isa: ISA) -> Any:
    llvm = _llvm()
    if isa.triple:
        try:
            llvm.initialize_all_targets()
            llvm.initialize_all_asmprinters()
            target = llvm.Target.from_triple(isa.triple)
        except RuntimeError as error:
            raise Unavailable(f"this llvmlite cannot compile for {isa.name} ({isa.triple}): {error}") from error
    else:
        target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=isa.cpu, features=isa.features, opt=3, reloc="pic", codemodel="default", jit=False)


def _parse(text: str, isa: ISA) -> Any:
    llvm, machine = _llvm(), _target(isa)
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    module.verify()
    # The text is scheduled as it should run: only its address arithmetic is cleaned up.  All of LLVM's passes take twice
    # as long to compile and make nothing faster.
    passes = llvm.create_new_module_pass_manager()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(1)))
    return module


def compile_object(text: str, isa: ISA) -> bytes:
    """IR text as an object file."""
    return _target(isa).emit_object(_parse(text, isa))


def assembly(text: str, isa: ISA | None = None) -> str:
    """IR text as the assembly that will run: for people to read."""
    isa = isa or host_isa()
    return _target(isa).emit_assembly(_parse(text, isa))


def cache_key(text: str, isa: ISA) -> str:
    """The hash of everything that the object depends on."""
    import llvmlite

    parts = (llvmlite.__version__, platform.machine(), platform.system(), isa.cpu, isa.features, isa.triple, _OPTIONS, text)
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


@functools.cache
def object_cache() -> ObjectCache:
    """The cache of this process."""
    return ObjectCache(default_folder())


_lock = threading.Lock()
_linked: list[Any] = []                              # what llvmlite would otherwise unload


@functools.cache
def _jit() -> Any:
    # LLVM's older linker puts code and its constants where there is room; 2 GB apart, in a process with much memory, it aborts.
    return _llvm().create_lljit_compiler(_target(host_isa()), use_jit_link=True, suppress_errors=True)


def load(text: str, *symbols: str) -> list[int]:
    """The addresses of the functions ``symbols`` of IR text, compiled, or read from the cache, and linked.

    Raises:
        Unavailable: llvmlite is missing or cannot compile for this machine.
    """
    llvm, isa = _llvm(), host_isa()
    with _lock:
        try:
            cache, key = object_cache(), cache_key(text, isa)
            code = cache.get(key)
            if code is None:
                code = compile_object(text, isa)
                cache.put(key, code)
            builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
            for symbol in symbols:
                builder.export_symbol(symbol)
            library = builder.link(_jit(), f"minidl{len(_linked)}")
            _linked.append(library)
            return [library[symbol] for symbol in symbols]
        except RuntimeError as error:
            raise Unavailable(f"LLVM could not make {symbols[0]} for {isa.name}: {error}") from error
