"""The pool: every thread runs, none runs when there is nothing to do, and nothing hangs."""
import ctypes
import os
import threading
import time

import numpy as np
import pytest

from minidl.errors import ConfigError
from minidl.kernels.cpu import engine, threads
from minidl.kernels.cpu.emit import Kernel
from minidl.kernels.cpu.threads import NativePool, PythonPool
from tests.kernels.cpu.test_engine import run


@pytest.fixture(scope="module")
def who():
    """A kernel that notes in out[t] with how many threads thread t was told to run."""
    k = Kernel("who_runs", 4)
    out = k.pointer("out")
    k.store(k.spread(k.threads, "i64"), out + 32 * k.thread)
    return engine.load(k.text(), k.name)[0]


def ask(pool_run, who, threads):
    out = np.zeros(4 * threads, np.int64)
    slots = (ctypes.c_int64 * 1)(out.ctypes.data)
    pool_run(who, ctypes.addressof(slots))
    return out[::4].tolist()


@pytest.mark.parametrize("kind", [NativePool, PythonPool])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_thread_runs_every_time(kind, count, who):
    pool = kind(count)
    try:
        for i in range(300):
            assert ask(pool.run, who, count) == [count] * count
            if i % 100 == 0:
                time.sleep(0.002)                    # long enough for the workers to fall asleep
    finally:
        pool.close()


@pytest.mark.parametrize("kind", [NativePool, PythonPool])
def test_an_idle_pool_uses_no_processor(kind, who):
    pool = kind(3)
    try:
        ask(pool.run, who, 3)
        time.sleep(0.02)
        before = time.process_time()
        time.sleep(0.2)
        assert time.process_time() - before < 0.05   # two spinning workers would take 0.4
    finally:
        pool.close()


def test_the_number_of_threads(who):
    before = threads.get_num_threads()
    try:
        for count in (1, 3, 2):
            threads.set_num_threads(count)
            assert threads.get_num_threads() == count and ask(threads.run, who, count) == [count] * count
        for wrong in (0, -1, 1.5, True, "2"):
            with pytest.raises(ConfigError, match="positive whole number"):
                threads.set_num_threads(wrong)
    finally:
        threads.set_num_threads(before)


def test_the_environment():
    code = "from minidl.kernels.cpu import threads; print(threads.get_num_threads())"
    assert run(code, MINIDL_NUM_THREADS="3")[0] == "3"
    wrong = "from minidl.kernels.cpu import threads\ntry: threads.get_num_threads()\nexcept ValueError as e: print(e)"
    assert "MINIDL_NUM_THREADS='many'" in run(wrong, MINIDL_NUM_THREADS="many")[0]


def test_two_callers_at_once_both_get_their_answer(who):
    """While one Python thread has the pool, another computes alone; nobody waits for ever, nothing is mixed up."""
    before = threads.get_num_threads()
    threads.set_num_threads(2)
    wrong = []

    def work():
        for _ in range(500):
            answer = ask(threads.run, who, 2)
            if answer not in ([2, 2], [1, 0]):
                wrong.append(answer)
    callers = [threading.Thread(target=work) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    threads.set_num_threads(before)
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_makes_its_own_workers():
    code = """
import os, numpy as np
from minidl.kernels import lookup
x = np.linspace(-1, 1, 1 << 16, dtype=np.float32)
expected = lookup("relu")(x)
child = os.fork()
ok = np.array_equal(lookup("relu")(x), expected)
if child == 0:
    os._exit(0 if ok else 1)
print(ok, os.waitpid(child, 0)[1])
"""
    assert run(code, MINIDL_NUM_THREADS="2")[0] == "True 0"


def test_ctrl_c_arrives_and_the_pool_still_works():
    """Pressed until it does: Python drops an exception that is raised in a finalizer, and the arena's runs once a call.
    A job in the background, as tests may be, inherits that SIGINT is ignored.
    """
    code = """
import os, signal, threading, time, numpy as np
from minidl.kernels import lookup
x = np.ones(1 << 20, np.float32)
relu = lookup("relu")
relu(x)
signal.signal(signal.SIGINT, signal.default_int_handler)
caught = threading.Event()
def press():
    while not caught.wait(0.3):
        os.kill(os.getpid(), signal.SIGINT)
try:
    threading.Thread(target=press, daemon=True).start()
    end = time.time() + 30
    while time.time() < end:
        relu(x)
    print("no interrupt")
except KeyboardInterrupt:
    caught.set()
    print(relu(x).sum() == x.size)
"""
    assert run(code, MINIDL_NUM_THREADS="2")[0] == "True"


def test_openblas_keeps_one_thread():
    """On all cores, OpenBLAS's spinning threads would take them from the kernels, whatever the environment said at the start."""
    code = """
import minidl, numpy as np
from minidl.backend.threads import get_blas_threads
from minidl.kernels import lookup
lookup("relu")(np.ones(1 << 20, np.float32))
print(get_blas_threads())
for threads in (4, 3, 1):
    minidl.set_num_threads(threads)
    print(get_blas_threads())
"""
    found = run(code, MINIDL_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2")[0].split()
    if found[0] == "None":
        pytest.skip("NumPy has another BLAS than OpenBLAS here")
    assert found == ["1", "1", "1", "1"]
