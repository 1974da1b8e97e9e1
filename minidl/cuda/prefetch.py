"""Batches on a GPU, the next one copied while this one is used.

The copy runs on a stream of its own, from page-locked memory, and three things keep it in order:

- A batch's memory is allocated on the stream that computes.  Whoever had it before may still be at work there, so the copy
  waits for an event recorded there first.  (The step that will run meanwhile comes later in that stream and is not waited for.)
- The stream that computes waits for an event behind the copy before it reads the batch.
- The page-locked memory is kept until that event has passed; the host goes on long before.

What the loader's transform does to the images is done on the device, to a quarter of the bytes: pixels travel as uint8.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from minidl.backend import get_backend
from minidl.backend.transfer import pinned
from minidl.tensor import Tensor

Batch = tuple[Tensor, Tensor]


class Staged(NamedTuple):
    """A batch on its way: the arrays that it is copied to and from, what finishes the images, and the event behind the copy."""

    images: Any
    labels: Any
    finish: Callable[[Any], Any] | None
    source: tuple[Any, Any]
    arrived: Any


class Prefetcher:
    """Iterates over ``(images, labels)`` of ``loader`` as Tensors on ``device``, with the bits that the loader itself gives.

    Args:
        loader: a :class:`minidl.data.DataLoader`; its epochs, state and resuming work as ever.  Or any iterable of pairs of
            NumPy arrays.
        device: where the batches go.  On a CPU there is nothing to copy, and the loader's own arrays are given.

    Raises:
        DeviceError: the device is not there.

    >>> import minidl
    >>> from minidl import data
    >>> loader = data.DataLoader(data.load("shapes10", size=8), 4)
    >>> [images.shape for images, labels in minidl.cuda.Prefetcher(loader, "cpu")]
    [(4, 3, 32, 32), (4, 3, 32, 32)]
    """

    def __init__(self, loader: Any, device: str = "cuda"):
        self.loader, self.F = loader, get_backend(device)

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        if self.F.kind == "cpu":
            return self._as_they_are(self.loader)
        stage = self._copied_ahead if self.F.kind == "cuda" else self._one_by_one
        if hasattr(self.loader, "through"):
            through: Iterator[Batch] = self.loader.through(stage, pin_memory=self.F.kind == "cuda")
            return through
        keep = pinned if self.F.kind == "cuda" else lambda x: x
        return stage((keep(images), keep(labels), None) for images, labels in self.loader)

    def _as_they_are(self, batches: Iterable[tuple[Any, Any]]) -> Iterator[Batch]:
        for images, labels in batches:
            yield self._tensors(self.F.asarray(images), self.F.asarray(labels), None)

    def _one_by_one(self, batches: Iterable[Any]) -> Iterator[Batch]:
        for images, labels, finish in batches:
            yield self._tensors(self.F.asarray(images), self.F.asarray(labels), finish)

    def _copied_ahead(self, batches: Iterable[Any]) -> Iterator[Batch]:
        with self.F.xp.cuda.Device(self.F.index):
            stream = self.F.xp.cuda.Stream(non_blocking=True)
        batches = iter(batches)
        sources: deque[tuple[Any, Any]] = deque()    # (event, page-locked arrays) of batches that were given
        try:
            staged = self._start(stream, next(batches, None))
            while staged is not None:
                following = self._start(stream, next(batches, None))
                sources.append((staged.arrived, staged.source))
                yield self._finished(staged)
                staged = following
                while sources and sources[0][0].done:
                    sources.popleft()
        finally:
            # Memory that is dropped now may be given to others at once, so nothing may still be copied.
            stream.synchronize()

    def _start(self, stream: Any, batch: Any) -> Staged | None:
        """Begin to copy a batch."""
        if batch is None:
            return None
        images, labels, finish = batch
        with self.F.xp.cuda.Device(self.F.index):
            arrays = self.F.empty(images.shape, images.dtype), self.F.empty(labels.shape, labels.dtype)
            stream.wait_event(self._mark(self.F.xp.cuda.get_current_stream()))
            for array, source in zip(arrays, (images, labels), strict=True):
                array.set(source, stream=stream)
            return Staged(*arrays, finish, (images, labels), self._mark(stream))

    def _mark(self, stream: Any) -> Any:
        """An event that has passed when ``stream`` has done what was asked of it so far."""
        return stream.record(self.F.xp.cuda.Event(disable_timing=True))

    def _finished(self, staged: Staged) -> Batch:
        """Let the current stream wait for a batch, and finish its images there."""
        with self.F.xp.cuda.Device(self.F.index):
            self.F.xp.cuda.get_current_stream().wait_event(staged.arrived)
            return self._tensors(staged.images, staged.labels, staged.finish)

    def _tensors(self, images: Any, labels: Any, finish: Callable[[Any], Any] | None) -> Batch:
        F = self.F
        return Tensor(images if finish is None else finish(images), F), Tensor(labels, F)
