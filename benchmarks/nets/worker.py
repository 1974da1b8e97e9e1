"""One contender of one net, in a process of its own, doing what its parent asks: a JSON object per line in, one out.

A process of its own has a peak of memory of its own, threads that sleep while the others are timed, and may fail alone.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.bench import SETTLE
from benchmarks.nets.contenders import Contender, build, libraries
from benchmarks.nets.memory import forget_peak, peak, resident
from benchmarks.nets.table import NETS

SAMPLE_SECONDS = 0.02  # a sample repeats a call until it lasts about this long
WARM = 0.2  # a call shorter than this is made once before the clock starts: caches and threads wake up


def sample(call: Callable[[], Any], repeats: int, warm: bool) -> dict[str, float]:
    """Seconds for one call, by the wall and of all the process's threads."""
    time.sleep(SETTLE)
    gc.collect()
    if warm:
        call()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        call()
    return {"wall": (time.perf_counter() - wall) / repeats, "cpu": (time.process_time() - cpu) / repeats}


class Server:
    """What a worker can be asked for: each method answers one kind of question."""

    def __init__(self, contender: Contender, imported: int) -> None:
        self.contender, self.imported = contender, imported
        self.calls = {"step": contender.step, "batch 1": contender.infer}
        self.once: dict[str, float] = {}

    def facts(self) -> dict[str, Any]:
        forget_peak()
        return self.contender.facts()

    def operations(self) -> dict[str, float]:
        return dict(zip(("step", "batch 1"), self.contender.operations(), strict=True))

    def ready(self, what: str) -> dict[str, float]:
        """Change to training or inference, and find out how often a sample repeats its call; the seconds of one."""
        self.contender.mode(what)
        call = self.calls[what]
        call()
        self.once[what] = max(sample(call, 1, False)["wall"], 1e-7)
        return {"once": self.once[what]}

    def time(self, what: str) -> dict[str, float]:
        once = self.once[what]
        return sample(self.calls[what], max(1, round(SAMPLE_SECONDS / once)), once < WARM)

    def memory(self) -> dict[str, int]:
        """Bytes: resident after the imports, now, and the most since the first step began."""
        return {"imported": self.imported, "resident": resident(), "peak": peak()}


def main(name: str, net: str, threads: str) -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is not an answer
    server = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if server is None:
                libraries(name)
                imported = resident()
                server = Server(build(name, next(n for n in NETS if n.name == net), int(threads)), imported)
            answer = getattr(server, question["ask"])(**question["with"])
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
