"""The command: starts each part in a process of its own, and writes the table from what they found."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.bench import ROOT, clean_environment, machine
from benchmarks.device_suite.devices import check_device, open_device
from benchmarks.device_suite.report import write_table
from benchmarks.device_suite.store import FILE, TABLE, Refused, Store
from benchmarks.device_suite.work import BROKEN, OUT_OF_TIME, PARTS, Deadline, Suite, work

LAUNCHED = 20  # processes for one part: a kernel that breaks its process fails, and the next one goes on behind it
GRACE = 5.0  # seconds that a part may take beyond its time, to end what it is doing
TABLE_SECONDS = 2.0  # kept for the end


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="python -m benchmarks.device_suite",
        description="Check and time the CUDA backend on this machine's GPU. A second call with the same --out goes on with what "
        "is missing.",
    )
    main.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"where {FILE} and {TABLE} are written")
    main.add_argument("--parts", type=names, default=list(PARTS), metavar="A,B", help=f"default: {','.join(PARTS)}")
    main.add_argument("--budget", type=float, default=540, metavar="SECONDS", help="for the whole call; default: 540")
    main.add_argument("--only", default="", metavar="TEXT", help="only cases whose name contains TEXT")
    main.add_argument("--device", choices=["cuda", "emu"], default="cuda", help="emu: the tests' emulator, implies --tiny")
    main.add_argument("--tiny", action="store_true", help="tiny sizes: shows that the code runs, measures nothing")
    main.add_argument("--again", action="store_true", help="do failed and missing cases once more")
    main.add_argument("--until", type=float, help=argparse.SUPPRESS)  # a worker's end, on the clock that all processes share
    return main


def names(text: str) -> list[str]:
    found = text.split(",")
    for name in found:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"no part is called {name!r}; the parts: {', '.join(PARTS)}")
    return found


def worker(options: argparse.Namespace, store: Store) -> int:
    """One part, in this process."""
    device = open_device(options.device)
    store.describe({**machine(), "gpu": device.facts()})
    return work(options.parts[0], Suite(device, store, options.tiny, options.only), Deadline(options.until - time.monotonic()))


def run_part(part: str, options: argparse.Namespace, seconds: float) -> str:
    """A part in processes of its own, as many as it breaks; returns how it ended, in words."""
    deadline = Deadline(seconds)
    for _ in range(LAUNCHED):
        left = deadline.left()
        if left <= 0:
            return "out of time"
        until = str(time.monotonic() + left)
        command = [sys.executable, "-m", "benchmarks.device_suite", "--parts", part, "--until", until]
        command += ["--out", str(options.out), "--only", options.only, "--device", options.device, *["--tiny"] * options.tiny]
        # A session of its own, so that what it starts ends with it.
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), start_new_session=True)
        try:
            status = process.wait(left + GRACE)
            why = f"its process ended with status {status}"
        except subprocess.TimeoutExpired:
            status, why = OUT_OF_TIME, "it did not end in time"
        finally:
            stop(process)
        Store(options.out, options.device, options.tiny).recover(why)
        if status == 0:
            return "done"
        if status in (1, 2):
            return f"failed: {why}"
        if status == OUT_OF_TIME:
            return "out of time"
        print(f"{part}: {'a case broke the GPU context' if status == BROKEN else why}; going on in a new process", flush=True)
    return f"failed: {LAUNCHED} processes broke"


def environment() -> dict[str, str]:
    """For a worker: the checkout can be imported, and every library may use all cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = clean_environment(cores)
    return {**found, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), found.get("PYTHONPATH")]))}


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a worker and all that it started, if anything of it is left."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    options.tiny = options.tiny or options.device == "emu"
    options.out = options.out.resolve()
    deadline = Deadline(options.budget - TABLE_SECONDS)
    try:
        store = Store(options.out, options.device, options.tiny)
        if options.until is not None:
            return worker(options, store)
        check_device(options.device)
    except Refused as error:
        print(f"device_suite: {error}", file=sys.stderr)
        return 2
    if options.again:
        store.forget(options.parts, options.only)
    store.write()
    ended = {}
    for i, part in enumerate(options.parts):
        shares = [PARTS[name][1] for name in options.parts[i:]]
        ended[part] = run_part(part, options, deadline.left() * shares[0] / sum(shares))
    table = write_table(Store(options.out, options.device, options.tiny))
    for part, how in ended.items():
        print(f"{part}: {how}")
    print(f"written to {options.out / FILE} and {table}")
    return 1 if any(how.startswith("failed") for how in ended.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
