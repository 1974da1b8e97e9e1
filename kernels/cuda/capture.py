"""What kernels must know while a CUDA graph is captured from them.

A graph repeats launches with the arguments that they had.  A number that changes from one replay to the next - a learning
rate, the key of a dropout mask - therefore lives in device memory, in a slot that is written before each replay; and an array
that the host makes (a table of pointers) is copied to the device beside the capture, once.

Which kernels are captured is none of their business otherwise: minidl.cuda.graph begins and ends it.
"""
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.errors import DeviceError

Array = Any
SLOTS = 4096                                         # numbers of 8 bytes that one graph may have


class _Local(threading.local):
    capture: "Capture | None" = None
    owners: "list[Any] | None" = None                # whose updates are noted


_local = _Local()


def current() -> "Capture | None":
    """The capture that this thread is in, None outside of one."""
    return _local.capture


def update(owner: Any, run: Callable[[], None]) -> None:
    """Calls ``run()``, the host's part of an update of ``owner``; in a capture, also before each replay."""
    if _local.owners is not None and all(owner is not known for known in _local.owners):
        if _local.capture is not None:
            raise DeviceError(f"{type(owner).__name__}: it took no step before the capture; let each call take the same ones")
        _local.owners.append(owner)
    if _local.capture is None:
        run()
    else:
        _local.capture.update(type(owner).__name__, run)


@contextlib.contextmanager
def noting(owners: list[Any]) -> Iterator[None]:
    """Adds to ``owners`` whose updates this thread makes in the block."""
    outer, _local.owners = _local.owners, owners
    try:
        yield
    finally:
        _local.owners = outer


class _Update:
    """The host's part of something that each replay does anew, and the slots that it fills."""

    def __init__(self, run: Callable[[], None]) -> None:
        self.run, self.places, self.next = run, list[slice](), 0


class Capture:
    """What belongs to one graph: its slots, the arrays that it reads, and what the host does before each replay.

    Args:
        xp: the array module.
        key: (seed, offset) of the generator whose keys the step takes: those of a replay count on from its state then.
        aside: a stream for what is not captured.
    """

    def __init__(self, xp: Any, key: tuple[int, int], aside: Any) -> None:
        self.xp, self.seed, self.first = xp, *key
        self.aside, self.allocator = aside, xp.cuda.get_allocator()
        self.kept: list[Any] = []                    # what the graph reads and nobody else may hold
        self.refused: set[int] = set()               # addresses of arrays that a replay would read in vain
        self.replaying = False
        self._host = np.zeros(SLOTS, np.uint64)
        self._device = xp.zeros(SLOTS, xp.uint64)
        self._used = 0
        self._updates: list[_Update] = []
        self._update: _Update | None = None
        self._keys: dict[int, slice] = {}            # offset from the first -> slots of (seed, offset)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """This thread is in the capture (or before one of its replays)."""
        outer, _local.capture = _local.capture, self
        try:
            yield
        finally:
            _local.capture = outer

    # ---- while it is captured

    def update(self, what: str, run: Callable[[], None]) -> None:
        """Calls ``run()``, now and before each replay; the launches in it take their numbers from ``numbers``."""
        self._update = _Update(run)
        run()
        if not self._update.places:
            raise DeviceError(f"{what}: no kernel of it reads its numbers from device memory, so a graph would repeat those of "
                              "one step; SGD, Adam and AdamW have one")  # fmt: skip
        self._updates.append(self._update)
        self._update = None

    def numbers(self, *values: float) -> Array:
        """``values`` as float64 on the device, which each replay gets anew.  During ``refresh`` they are noted for it."""
        update = self._update
        if update is None:
            raise DeviceError("a kernel takes numbers that change between replays outside of Capture.update")
        if self.replaying:
            place = update.places[update.next]
            update.next += 1
        else:
            place = self._take(len(values))
            update.places.append(place)
        self._host.view(np.float64)[place] = values
        return self._device[place].view(self.xp.float64)

    def key(self, key: tuple[int, int]) -> Array:
        """A key drawn in this capture as two uint64 on the device: that of each replay."""
        seed, offset = key
        if seed != self.seed or offset < self.first:
            raise DeviceError(f"dropout: the key {key} was not drawn from the default generator in the step, so a graph would "
                              "repeat its mask; draw it there")  # fmt: skip
        count = offset - self.first
        if count not in self._keys:
            self._keys[count] = self._take(2)
        return self._device[self._keys[count]]

    def keep(self, array: Array) -> Array:
        """An array that must live as long as the graph."""
        self.kept.append(array)
        return array

    def _take(self, count: int) -> slice:
        place = slice(self._used, self._used + count)
        if place.stop > SLOTS:
            raise DeviceError(f"a graph has more than {SLOTS} numbers that change between replays; capture a smaller step")
        self._used = place.stop
        return place

    # ---- before a replay

    @property
    def live_keys(self) -> int:
        """How many keys each replay draws anew."""
        return len(self._keys)

    def refresh(self) -> None:
        """Let the host do its part of the next replay."""
        self.replaying = True
        try:
            with self.active():
                for update in self._updates:
                    self._update, update.next = update, 0
                    update.run()
        finally:
            self.replaying, self._update = False, None

    def send(self, key: tuple[int, int]) -> None:
        """Copies all numbers to the device; ``key`` is the first that the replay takes."""
        seed, offset = key
        for count, place in self._keys.items():
            self._host[place] = seed, (offset + count) % 2**64
        if self._used:
            # Pageable memory of this size is copied aside before the call returns, so the host may write it again at once.
            self._device[: self._used].set(self._host[: self._used])


@contextlib.contextmanager
def outside(xp: Any) -> Iterator[None]:
    """What is done in the block is done at once and not captured, and its memory is nobody's but its own."""
    capture = current()
    if capture is None:
        yield
        return
    before, _local.capture = _local.capture, None
    try:
        with xp.cuda.using_allocator(capture.allocator), capture.aside:
            yield
            capture.aside.synchronize()
    finally:
        _local.capture = before


def constant(gpu: Any, host: np.ndarray) -> Array:
    """An array of the host's on the device, for a launch that may be captured."""
    capture = current()
    if capture is None:
        return gpu.xp.asarray(host)
    with outside(gpu.xp):
        return capture.keep(gpu.xp.asarray(host))
