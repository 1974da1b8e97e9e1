"""Every kernel, written and compiled for every instruction set; what can be checked of a machine that is not here.

The kernels for ARM were run by an emulator, one thread each, where one is installed; no such processor has run them yet.
"""
import os
import re
import subprocess
import sys

import pytest

from minidl.inspect import kernel_texts
from minidl.kernels.cpu import engine, listing
from tests.kernels.cpu import emulated
from tests.sources import ROOT

ISAS = ("avx512", "avx2", "portable", "neon")


@pytest.fixture(scope="module", params=ISAS)
def compiled(request):
    """(name of the instruction set, its kernels, the assembly of each)."""
    isa = engine.isa_named(request.param)
    texts = kernel_texts.texts(isa)
    try:
        return isa, texts, {text.name: engine.assembly(text.text, isa) for text in texts}
    except engine.Unavailable as error:
        pytest.skip(str(error))


def test_every_program_is_there(compiled):
    """A program that no sample runs is not looked at below: give it one (minidl/inspect/kernel_samples.py or kernel_texts.py)."""
    _, texts, _ = compiled
    assert set(listing.programs()) - {text.program for text in texts} == set()


def test_the_arithmetic_is_in_vectors(compiled):
    """What multiplies and adds vectors in the text does so in the machine code, in the widest registers, in one instruction
    where the machine has one."""
    isa, texts, codes = compiled
    instruction = {
        "avx512": r"\bvfn?m(add|sub)\d+ps\t.*%zmm", "avx2": r"\bvfn?m(add|sub)\d+ps\t.*%ymm", "neon": r"\bfml[as]\tv\d+\.4s",
        "portable": r"\b(mulps|fml[as])\t",
    }[isa.name]
    seen = 0
    for text in texts:
        if re.search(rf"call <{isa.width} x float> @llvm.fmuladd", text.text):
            seen += 1
            assert re.search(instruction, codes[text.name]), text.name
        assert not re.search(r"^\s+(callq?|bl)\s", codes[text.name], re.MULTILINE), f"{text.name} calls a library"
    assert seen > 30


def test_the_tiles_stay_in_registers(compiled):
    """The loops that a convolution spends its time in are nearly all multiplications; what does not fit the registers goes to the
    stack there, and costs two instructions per turn."""
    isa, _, codes = compiled
    dense = 0
    for name, code in codes.items():
        for loop in listing.innermost_loops(code):
            # A tile's loop has little beside its products: loads of weights, broadcasts, and without FMA an addition for each.
            if loop.multiplies >= 8 and len(loop.lines) <= (4.5 if isa.name == "portable" else 2.5) * loop.multiplies:
                dense += 1
                assert loop.spills <= loop.multiplies / 4, (name, loop.multiplies, loop.spills)
    assert dense > 15


def test_the_transforms_spill_little(compiled):
    """36 numbers of a Winograd tile are in flight at once: more than any machine's registers, and the order of the work decides
    how often they go to the stack."""
    isa, _, codes = compiled
    for name, code in codes.items():
        for loop in listing.innermost_loops(code):
            assert loop.spills <= len(loop.lines) / (2 if isa.registers < 32 else 4), (name, loop.spills, len(loop.lines))


def test_a_kernel_for_another_machine_cannot_be_run():
    assert set(engine.ANYWHERE) - set(engine.available_isas()), "this machine runs everything"
    with pytest.raises(engine.ConfigError, match="no instruction set 'sse9'"):
        engine.isa_named("sse9")


@pytest.mark.skipif(bool(emulated.missing()), reason=f"not installed: {', '.join(emulated.missing())}")
def test_the_kernels_for_arm_compute_the_same():
    """Every sample, and convolutions of many shapes: NumPy's results within the contract's tolerance, nothing written beside."""
    env = {**os.environ, "MINIDL_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "tests.kernels.cpu.emulated"], capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-2]) > 40         # programs
