"""The threads that kernels run on: one fork-join pool per process.

``run(kernel, arguments)`` calls ``kernel(arguments, t, threads)`` for every t < threads, the caller being t = 0, and returns
when all have finished.  Workers are started at the first run.  They are Python threads that enter native code (``pool.ll``)
and stay there without the interpreter's lock; between runs they spin for about 150 microseconds and then sleep.  A run costs
under a microsecond while they spin, some twenty when they have to be woken.

How the work is divided never changes a result: kernels split it into tasks that depend on shapes only.

- Ctrl-C: the interpreter notes the signal and raises KeyboardInterrupt when the run has returned.
- fork: the child has no workers; it starts its own at its first run.
- Two Python threads at once: the second one computes its kernel alone.
"""
from __future__ import annotations

import atexit
import ctypes
import os
import platform
import threading
import time
from importlib import resources
from typing import Any

from minidl.errors import ConfigError
from minidl.kernels.cpu import blas, engine

ENVIRONMENT = "MINIDL_NUM_THREADS"
SPIN_SECONDS = 150e-6                                # longer than waking a worker takes, else both sides keep falling asleep
KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
_CALLER, _SLEEPER = 24, 8                            # words before the first sleeper, and of each sleeper, see pool.ll


def _pool_text() -> str:
    """pool.ll with this processor's instruction for "I am spinning"."""
    text = resources.files(__package__ or "minidl.kernels.cpu").joinpath("pool.ll").read_text(encoding="utf-8")
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        declaration, call = "declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"
    elif machine in ("aarch64", "arm64"):
        declaration, call = "declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"
    else:
        declaration, call = "", 'call void asm sideeffect "", ""()'
    return text.replace("PAUSE_DECLARATION", declaration).replace("PAUSE_CALL", call)


class NativePool:
    """Workers that wait in native code."""

    def __init__(self, threads: int) -> None:
        api = ctypes.pythonapi
        worker, run, self._nothing, spin = engine.load(
            _pool_text(), "pool_worker", "pool_run", "pool_nothing", "pool_spin")
        api.PyThread_allocate_lock.restype = ctypes.c_void_p
        api.PyThread_acquire_lock.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self.threads = threads
        size = _CALLER + _SLEEPER * threads
        self._memory = (ctypes.c_int64 * (size + 8))()
        address = ctypes.addressof(self._memory)
        self._at = address + -address % 64           # cache lines start where the layout says
        words = (ctypes.c_int64 * size).from_address(self._at)
        words[2], words[3] = threads, self._spins(spin)
        words[4] = ctypes.cast(api.PyThread_acquire_lock, ctypes.c_void_p).value or 0
        words[5] = ctypes.cast(api.PyThread_release_lock, ctypes.c_void_p).value or 0
        for i in range(threads):                     # the caller and the workers each sleep on a lock of their own
            lock = api.PyThread_allocate_lock()
            api.PyThread_acquire_lock(lock, 1)
            words[_CALLER + _SLEEPER * i + 1] = lock
        self._words = words
        self._run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(run)
        enter = KERNEL(worker)
        self._workers = [threading.Thread(target=enter, args=(self._at, i, 0), daemon=True, name=f"minidl-pool-{i}")
                         for i in range(1, threads)]
        for thread in self._workers:
            thread.start()

    @staticmethod
    def _spins(spin: int) -> int:
        """Turns of the spinning loop in SPIN_SECONDS."""
        turns = ctypes.c_int64(2000)
        wait = KERNEL(spin)
        begin = time.perf_counter()
        wait(ctypes.addressof(turns), 0, 1)
        return max(100, int(turns.value * SPIN_SECONDS / max(time.perf_counter() - begin, 1e-9)))

    def run(self, kernel: int, arguments: int) -> None:
        self._run(self._at, kernel, arguments)

    def close(self) -> None:
        self._words[6] = 1
        self.run(self._nothing, 0)
        for thread in self._workers:
            thread.join()


class PythonPool:
    """The same in plain Python, for an interpreter whose locks native code cannot reach; 10 to 20 times the cost per run."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._start = [threading.Semaphore(0) for _ in range(threads)]
        self._finished = threading.Semaphore(0)
        self._job: tuple[Any, int] | None = None
        self._workers = [threading.Thread(target=self._work, args=(i,), daemon=True, name=f"minidl-pool-{i}")
                         for i in range(1, threads)]
        for thread in self._workers:
            thread.start()

    def _work(self, i: int) -> None:
        while True:
            self._start[i].acquire()
            if self._job is None:
                return
            kernel, arguments = self._job
            kernel(arguments, i, self.threads)
            self._finished.release()

    def _wake(self, job: tuple[Any, int] | None) -> None:
        self._job = job
        for start in self._start[1:]:
            start.release()

    def run(self, kernel: int, arguments: int) -> None:
        function = KERNEL(kernel)
        self._wake((function, arguments))
        function(arguments, 0, self.threads)
        for _ in self._workers:
            self._finished.acquire()

    def close(self) -> None:
        self._wake(None)
        for thread in self._workers:
            thread.join()


def _cores() -> int:
    """The processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _from_environment() -> int:
    text = os.environ.get(ENVIRONMENT)
    if not text:
        return _cores()
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{ENVIRONMENT}={text!r}: expected a number of threads, 1 or more")
    return int(text)


_busy = threading.Lock()                             # held while the pool runs, or is made or closed
_threads: int | None = None
_pool: NativePool | PythonPool | None = None


def get_num_threads() -> int:
    """How many threads kernels use: what set_num_threads said, else $MINIDL_NUM_THREADS, else every core."""
    global _threads
    if _threads is None:
        _threads = _from_environment()
    return _threads


def set_num_threads(threads: int) -> None:
    """Let kernels use so many threads, the caller included; the results of kernels written in the emitter do not
    depend on it (those of gemm.py may, in their last bits).

    Raises:
        ConfigError: not a positive whole number.
    """
    global _threads
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise ConfigError(f"set_num_threads: expected a positive whole number, found {threads!r}")
    with _busy:
        _close()
        _threads = threads
        blas.use_one()


def _close() -> None:
    global _pool
    if _pool is not None:
        _pool.close()
        _pool = None


def _make() -> NativePool | PythonPool:
    blas.use_one()
    try:
        return NativePool(get_num_threads())
    except AttributeError:                           # no PyThread_* in this interpreter
        return PythonPool(get_num_threads())


def run(kernel: int, arguments: int, alone: bool = False) -> None:
    """Run the kernel at address ``kernel`` on all threads, or (``alone``) on the caller's only."""
    global _pool
    if alone or get_num_threads() == 1 or not _busy.acquire(blocking=False):
        KERNEL(kernel)(arguments, 0, 1)
        return
    try:
        if _pool is None:
            _pool = _make()
        _pool.run(kernel, arguments)
    finally:
        _busy.release()


def _after_fork() -> None:
    """The child's copy of the pool has no threads, and its lock may be held by one that does not exist here."""
    global _pool, _busy
    _pool, _busy = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_close)
