"""Launches every variant of every kernel of ours, on small ragged arrays: what a sanitizer watches.

``compute-sanitizer --tool memcheck python -m benchmarks.device_suite.exercise cuda 100`` ends after 100 seconds at the latest.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.device_suite.devices import open_device
from benchmarks.device_suite.kernels import with_kept
from benchmarks.device_suite.samples import EVEN, PLAIN, RAGGED, TINY, sample, verbs
from benchmarks.device_suite.work import Deadline, in_a_line
from minidl import kernels
from minidl.kernels.cuda.launch import computes

DTYPES = ("float32", "bfloat16")


def launches(device: Any, tiny: bool) -> Iterator[tuple[str, Any]]:
    """(a name, a call) for each variant, dtype and size."""
    for dtype in DTYPES:
        for size in (TINY,) if tiny else (RAGGED, EVEN):
            for verb in verbs(device.name):
                for variant, kernel in kernels.variants(verb, device.name).items():
                    def call(
                        verb: str = verb, variant: str = variant, dtype: str = dtype, size: str = size, kernel: Any = kernel
                    ) -> None:  # fmt: skip
                        found = sample(verb, dtype, device.xp, size)
                        arguments = with_kept(device, verb, variant, found.arguments)
                        if computes(verb, device.name, variant, *arguments, **found.options):
                            kernel(*arguments, **found.options)

                    if variant not in PLAIN:
                        yield f"{verb} {variant} {dtype} {size}", call


def main(name: str, seconds: str) -> int:
    deadline, device = Deadline(float(seconds)), open_device(name)
    if name == "cuda":
        # Without the pool, so that every array is an allocation of its own and a store past its end is seen.
        device.xp.cuda.set_allocator(None)
    done, failed, left = 0, [], 0
    for what, call in launches(device, tiny=name == "emu"):
        if deadline.left() < 0:
            left += 1
            continue
        try:
            call()
            device.synchronize()
            done += 1
        except Exception as error:
            failed.append(f"{what}: {in_a_line(error)}")
            if not device.alive():
                break
    print(f"exercised {done} launches, {len(failed)} raised, {left} left for lack of time")
    print("\n".join(failed))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
