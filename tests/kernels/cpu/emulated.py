"""The kernels for ARM, run by an emulator: ``python -m tests.kernels.cpu.emulated`` computes samples and compares with NumPy.

Each launch becomes a program of its own: a few lines that read memory from stdin, run the kernel in it and write it to stdout.
It needs ``qemu-aarch64`` (Debian: qemu-user) and an assembler and linker (binutils-aarch64-linux-gnu).
"""
import atexit
import ctypes
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import minidl
from minidl import kernels
from minidl.inspect import kernel_samples, kernel_texts
from minidl.kernels.cpu import engine
from minidl.kernels.cpu.emit import ELEMENTS
from minidl.kernels.cpu.launch import _product
from minidl.kernels.cpu.listing import pretend
from minidl.ops.geometry import conv2d_geometry
from tests.kernels.cases import assert_close

EMULATOR, ASSEMBLER, LINKER = "qemu-aarch64", "aarch64-linux-gnu-as", "aarch64-linux-gnu-ld"
ROOM, BAND = 1 << 26, 4096                           # bytes of memory; of a band after each array, which must not change

# The memory: the number of slots, the slots, whether each is a pointer (then it counts from the memory's beginning), arrays.
START = """
        .bss
        .balign 64
memory: .skip   ROOM
        .text
        .global _start
_start: ldr     x19, =memory
        ldr     x20, =ROOM
        mov     x21, #0                 // bytes read
read:   mov     x0, #0
        add     x1, x19, x21
        sub     x2, x20, x21
        mov     x8, #63
        svc     #0
        add     x21, x21, x0
        cmp     x0, #0
        b.gt    read
        ldr     x22, [x19]              // slots
        add     x23, x19, #8
        add     x24, x23, x22, lsl #3   // whether they are pointers
        mov     x25, #0
slot:   ldr     x1, [x23, x25, lsl #3]
        ldr     x2, [x24, x25, lsl #3]
        madd    x1, x2, x19, x1
        str     x1, [x23, x25, lsl #3]
        add     x25, x25, #1
        cmp     x25, x22
        b.lt    slot
        mov     x0, x23
        mov     x1, #0
        mov     x2, #1
        bl      KERNEL
        mov     x22, #0                 // bytes written
write:  mov     x0, #1
        add     x1, x19, x22
        sub     x2, x21, x22
        mov     x8, #64
        svc     #0
        add     x22, x22, x0
        cmp     x22, x21
        b.lt    write
        mov     x0, #0
        mov     x8, #93
        svc     #0
"""


def missing():
    """What is needed and not here."""
    return [tool for tool in (EMULATOR, ASSEMBLER, LINKER) if shutil.which(tool) is None]


@functools.cache
def linked(text, name):
    """A program that runs one kernel; the path of its file."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "kernel.o").write_bytes(engine.compile_object(text, engine.ANYWHERE["neon"]))
    (folder / "start.s").write_text(START.replace("ROOM", str(ROOM)).replace("KERNEL", name), encoding="ascii")
    subprocess.run([ASSEMBLER, "-o", "start.o", "start.s"], check=True, cwd=folder)
    subprocess.run([LINKER, "-static", "-o", "kernel", "start.o", "kernel.o"], check=True, cwd=folder)
    return folder / "kernel"


def execute(kernel, address):
    """Run a kernel in the emulator, on the memory of this process that its slots point to."""
    names = kernel.parameters
    slots = list((ctypes.c_int64 * len(names)).from_address(address))
    integers = {name: value for name, value in zip(names, slots, strict=True) if name not in kernel.sizes}
    memory, places = bytearray(8 * (1 + 2 * len(names))), {}
    for name, (factors, element) in kernel.sizes.items():
        assert factors, f"{kernel.name}: the size of {name} is not known"
        size, index = _product(factors, integers) * ELEMENTS[element], names.index(name)
        memory += bytes(-len(memory) % 64)
        places[index] = len(memory), size
        memory += ctypes.string_at(slots[index], size) + b"\xa5" * BAND
        slots[index] = places[index][0]
    header = [len(names), *slots, *(int(index in places) for index in range(len(names)))]
    memory[: 8 * len(header)] = np.array(header, np.int64).tobytes()
    assert len(memory) <= ROOM
    command = [EMULATOR, str(linked(kernel.text(), kernel.name))]
    result = subprocess.run(command, input=bytes(memory), capture_output=True, check=True).stdout
    assert len(result) == len(memory)
    pointers = (ctypes.c_int64 * len(names)).from_address(address)
    for index, (first, size) in places.items():
        assert result[first + size : first + size + BAND] == b"\xa5" * BAND, f"{kernel.name} wrote after {names[index]}"
        ctypes.memmove(pointers[index], result[first : first + size], size)


def calls():
    """(verb, arguments): every sample, and convolutions of other shapes."""
    for verb in kernel_samples.SAMPLES:
        if "vector" in kernels.variants(verb) and not verb.endswith("_"):   # steps of optimisers take tables of pointers
            sample = kernel_samples.sample(verb)
            yield verb, (*sample.arguments, *sample.options.values())
    for x_shape, w_shape, stride, padding, groups in kernel_texts.CONVOLUTIONS:
        geom = conv2d_geometry((2, *x_shape[1:]), w_shape, stride, padding, 1, groups)
        x, w = minidl.randn(2, *x_shape[1:]).data, minidl.randn(*w_shape).data
        gy = minidl.randn(2, geom.O, geom.out_h, geom.out_w).data
        yield "conv2d", (x, w, None, geom)
        yield "conv2d_input_grad", (gy, w, geom)
        yield "conv2d_weight_grad", (gy, x, geom)
        yield "conv2d_weight_grad", (gy, x, geom, "direct")


def main():
    sizes = {"N": 2, "C": 32, "ROWS": 20, "TOKENS": (2, 50, 192), "DRAWS": 1 << 17, "PARAMETERS": [(5,)]}
    for name, value in sizes.items():
        setattr(kernel_samples, name, value)
    ran = set()
    written = pretend(engine.ANYWHERE["neon"], execute)
    for verb, arguments in calls():
        results = []
        found = written(lambda verb=verb, a=arguments, r=results: r.append(kernels.variants(verb)["vector"](*a)))
        ran |= {text.program for text in found}
        expected = kernels.variants(verb)["numpy"](*arguments)
        largest = max(float(np.abs(a).max(initial=1)) for a in (expected if isinstance(expected, tuple) else (expected,)))
        assert_close(verb, results[0], expected, "float32", largest)
        print(verb, *(text.name for text in found), flush=True)
    print(len(ran), "programs")


if __name__ == "__main__":
    sys.exit(main())
