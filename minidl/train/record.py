"""The folder of one run: what was asked for, what happened, and everything needed to go on.

::

    runs/shapes10-smallconv-001/
        config.json                 the resolved options, the seed, versions, threads and machine
        metrics.jsonl               one JSON object per line: training steps and epochs
        step-00000400.checkpoint    the whole state of the run, for --resume; the last two are kept
        best.safetensors            the weights with the best validation accuracy so far
        model.safetensors           the weights at the end, with everything that `minidl predict` needs
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from minidl.errors import CheckpointError, ConfigError
from minidl.io import checkpoint
from minidl.io.atomic import describe_oserror, remove_leftovers, write_atomic
from minidl.io.safetensors import read_bytes
from minidl.train.log import MetricsLog

CONFIG, METRICS, BEST, MODEL = "config.json", "metrics.jsonl", "best.safetensors", "model.safetensors"


class RunFolder:
    """The folder of one run, locked against a second process while it is open.

    ``RunFolder.create(path)`` makes a new one and refuses one that holds a run already; ``RunFolder.open(path)`` takes
    an existing one.  Raises :class:`~minidl.errors.ConfigError` or :class:`~minidl.errors.CheckpointError`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.log: MetricsLog | None = None
        self.damaged: list[Path] = []  # checkpoints that load_checkpoint found damaged and set aside
        self._made = False
        self._lock = _lock(self.path)
        remove_leftovers(self.path)

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Make the folder of a new run, or take an empty one.

        Raises:
            ConfigError: it holds a run already, or another process trains in it.
            CheckpointError: the system refuses to make it.
        """
        path = Path(path)
        try:
            made = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            taken = (path / CONFIG).exists() or bool(checkpoint.find(path))
        except OSError as error:
            raise CheckpointError(describe_oserror("create the run folder", path, error)) from error
        if taken:
            raise ConfigError(
                f"{path} already holds a run; continue it with `minidl train --resume {path}`, or choose another --out"
            )
        folder = cls(path)
        folder._made = made
        return folder

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Take the folder of a run that exists.

        Raises:
            ConfigError: it holds no run, or another process trains in it.
        """
        path = Path(path)
        if not (path / CONFIG).is_file():
            inside = sorted(found.parent for found in path.glob(f"*/{CONFIG}"))
            hint = f"; did you mean {inside[-1]}?" if inside else "; `minidl train` prints the name of its run folder"
            raise ConfigError(f"{path} is not a run folder (it has no {CONFIG}){hint}")
        return cls(path)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write ``config.json``, atomically."""
        write_atomic(self.path / CONFIG, [(json.dumps(config, indent=2) + "\n").encode()])

    def read_config(self) -> dict[str, Any]:
        """Read ``config.json``; a CheckpointError if it is damaged."""
        return read_config(self.path)

    def open_log(self, keep: int | None = None) -> MetricsLog:
        """Open ``metrics.jsonl``, cut back to its first ``keep`` records if given."""
        self.log = MetricsLog(self.path / METRICS, keep)
        return self.log

    def save_checkpoint(self, step: int, tree: dict[str, Any], keep: int = 2) -> Path:
        """Save the state of ``step``, then delete all but the newest ``keep`` checkpoints."""
        path = self.path / checkpoint.filename(step)
        if self.log is not None:
            self.log.sync()
        checkpoint.save(path, tree)
        checkpoint.prune(self.path, keep)
        return path

    def load_checkpoint(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest valid checkpoint, or None if there is none.

        Damaged ones that are newer are renamed to ``*.damaged`` (see :attr:`damaged`): they may not push valid ones out
        of the folder.  One that the system refuses to read may well be whole, so it is not passed over: going on from an
        older state, or from none, would overwrite what was saved.

        Raises:
            CheckpointError: a checkpoint cannot be read (no permission, a failing disk).
        """
        self.damaged = []
        for path in checkpoint.find(self.path):
            try:
                return path, checkpoint.load(path)
            except CheckpointError as error:
                if isinstance(error.__cause__, OSError):
                    raise
                aside = path.with_name(path.name + ".damaged")
                try:
                    path.replace(aside)
                except OSError as refused:
                    raise CheckpointError(describe_oserror("set a damaged checkpoint aside:", path, refused)) from refused
                self.damaged.append(aside)
        return None

    def close(self) -> None:
        """Close the log and give the folder free; one that was made for a run that never began is removed."""
        if self.log is not None:
            self.log.close()
            self.log = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._made and not (self.path / CONFIG).exists():
            with contextlib.suppress(OSError):  # not empty
                self.path.rmdir()


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``config.json`` of a run folder; a CheckpointError if it is missing or damaged."""
    path = Path(folder) / CONFIG
    try:
        config = json.loads(read_bytes(path))
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is damaged ({error}); restore it, or start a new run") from error
    return config


def in_use(folder: str | os.PathLike[str]) -> bool:
    """Whether a process trains in the folder just now; False where the system cannot say."""
    try:
        descriptor = _lock(Path(folder))
    except ConfigError:
        return True
    except OSError:
        return False
    if descriptor is not None:
        os.close(descriptor)
    return False


def next_folder(root: str | os.PathLike[str], name: str) -> Path:
    """The first unused ``root/name-001``, ``-002``, ..."""
    root = Path(root)
    try:
        taken = [entry.name for entry in root.iterdir()] if root.is_dir() else []
    except OSError as error:
        raise CheckpointError(describe_oserror("read", root, error)) from error
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    numbers = [int(match[1]) for entry in taken if (match := pattern.fullmatch(entry))]
    return root / f"{name}-{max(numbers, default=0) + 1:03d}"


def _lock(folder: Path) -> int | None:
    """An advisory lock on the folder itself; None where the system has none.  It ends with the process."""
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(f"another process is training in {folder}; wait for it, or choose another --out") from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor
