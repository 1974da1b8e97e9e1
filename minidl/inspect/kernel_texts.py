"""The kernels that a verb's sample would run on a machine, as text: ``python -m minidl.inspect.kernel_texts ISA [VERB]``.

What a kernel looks like is decided by the code that launches it, for the machine that it runs on.  So a process of its own makes
the calls, for whatever machine is asked for, and runs nothing (:func:`minidl.kernels.cpu.listing.pretend`).
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import minidl
from minidl import kernels
from minidl.inspect import kernel_samples
from minidl.kernels.cpu import roofs
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.listing import Written, pretend
from minidl.ops.geometry import conv2d_geometry

EVERY = "*"

# Large enough for the vector kernels to take them, and no larger.
SIZES = {"N": 8, "ROWS": 64, "TOKENS": (8, 64, 192), "DRAWS": 1 << 17, "PARAMETERS": [(64, 64, 3, 3), (64,)]}

# Convolutions that run other kernels than the sample does: (x, w, stride, padding, groups).
CONVOLUTIONS = (
    ((8, 64, 16, 16), (64, 64, 5, 5), 1, 2, 1),
    ((8, 64, 16, 16), (64, 64, 1, 1), 1, 0, 1),
    ((8, 64, 16, 16), (64, 64, 3, 3), 2, 1, 1),
    ((8, 64, 2, 2), (64, 64, 3, 3), 1, 1, 1),
    ((8, 3, 32, 32), (64, 3, 3, 3), 1, 1, 1),
    ((8, 3, 64, 64), (64, 3, 7, 7), 2, 3, 1),
    ((8, 64, 16, 16), (64, 1, 3, 3), 1, 1, 64),
    ((8, 17, 9, 9), (10, 17, 3, 3), 1, 1, 1),
)


def texts(isa: ISA, verb: str = EVERY) -> list[Written]:
    """The kernels of a verb's sample (of every sample, and of some more convolutions) on a machine with ``isa``, each once."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(minidl.__file__).parents[1]), *sys.path])}
    environment.pop("MINIDL_KERNELS", None)
    command = [sys.executable, "-m", __name__, json.dumps(isa), verb]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"the kernels of {verb} could not be written for {isa.name}: {done.stderr.strip()[-2000:]}")
    return [Written(*fields) for fields in json.loads(done.stdout)]


def _calls(verb: str) -> Iterator[Callable[[], Any]]:
    for name in kernel_samples.SAMPLES if verb == EVERY else (verb,):
        if "vector" in kernels.variants(name):
            sample = kernel_samples.sample(name)
            yield functools.partial(kernels.variants(name)["vector"], *sample.arguments, **sample.options)
    if verb == EVERY:
        yield functools.partial(kernels.variants("gelu")["vector"], minidl.randn(64, 1000).data, "tanh")
        yield functools.partial(kernels.variants("gelu_grad")["vector"], *(minidl.randn(64, 1000).data for _ in range(2)), "tanh")
        yield lambda: roofs.fma_roof()(source=minidl.ones(1).data, out=minidl.ones(24, 16).data, tasks=1, turns=1)
        yield lambda: roofs.copy_roof()(x=minidl.ones(1 << 14).data, y=minidl.ones(1 << 14).data, pieces=1)
        for x_shape, w_shape, stride, padding, groups in CONVOLUTIONS:
            geom = conv2d_geometry(x_shape, w_shape, stride, padding, 1, groups)
            x, w = minidl.randn(*x_shape).data, minidl.randn(*w_shape).data
            gy = minidl.randn(geom.N, geom.O, geom.out_h, geom.out_w).data
            for name, arguments in {"conv2d": (x, w, None), "conv2d_input_grad": (gy, w), "conv2d_weight_grad": (gy, x)}.items():
                for precision in ("fast", "direct"):
                    yield functools.partial(kernels.variants(name)["vector"], *arguments, geom, precision)


def main(isa: str, verb: str) -> None:
    """Print the kernels as JSON."""
    for name, value in SIZES.items():
        setattr(kernel_samples, name, value)
    written = pretend(ISA(*json.loads(isa)))
    found: dict[Written, None] = {}
    for call in _calls(verb):
        found.update(dict.fromkeys(written(call)))
    json.dump(list(found), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
