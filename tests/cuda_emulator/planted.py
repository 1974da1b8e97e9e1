"""One launch of a kernel with a mistake in it, as a program that a sanitizer can end.

``python -m tests.cuda_emulator.planted KERNEL wrong|right [SANITIZERS]`` launches a kernel of planted.cu,
``python -m tests.cuda_emulator.planted --verb VERB VARIANT SANITIZERS [MACRO]`` one of ours, with what the macro plants.
"""
import sys
from pathlib import Path

import numpy as np

from minidl.kernels import variants
from minidl.kernels.cuda.launch import attach
from minidl.ops.geometry import conv2d_geometry, pool2d_geometry
from tests.cuda_emulator.emulator import Emulator
from tests.cuda_emulator.races import Racing

FOLDER = Path(__file__).parent / "kernels"
DEFINES = ("VALUE=float", "ACCUMULATE=float")


def launch(kernel: str, wrong: bool, sanitize: str = "", schedule: str = "forward") -> np.ndarray:
    """What ``kernel`` leaves in an array of 64 numbers."""
    emulator = Emulator(schedule, sanitize, folder=FOLDER, blocks_race=True)
    x, y = np.arange(64, dtype=np.float32), np.zeros(64, np.int32 if kernel == "count" else np.float32)
    threads = 32 if kernel in ("shuffle_mask", "half_warp", "misaligned") else 64
    blocks = 2 if kernel == "race_between_blocks" else 1
    arguments = (x, y) if kernel in ("neighbour", "misaligned") else (y,)
    shared = 256 if kernel == "past_dynamic" else 0
    emulator.function("planted.cu", kernel, DEFINES)((blocks,), (threads,), (*arguments, np.int32(wrong)), shared_mem=shared)
    return y


def launch_verb(verb: str, variant: str, sanitize: str, *macros: str) -> None:
    """A variant of conv2d or max_pool2d_grad on small shapes that are no multiple of anything."""
    attach(Racing(options=macros) if sanitize == "thread" else Emulator("forward", sanitize, macros))
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 9)).astype(np.float32)
    if verb == "conv2d":
        w = x[:1, :, :3, :3].repeat(7, 0)
        variants(verb, "emu")[variant](x, w, None, conv2d_geometry(x.shape, w.shape))
    else:
        geom = pool2d_geometry(x.shape, 3, 2)
        y, indices = variants("max_pool2d", "emu")["cuda"](x, geom)
        variants(verb, "emu")[variant](y, indices, geom)


if __name__ == "__main__" and sys.argv[1] == "--verb":
    launch_verb(*sys.argv[2:])
elif __name__ == "__main__":
    print(launch(sys.argv[1], sys.argv[2] == "wrong", sys.argv[3] if len(sys.argv) > 3 else "").tolist())
