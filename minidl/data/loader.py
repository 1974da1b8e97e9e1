"""Batches of a data set: shuffled from a seed, prepared ahead by threads, and resumable in the middle of an epoch."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import numpy as np

from minidl.backend.cuda_install import why_not
from minidl.backend.transfer import pinned
from minidl.data.base import Array, Dataset, check_labels, random_order
from minidl.data.transforms import mirror, to_float
from minidl.errors import ConfigError, DataError

Batch = tuple[Array, Array]
T = TypeVar("T")
Task = tuple["Future[Any]", Callable[[], Any]]


class RawBatch(NamedTuple):
    """A batch as the data set has it.

    ``finish`` makes of the images what the net gets: mirrored, transformed, float32.  They may have moved to a GPU meanwhile.
    """

    images: Array
    labels: Array
    finish: Callable[[Array], Array]


class DataLoader:
    """Iterates over ``(images float32 (n, C, H, W), labels int64 (n,))``.

    Each epoch's order comes from (seed, epoch) and each batch's augmentation from (seed, epoch, batch), so neither the
    threads nor a resume change a single bit.  Finishing an epoch moves on to the next; leaving one early (``break``)
    does not, and the next loop starts the same epoch again.

    Args:
        dataset: any :class:`~minidl.data.base.Dataset`.
        batch_size: images per batch; the last batch of an epoch may have fewer.
        shuffle: a new order each epoch; otherwise the data set's own.
        drop_last: leave out a last batch that is not full.
        transform: called as ``transform(images, rng)`` on each batch; images that are still uint8 afterwards are
            scaled to [0, 1].
        seed: a non-negative integer.
        alternate: mirror each image left to right in every other epoch, a random half of them first.  In two epochs a net
            then sees both sides of every image, which chance grants to half of them (Jordan 2024, arXiv:2404.00498).
        workers: threads that prepare batches ahead; 0 prepares each when it is asked for.
        pin_memory: put the batches into page-locked memory, from which a GPU copies while it computes.  Without a GPU this
            only warns.

    Raises:
        DataError: an empty data set, labels out of range, no batch at all.
        ConfigError: a batch size, seed or number of workers that makes no sense.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        transform: Callable[[Array, np.random.Generator], Array] | None = None,
        seed: int = 0,
        workers: int = 1,
        alternate: bool = False,
        pin_memory: bool = False,
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"DataLoader: batch_size must be a positive integer, got {batch_size!r}")
        if not isinstance(seed, int) or not 0 <= seed < 2**63 or not isinstance(workers, int) or workers < 0:
            raise ConfigError(
                f"DataLoader: seed and workers must be integers of at least 0, got {seed!r} and {workers!r}"
            )
        if len(dataset) == 0:
            raise DataError(f"DataLoader: {dataset.name} is empty; there is nothing to load")
        if drop_last and len(dataset) < batch_size:
            raise DataError(
                f"DataLoader: drop_last leaves no batch: {dataset.name} has {len(dataset)} images, fewer than "
                f"batch_size {batch_size}. Use a smaller batch or drop_last=False."
            )
        check_labels(dataset)
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.transform = transform
        self.seed = seed
        self.workers = workers
        self.alternate = alternate
        self.pin_memory = pin_memory and not _warned_of_no_gpu()
        # The number after all those that order and augment.
        self._mirrored = _generator(seed, 2**64 - 1).random(len(dataset)) < 0.5 if alternate else None  # in epoch 0
        self._epoch = 0
        self._given = 0  # batches of this epoch that the caller has been given
        self._resume_at = 0  # where the next loop starts

    @property
    def epoch(self) -> int:
        """The epoch that is under way or comes next."""
        return self._epoch

    def __len__(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next loop.  The present epoch keeps its place (a resume stays where it was)."""
        if epoch < 0:
            raise ConfigError(f"DataLoader: epoch must be at least 0, got {epoch}")
        if epoch != self._epoch:
            self._epoch, self._given, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: after the last batch that it gave to the caller."""
        return {"epoch": self._epoch, "batch": self._given, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken: the next loop starts with the batch after the last one given then.

        Raises:
            DataError: the state is of a loader with other data, batch size, order or seed.
        """
        for key, value in self._identity().items():
            if state.get(key) != value:
                raise DataError(
                    f"DataLoader: the saved state has {key}={state.get(key)!r}, this loader {value!r}; the run can "
                    "only be resumed exactly with the settings it was started with"
                )
        epoch, batch = state.get("epoch"), state.get("batch")
        if not isinstance(epoch, int) or not isinstance(batch, int) or epoch < 0 or not 0 <= batch <= len(self):
            raise DataError(f"DataLoader: the saved state is at epoch {epoch!r}, batch {batch!r} of {len(self)}")
        self._epoch, self._given, self._resume_at = epoch, batch, batch

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "images": len(self.dataset),
            **({"alternate": True} if self.alternate else {}),  # states from before it was there have no such key
        }

    def __iter__(self) -> Iterator[Batch]:
        return self._run(self._prepare, contextlib.nullcontext)

    def through(self, stage: Callable[[Iterator[RawBatch]], Iterator[T]], pin_memory: bool = True) -> Iterator[T]:
        """Iterate as usual, over what ``stage`` makes of the batches: :class:`minidl.cuda.Prefetcher` sends them to a GPU.

        Args:
            stage: gets an iterator of :class:`RawBatch` and yields a result for each, in their order.  It may read some
                ahead: a batch counts as given when its result is.
            pin_memory: whether the raw batches lie in page-locked memory.
        """
        prepare = functools.partial(self._read, pin_memory=pin_memory)
        return self._run(prepare, lambda batches: contextlib.closing(stage(batches)))  # type: ignore[type-var]

    def _run(self, prepare: Callable[[Array, int, int], Any], stage: Callable[[Any], Any]) -> Iterator[Any]:
        start, self._resume_at = self._resume_at, 0
        self._given = start
        return self._counted(self._epoch, start, prepare, stage)

    def _counted(self, epoch: int, start: int, prepare: Callable[..., Any], stage: Callable[[Any], Any]) -> Iterator[Any]:
        # Both are closed also when the caller breaks out, raises, or drops the iterator.
        with contextlib.closing(self._ahead(epoch, start, prepare)) as prepared, stage(prepared) as staged:
            for number, batch in enumerate(staged, start):
                # Counted before it is given: a state taken while the caller works on it says "done with this one".
                self._given = number + 1
                yield batch
            self._epoch, self._given = epoch + 1, 0

    def _ahead(self, epoch: int, start: int, prepare: Callable[[Array, int, int], T]) -> Generator[T, None, None]:
        """``prepare`` of every batch, by the threads."""
        # Number 0 of an epoch's keys orders the images, 1 + b augments batch b.
        order = (
            random_order(len(self.dataset), self.seed, epoch << 32) if self.shuffle else np.arange(len(self.dataset))
        )
        pool = _Threads(self.workers) if self.workers else None
        try:
            ahead: deque[Future[T]] = deque()
            for number in range(start, len(self)):
                if pool is None:
                    yield prepare(order, epoch, number)
                    continue
                # Two batches per thread: one being prepared, one ready.  The window never grows beyond that.
                while len(ahead) < 2 * self.workers and number + len(ahead) < len(self):
                    ahead.append(pool.submit(functools.partial(prepare, order, epoch, number + len(ahead))))
                yield ahead.popleft().result()
        finally:
            if pool is not None:
                pool.stop()

    def _prepare(self, order: Array, epoch: int, number: int) -> Batch:
        images, labels, finish = self._read(order, epoch, number, pin_memory=False)
        images = finish(images)
        return (pinned(images), pinned(labels)) if self.pin_memory else (images, labels)

    def _read(self, order: Array, epoch: int, number: int, pin_memory: bool) -> RawBatch:
        indices = order[number * self.batch_size : (number + 1) * self.batch_size]
        images, labels = self.dataset.batch(indices)
        finish = functools.partial(self._finish, indices, epoch, number)
        if self.transform is not None and not getattr(self.transform, "any_device", False):
            images, finish = finish(images), to_float  # type: ignore[assignment] # a user's function, written for NumPy
        if pin_memory:
            images, labels = pinned(images), pinned(labels)
        return RawBatch(images, labels, finish)

    def _finish(self, indices: Array, epoch: int, number: int, images: Array) -> Array:
        if self._mirrored is not None:
            images = mirror(images, self._mirrored[indices] ^ (epoch % 2 == 1))
        if self.transform is not None:
            images = self.transform(images, _generator(self.seed, (epoch << 32) + 1 + number))
        return to_float(images)


def _warned_of_no_gpu() -> bool:
    reason = why_not()
    if reason is not None:
        warnings.warn(f"DataLoader: pin_memory is of no use without a GPU: {reason}", UserWarning, stacklevel=3)
    return reason is not None


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))


class _Threads:
    """Daemon threads that run tasks.  Unlike concurrent.futures' pool, the interpreter's exit never waits for them."""

    def __init__(self, count: int) -> None:
        self.tasks: SimpleQueue[Task | None] = SimpleQueue()
        self.stopped = threading.Event()
        self.threads = [
            threading.Thread(target=_work, args=(self.tasks, self.stopped), name=f"minidl-loader-{k}", daemon=True)
            for k in range(count)
        ]
        for thread in self.threads:
            thread.start()

    def submit(self, function: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self.tasks.put((future, function))
        return future

    def stop(self) -> None:
        """Let the threads finish what they are at, and no more."""
        self.stopped.set()
        for _ in self.threads:
            self.tasks.put(None)


def _work(tasks: SimpleQueue[Task | None], stopped: threading.Event) -> None:
    while (task := tasks.get()) is not None and not stopped.is_set():
        _fulfil(*task)
        del task  # an idle thread must not keep a finished batch alive


def _fulfil(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:  # whatever it is, it is the caller's
        future.set_exception(error)
