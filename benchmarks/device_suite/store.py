"""What was found, kept in one JSON file that is written anew after every result."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT

RESULTS = ROOT / "benchmarks" / "results"
FILE, TABLE = "device-suite.json", "device-suite.md"
DONE = ("measured", "missing", "failed")
ATTEMPTS = 2  # a case that ended its process or ran out of time so often has failed
TRIAL = "a trial run with tiny sizes: it shows that the code runs; its times mean nothing"


class Refused(ValueError):
    """What the command line asked for cannot be done; the message says why."""


class Store:
    """The results in a folder, by part and case.

    Args:
        folder: where the file lies, or will.
        device: "cuda" or "emu".
        tiny: whether sizes are tiny, so that nothing in it is a measurement.

    Raises:
        Refused: the folder holds results of another kind, or is where measurements are kept and this is none.
    """

    def __init__(self, folder: Path, device: str, tiny: bool) -> None:
        if tiny and folder.resolve().is_relative_to(RESULTS):
            raise Refused(f"{folder}: a tiny run is no measurement and stays out of benchmarks/results; give another --out")
        self.folder, self.path = folder, folder / FILE
        self.commit: str | None = None  # that runs now: a later call may be of another
        self.data: dict[str, Any] = {
            "measurement": not tiny, "device": device, **({"note": TRIAL} if tiny else {}),
            "machine": {}, "running": None, "attempts": {}, "results": [],
        }  # fmt: skip
        if self.path.exists():
            self._read(device, tiny)
        self.results = {(entry["part"], entry["case"]): entry for entry in self.data["results"]}

    def _read(self, device: str, tiny: bool) -> None:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            kind = found["device"], not found["measurement"]
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"{self.path} is not a file of this suite ({error}); give another --out") from None
        if kind != (device, tiny):
            was = f"--device {kind[0]}{' --tiny' * kind[1]}"
            raise Refused(f"{self.path} holds results of {was}; go on with the same options, or give another --out")
        self.data = found

    def describe(self, machine: dict[str, Any]) -> None:
        """The machine's facts.  Results of two GPUs do not belong in one file.

        Raises:
            Refused: the results that are there are another GPU's.
        """
        was, now = (facts.get("gpu", {}).get("name") for facts in (self.data["machine"], machine))
        if was not in (None, now):
            raise Refused(f"{self.path} holds results of {was}, this is {now}; give another --out")
        self.data["machine"] = {**machine, **self.data["machine"]}
        self.commit = machine.get("commit")
        self.write()

    def wants(self, part: str, case: str) -> bool:
        """Whether a case is still to be done."""
        entry = self.results.get((part, case))
        return entry is None or entry["status"] not in DONE

    def begin(self, part: str, case: str) -> None:
        """A case begins: if its process ends with it, the next one will know."""
        key = f"{part}/{case}"
        self.data["running"] = [part, case]
        self.data["attempts"][key] = self.data["attempts"].get(key, 0) + 1
        self.write()

    def put(self, part: str, case: str, status: str, entry: dict[str, Any]) -> None:
        """A result, in the place of what was known of the case."""
        date = time.strftime("%Y-%m-%d %H:%M:%S")
        self.results[part, case] = {"part": part, "case": case, "status": status, **entry, "commit": self.commit, "date": date}
        self.data["running"] = None
        self.write()

    def recover(self, why: str) -> None:
        """After a process that ended within a case: it is tried again, but not for ever."""
        if self.data["running"] is None:
            return
        part, case = self.data["running"]
        often = self.data["attempts"][f"{part}/{case}"] >= ATTEMPTS
        self.put(part, case, "failed" if often else "unfinished", {"why": why})

    def forget(self, parts: list[str], only: str) -> None:
        """Do the failed and the missing cases of these parts once more."""
        for (part, case), entry in list(self.results.items()):
            if part in parts and only in case and entry["status"] in ("failed", "missing"):
                del self.results[part, case]
                self.data["attempts"].pop(f"{part}/{case}", None)

    def roof(self, name: str) -> float | None:
        """A roof that the part "environment" measured, in bytes or operations a second."""
        entry = self.results.get(("environment", f"roof {name}"), {})
        return entry.get("rate")

    def write(self) -> None:
        """The file as a whole or not at all."""
        self.data["results"] = list(self.results.values()) if hasattr(self, "results") else []
        self.folder.mkdir(parents=True, exist_ok=True)
        replace(self.path, json.dumps(self.data, indent=1) + "\n")


def replace(path: Path, text: str) -> None:
    """Write a file so that whoever reads it finds the old text or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)
