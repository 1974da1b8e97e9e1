"""The emulator as device "emu", for the tests of this folder."""
import pytest

from minidl.backend import select
from minidl.backend.emu import Emu
from minidl.kernels.cuda import launch
from tests.cuda_emulator.emulator import COMPILER
from tests.cuda_emulator.races import emulator as make_emulator


@pytest.fixture
def emulator(monkeypatch):
    """An emulator that the device "emu" launches on; its schedule can be set."""
    if COMPILER is None:
        pytest.skip("the CUDA emulator needs g++")
    monkeypatch.setattr(launch, "_gpus", dict(launch._gpus))
    monkeypatch.setattr(select, "_others", dict(select._others))
    gpu = make_emulator()
    launch.attach(gpu)
    select.register_backend(Emu())
    return gpu
