"""The CPU against the GPU, layer by layer of AlexNet at batch 64: the lectures' "50 times", measured as ``minidl bench`` does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import minidl
from benchmarks.device_suite.work import Deadline, Suite, Task, Unfinished
from minidl.inspect.speed import Bench, Row

PART, GPU = "speedup", "gpu"
NET, TINY_NET = ("alexnet", 64), ("lenet5", 2)
ENDING = 5.0  # seconds that a row may need beyond the budget


def tasks(suite: Suite) -> Iterator[Task]:
    net, batch = TINY_NET if suite.tiny else NET
    case = f"{net}, batch {batch}"
    yield Task(case, lambda deadline: rows(suite, case, net, batch, deadline), least=60.0)


def rows(suite: Suite, case: str, net: str, batch: int, deadline: Deadline) -> dict[str, Any]:
    """All rows of the net; they are written as they come.

    Raises:
        Unfinished: some did not fit into the time.
    """
    bench = Bench(net, batch, suite.device.name, budget=max(1.0, deadline.left() - ENDING))
    if suite.tiny:
        bench.contenders = [contender for contender in bench.contenders if contender.name != "numba"]  # it compiles for long
    what = f"forward, float32; {minidl.get_num_threads()} threads on the CPU; first calls, which compile, are not counted"
    entry: dict[str, Any] = {"what": what, "rows": []}
    for row in bench.rows():
        entry["rows"].append(plain(row))
        suite.store.put(PART, case, "unfinished", entry)
    if any(row["left_out"] for row in entry["rows"]):
        raise Unfinished(entry)
    return entry


def plain(row: Row) -> dict[str, Any]:
    """A row for JSON; ``times_gpu``: how many times the GPU's time each of the others takes."""
    cells = {name: cell._asdict() for name, cell in row.cells.items()}
    gpu = row.cells.get(GPU)
    times = {name: cell.seconds / gpu.seconds for name, cell in row.cells.items() if name != GPU} if gpu else {}
    return {**row._asdict(), "cells": cells, "difference": row.difference, "times_gpu": times}
