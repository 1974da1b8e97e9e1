"""The device suite on the emulator: every part runs, results survive, what is wrong is named; and its parts one by one."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench import ROOT
from benchmarks.device_suite import __main__ as command
from benchmarks.device_suite import devices, features, kernels, speedup, steps, work
from benchmarks.device_suite.report import page
from benchmarks.device_suite.samples import TINY, argument_names, result_names, sample, sized, upload, verbs
from benchmarks.device_suite.store import ATTEMPTS, FILE, RESULTS, TABLE, Refused, Store
from benchmarks.device_suite.work import BROKEN, DONE, OUT_OF_TIME, PARTS, Deadline, Missing, Suite, Task, Unfinished
from minidl.backend import select
from minidl.inspect import kernel_samples, speed
from minidl.inspect.kernel_samples import Sample
from minidl.kernels.cuda import launch
from tests.fake_cupy import fake_cupy, installer
from tests.fake_graph import with_capture

EVER = 1e5


class Nothing:
    """A device on which nothing runs."""

    name, torch, xp, working = "cuda", "cpu", np, True

    def facts(self):
        return {"name": "none", "capability": "90"}

    def synchronize(self):
        pass

    def spans(self, call, flush=True):
        call()
        return [1e-3] * 3

    def alive(self):
        return self.working

    def tidy(self):
        pass


@pytest.fixture
def emulated(monkeypatch, tmp_path):
    """The suite on the emulator, in this process."""
    if shutil.which("g++") is None:
        pytest.skip("the CUDA emulator needs g++")
    monkeypatch.setattr(launch, "_gpus", dict(launch._gpus))
    monkeypatch.setattr(select, "_others", dict(select._others))
    return Suite(devices.open_device("emu"), Store(tmp_path, "emu", True), True)


@pytest.fixture
def suite(tmp_path):
    return Suite(Nothing(), Store(tmp_path, "cuda", False), False)


def read(folder):
    return json.loads((folder / FILE).read_text(encoding="utf-8"))


# The command


def run_command(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "benchmarks.device_suite", *arguments], cwd=ROOT, env=environment, text=True,
                          capture_output=True, timeout=240)  # fmt: skip


def test_the_command_keeps_results_and_goes_on(tmp_path):
    options = ["--device", "emu", "--out", str(tmp_path), "--parts", "overhead", "--only", "launch, minidl"]
    first = run_command(*options)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "overhead launch, minidl: measured" in first.stdout and "overhead: done" in first.stdout
    found = read(tmp_path)
    assert found["measurement"] is False and "mean nothing" in found["note"]
    assert found["machine"]["gpu"]["name"] == "CUDA emulator"
    assert "mean nothing" in (tmp_path / TABLE).read_text(encoding="utf-8")
    again = run_command(*options)
    assert again.returncode == 0 and ": measured" not in again.stdout
    assert read(tmp_path)["results"] == found["results"]


def test_without_a_gpu_it_says_so_in_a_line(tmp_path, capsys):
    import minidl

    if minidl.cuda.is_available():
        pytest.skip("there is a GPU")
    assert command.main(["--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("device_suite: no GPU: ") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_part_that_does_not_exist(capsys):
    with pytest.raises(SystemExit):
        command.main(["--out", "x", "--parts", "kernels,colonels"])
    assert "no part is called 'colonels'; the parts: environment, compile" in capsys.readouterr().err


def stub(monkeypatch, tmp_path, script):
    """A program in the worker's place."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setattr(command.sys, "executable", str(path))
    monkeypatch.setattr(command, "GRACE", 0.3)
    return command.parser().parse_args(["--out", str(tmp_path), "--tiny"])


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_worker_that_does_not_end_is_ended(monkeypatch, tmp_path):
    options = stub(monkeypatch, tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; wait")
    Store(tmp_path, "cuda", True).begin("kernels", "relu")
    assert command.run_part("kernels", options, 2.0) == "out of time"
    child = int((tmp_path / "child").read_text())
    patience = time.monotonic() + 20                 # its own child is told to end as well, and does so by itself
    while alive(child) and time.monotonic() < patience:
        time.sleep(0.01)
    assert not alive(child)
    (entry,) = read(tmp_path)["results"]
    assert entry["status"] == "unfinished" and entry["why"] == "it did not end in time"


def test_a_worker_that_breaks_is_started_again(monkeypatch, tmp_path, capsys):
    runs = tmp_path / "runs"
    options = stub(monkeypatch, tmp_path, f"echo x >> {runs}; [ $(wc -l < {runs}) -lt 3 ] && exit {BROKEN}; exit 0")
    Store(tmp_path, "cuda", True).write()
    assert command.run_part("kernels", options, 20) == "done"
    assert runs.read_text().count("x") == 3
    assert capsys.readouterr().out.count("a case broke the GPU context; going on in a new process") == 2
    monkeypatch.setattr(command, "LAUNCHED", 2)
    assert command.run_part("kernels", stub(monkeypatch, tmp_path, "kill -SEGV $$"), 20) == "failed: 2 processes broke"
    assert command.run_part("kernels", stub(monkeypatch, tmp_path, "exit 1"), 20).startswith("failed: its process ended")


# Every part, tiny, in this process


@pytest.mark.parametrize("part", [part for part in PARTS if part != "tests"])
def test_every_part_runs_on_the_emulator(part, emulated):
    assert work.work(part, emulated, Deadline(EVER)) == DONE
    entries = [entry for (of, _), entry in emulated.store.results.items() if of == part]
    assert entries and {entry["status"] for entry in entries} <= {"measured", "missing"}, entries
    wrong = [why for entry in entries for why in entry.get("missing", {}).values() if "WRONG" in why or "Error" in why]
    assert not wrong
    emulated.store.describe({"gpu": emulated.device.facts(), "processor": "", "cores": 1, "system": "", "versions": {},
                             "commit": None, "date": ""})  # fmt: skip
    text = "\n".join(page(emulated.store))
    assert f"## {part}" in text and all(entry["case"] in text or entry["status"] != "measured" for entry in entries
                                        if part != "environment")  # fmt: skip


def test_the_tests_of_a_file(emulated, tmp_path):
    assert work.work("tests", emulated, Deadline(EVER)) == DONE
    (entry,) = emulated.store.results.values()
    assert entry["status"] == "measured" and entry["passed"] >= 2 and entry["failed"] == entry["crashed"] == 0
    assert "test_elementwise.py" in "\n".join(page(emulated.store))


# Cases and time


def cases(monkeypatch, suite, *tasks):
    monkeypatch.setattr(work, "tasks", lambda part, suite: iter(tasks))
    return lambda seconds=EVER: work.work("kernels", suite, Deadline(seconds))


def test_what_becomes_of_a_case(monkeypatch, suite, tmp_path):
    def raising(error):
        def run(deadline):
            raise error

        return run

    done = []
    run = cases(
        monkeypatch, suite, Task("good", lambda _: done.append(1) or {"rate": 2.0, "unit": "GB/s"}),
        Task("absent", raising(Missing("no such tool"))), Task("bad", raising(ValueError("it\nbroke"))),
        Task("slow", raising(Unfinished({"passed": 3}))), Task("long", lambda _: pytest.fail("no time for it"), least=1e10),
    )  # fmt: skip
    assert run() == OUT_OF_TIME
    found = {entry["case"]: entry for entry in read(tmp_path)["results"]}
    assert {case: entry["status"] for case, entry in found.items()} == {
        "good": "measured", "absent": "missing", "bad": "failed", "slow": "unfinished"}  # fmt: skip
    assert found["absent"]["why"] == "no such tool" and found["bad"]["why"] == "ValueError: it" and found["slow"]["passed"] == 3
    assert "raise error" in found["bad"]["traceback"]
    assert run() == OUT_OF_TIME and done == [1]  # what is done is not done again
    suite.store.forget(["kernels"], "")
    assert not suite.store.wants("kernels", "good") and suite.store.wants("kernels", "bad")


def test_a_broken_device_ends_the_process(monkeypatch, suite, tmp_path):
    def wild(_):
        suite.device.working = False
        raise RuntimeError("an illegal memory access was encountered")

    run = cases(monkeypatch, suite, Task("wild", wild), Task("next", lambda _: {}))
    assert run() == BROKEN
    assert [entry["status"] for entry in read(tmp_path)["results"]] == ["failed"]
    suite.device.working = True
    assert run() == DONE


def test_a_deadline_runs_down():
    now = iter([0.0, 3.0, 12.0])
    deadline = Deadline(10, lambda: next(now))
    assert deadline.left() == 7 and deadline.left() == -2


# The file


def test_a_case_that_ends_its_process_is_tried_again_but_not_for_ever(tmp_path):
    for _ in range(ATTEMPTS):
        store = Store(tmp_path, "cuda", False)
        assert store.wants("steps", "a")
        store.begin("steps", "a")
        Store(tmp_path, "cuda", False).recover("status -11")
    store = Store(tmp_path, "cuda", False)
    assert not store.wants("steps", "a") and store.results["steps", "a"]["why"] == "status -11"
    store.recover("nothing was running")
    assert len(store.results) == 1


@pytest.mark.parametrize("folder", [RESULTS, RESULTS / "gpu", RESULTS / ".." / "results" / "x"])
def test_a_trial_stays_out_of_the_results(folder):
    with pytest.raises(Refused, match="a tiny run is no measurement"):
        Store(folder, "emu", True)
    Store(folder, "cuda", False)


def test_results_of_two_kinds_do_not_mix(tmp_path):
    Store(tmp_path, "emu", True).describe({"gpu": {"name": "A"}})
    with pytest.raises(Refused, match="holds results of --device emu --tiny; go on with the same options"):
        Store(tmp_path, "cuda", False)
    with pytest.raises(Refused, match="holds results of A, this is B"):
        Store(tmp_path, "emu", True).describe({"gpu": {"name": "B"}})
    (tmp_path / FILE).write_text("[1, 2", encoding="utf-8")
    with pytest.raises(Refused, match="is not a file of this suite"):
        Store(tmp_path, "emu", True)


# Time on a GPU


class Recorder:
    """CuPy, as far as a span needs it: what was queued, in order; a wait is a wait, and a call takes 3 ms."""

    uint64 = staticmethod(float)

    def __init__(self):
        self.queue, self.now = [], 0.0
        self.cuda = types.SimpleNamespace(
            Event=self.event, get_current_stream=lambda: "stream", runtime=types.SimpleNamespace(deviceSynchronize=lambda: None),
            get_elapsed_time=lambda start, end: end.at - start.at)  # fmt: skip

    def event(self):
        def record(stream):
            assert stream == "stream"
            self.queue.append("event")
            mark.at = self.now

        mark = types.SimpleNamespace(record=record, synchronize=lambda: None)
        return mark

    def call(self):
        self.queue.append("call")
        self.now += 3.0


def test_a_span_is_the_calls_alone(monkeypatch):
    gpu = object.__new__(devices.Cuda)
    gpu.xp = recorder = Recorder()
    waited = []
    gpu.kernels = types.SimpleNamespace(get_function=lambda name: lambda grid, block, arguments: (
        recorder.queue.append("wait"), waited.append(arguments[0])))  # fmt: skip
    monkeypatch.setattr(gpu, "flush", lambda: recorder.queue.append("flush"), raising=False)
    found = gpu.spans(recorder.call)
    assert found == [pytest.approx(3e-3)] * len(found) and devices.LAUNCHES <= len(found) <= devices.MOST_LAUNCHES
    assert recorder.queue[:2] == ["call", "call"] and recorder.queue[2:7] == ["flush", "wait", "event", "call", "event"]
    assert min(waited) >= devices.SLACK * 1e9
    recorder.queue.clear()
    gpu.spans(recorder.call, flush=False)
    assert "flush" not in recorder.queue


def test_launches_fill_their_time():
    assert devices.launches(1e-6) == devices.MOST_LAUNCHES and devices.launches(10.0) == devices.LAUNCHES
    assert devices.launches(devices.SPAN_SECONDS / 50) == 50


def test_the_names_are_cupys():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    names = """
        cuda.Event.record cuda.Event.synchronize cuda.get_elapsed_time cuda.get_current_stream cuda.Device.compute_capability
        cuda.MemoryPointer.memset_async cuda.MemoryPointer.copy_from_device_async cuda.MemoryPool.malloc cuda.set_allocator
        cuda.runtime.deviceSynchronize cuda.runtime.getDeviceProperties cuda.runtime.driverGetVersion
        cuda.runtime.runtimeGetVersion RawModule.get_function get_default_memory_pool uint64 int32 float32 copyto"""
    for name in names.split():
        found = cupy
        for part in name.split("."):
            found = getattr(found, part)


def test_the_suites_own_kernels_compile():
    nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="NVRTC is not installed")
    program = nvrtc.createProgram(devices.SOURCE, "suite.cu", (), ())
    nvrtc.compileProgram(program, ("-arch=compute_90",))
    ptx = nvrtc.getPTX(program)
    ptx = ptx if isinstance(ptx, str) else ptx.decode()
    # As many multiply-adds in the loop as are counted, none of them folded away.
    assert ptx.count("fma.rn.f32") % devices.CHAINS == 0 and ptx.count("fma.rn.f32") and "%globaltimer" in ptx


# Kernels


def test_samples_on_a_device():
    kept = kernel_samples.N
    with sized({"N": 3}):
        assert kernel_samples.N == 3
    assert kernel_samples.N == kept
    assert argument_names("batch_norm_grad") == ["gy", "x", "w", "mean", "invstd"]
    assert result_names("attention") == ["y", "kept"] and result_names("relu") == ["y"]
    assert argument_names("softmax_cross_entropy") == ["logits", "labels", "weight", "ignore_index", "label_smoothing"]
    found = sample("batch_norm_grad", "float16", np, TINY)
    assert [a.dtype.name for a in found.arguments] == ["float16"] * 3 + ["float32"] * 2
    channels_last = upload(np, np.moveaxis(np.arange(120, dtype=np.float32).reshape(2, 4, 5, 3), -1, 1), "float32")
    assert channels_last.strides == (240, 4, 60, 12) and channels_last[1, 2, 3, 4] == 119
    assert {"conv2d", "batch_norm_relu_grad", "adam_"} <= set(verbs("emu"))


def test_a_variant_that_would_hand_a_call_on_is_known(emulated):
    found = sample("conv2d", "float32", np, TINY)
    assert launch.computes("conv2d", "emu", "cuda", *found.arguments)
    assert not launch.computes("conv2d", "emu", "tensor", *found.arguments)
    assert launch.computes("conv2d", "emu", "tensor", *found.arguments, "tf32")
    assert launch.computes("conv2d", "emu", "numpy", *found.arguments)
    launch.gpu_of("emu").capability = 75  # too old for tensor cores
    assert not launch.computes("conv2d", "emu", "tensor", *found.arguments, "tf32")


def table_of(monkeypatch, **variants):
    monkeypatch.setattr(kernels.kernels, "variants", lambda verb, device: variants)
    monkeypatch.setattr(kernels, "computes", lambda verb, device, name, *a, **o: name != "narrow")


def test_a_kernel_that_is_wrong_is_named_not_timed(monkeypatch):
    def broken(x):
        raise ValueError("no such block size")

    table_of(monkeypatch, naive=lambda x: x + 1e-5, cuda=lambda x: 1.1 * x, cupy=lambda x: x, narrow=lambda x: x, bad=broken)
    x = np.ones((4, 4), np.float32)
    entry = kernels.measure(Nothing(), "relu", "float32", Sample("4x4", (x,)))
    assert list(entry["timings"]) == ["naive", "cupy"] and entry["moved"] == 128
    assert entry["missing"] == {"cuda": "WRONG: differs from cupy by 0.1 of its size", "narrow": "not for these arguments",
                                "bad": "ValueError: no such block size"}  # fmt: skip
    assert kernels.rate(entry, "naive") == (pytest.approx(128e-6), "GB/s")


def test_what_a_forward_pass_keeps_goes_to_its_own_gradient(monkeypatch):
    made = {"cuda": lambda q, k, v, scale: (q, "log sums"), "cupy": lambda q, k, v, scale: (q, "weights")}
    monkeypatch.setattr(kernels.kernels, "variants", lambda verb, device: made if verb == "attention" else {})
    for variant, kept in (("cuda", "log sums"), ("cupy", "weights"), ("naive", "sample's")):
        given = kernels.with_kept(Nothing(), "attention_grad", variant, ("gy", 1, 2, 3, "sample's", 0.5))
        assert given == ("gy", 1, 2, 3, kept, 0.5)
    assert kernels.with_kept(Nothing(), "relu_grad", "cuda", ("gy", "y")) == ("gy", "y")


def test_distances():
    one, two = np.ones(4, np.float32), np.full(4, 2, np.float32)
    assert kernels.distance(np, (one, two), (one, two)) == 0 and kernels.distance(np, two, one) == 1
    assert kernels.distance(np, one, np.ones(4)) == kernels.distance(np, np.ones((2, 2), np.float32), one) == math.inf
    assert math.isnan(kernels.distance(np, one * np.nan, one)) and not math.nan <= kernels.ALLOWED["float32"]
    assert kernels.distance(np, (one, two), (one, one), [True, False]) == 0
    assert kernels.distance(np, (one, two), (one, one), [True]) == 1
    assert kernels.distance(np, one, np.zeros(4, np.float32)) == math.inf and kernels.distance(np, None, None) == 0


def test_bytes_and_roofs():
    p, g, state = ([np.ones(10, np.float32)] for _ in range(3))
    assert kernels.moved("sgd_", (p, g, state), None) == 5 * 40 and kernels.moved("relu", (p[0],), p[0]) == 80
    assert kernels.moved("scale_", (p,), None) == 80 and kernels.moved("add_bias_", (p[0], g[0]), p[0]) == 120
    assert kernels.moved("add_at_", (np.ones(99, np.float32), np.ones(10, np.int64), p[0]), None) == 80 + 3 * 40
    product = {"flop": 1.0, "precision": "tf32"}
    assert kernels.roof_of(product, "tensor") == "matrix product tf32" and kernels.roof_of(product, "cuda") == "multiply-add"
    assert kernels.roof_of({"flop": 0.0}, "cuda") == "copy"


def test_shares_of_a_measured_roof(suite):
    suite.store.put("environment", "roof copy", "measured", {"what": "", "rate": 100.0, "unit": "GB/s",
                                                             "timings": {"roof": work.timing([1e-3])}})  # fmt: skip
    entry = {"what": "4x4", "precision": "float32", "flop": 0.0, "moved": 80e6, "timings": {"cuda": work.timing([1e-3])}}
    suite.store.put("kernels", "relu float32", "measured", entry)
    assert "| relu float32 | cuda | 1 (1-1) | 80 GB/s | 80% of copy | 4x4 |" in "\n".join(page(suite.store))


# Nets


def test_contenders_that_differ_are_named():
    facts = {"minidl": (2.0, 5.0), "torch": (2.001, 5.0), "other": (2.1, 5.0), "nan": (2.0, math.nan)}
    steps.differs(facts, "torch", (1e-3, 1e-2))
    with pytest.raises(Missing, match=r"WRONG: the loss is 2.1, minidl has 2"):
        steps.differs(facts, "other", (1e-3, 1e-2))
    with pytest.raises(Missing, match="WRONG: the gradients' norm is nan"):
        steps.differs(facts, "nan", (1e-3, 1e-2))


def test_our_best_is_compared_with_their_best():
    taken = {"minidl": [2.0, 2.0], "minidl graph": [1.0, 1.2], "torch": [4.0, 4.0], "torch graph": [2.0, 2.0]}
    net = steps.NETS[0]
    found = steps.entry(net, "float32", steps.STEP, {"minidl": (1.0, 2.0)}, taken, {}, 3.0)
    assert (found["contender"], found["reference"]) == ("minidl graph", "torch graph")
    assert found["ratio"]["median"] == pytest.approx(0.55) and found["images"] == net.batch
    alone = steps.entry(net, "float32", steps.IMAGE, {}, {"minidl": [1.0]}, {"torch": "absent"}, 3.0)
    assert alone["ratio"] is alone["reference"] is None and alone["images"] == 1


@pytest.mark.parametrize(("precision", "what"), [("float32", steps.STEP), ("float32", steps.IMAGE), ("bfloat16", steps.STEP)])
def test_ours_and_its_graph_where_cupy_is_stood_in_for(precision, what, monkeypatch, tmp_path):
    """What the emulator's device cannot show: a backend of CuPy's arrays, and a captured step."""
    if precision == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    net = dataclasses.replace(steps.NETS[0], batch=2)
    for put in installer(monkeypatch, tmp_path):
        with_capture(put(fake_cupy(count=1)), monkeypatch)
        suite = Suite(Nothing(), Store(tmp_path / "out", "cuda", True), True)
        entry = steps.race(suite, net, precision, what, (steps.OURS, steps.OURS_GRAPH), Deadline(EVER))
    assert list(entry["timings"]) == ["minidl", "minidl graph"] and not entry["missing"]
    agreed = list(entry["agreed"].values())
    assert agreed[0] == agreed[1]


def test_every_net_is_there():
    names = {task.case for task in steps.tasks(Suite(Nothing(), None, False))}
    for name in ("lenet5 128", "resnet20 128", "resnet20 512", "alexnet 128", "resnet18 128", "resnet50 64"):
        for precision in ("float32", "tf32", "bfloat16"):
            assert {f"{name} {precision} step", f"{name} {precision} step, compiled"} <= names
    assert "resnet20 bfloat16 batch 1" in names


def test_what_this_minidl_cannot_do_is_missing(monkeypatch):
    monkeypatch.setattr(features, "minidl", types.SimpleNamespace(config=types.SimpleNamespace(), cuda=types.SimpleNamespace()))
    with pytest.raises(Missing, match="autocast is not there"), features.minidl_precision("bfloat16"):
        pass
    with pytest.raises(Missing, match="allow_tf32 is not there"), features.minidl_precision("tf32"):
        pass
    with features.minidl_precision("float32"):
        pass
    with pytest.raises(Missing, match="graph is not there"):
        features.minidl_graph(lambda: None, ())


def test_a_step_that_cannot_be_captured_is_missing(monkeypatch):
    calls = []

    class Eager:
        reason = "line 3: item() looks at a value"

        def __call__(self, x):
            calls.append(x)

    capture = types.SimpleNamespace(cuda=types.SimpleNamespace(graph=lambda step, warmup: Eager()))
    monkeypatch.setattr(features, "minidl", capture)
    image = types.SimpleNamespace(is_cuda=True)
    with pytest.raises(Missing, match="it cannot be captured: line 3"):
        features.minidl_graph(lambda x: x, (image,))
    assert calls == [image] * (features.WARM_UP + 1)
    with pytest.raises(Missing, match="CUDA graphs need a GPU"):
        features.minidl_graph(lambda x: x, (types.SimpleNamespace(is_cuda=False),))


@pytest.mark.parity
def test_pytorchs_switches_are_put_back():
    torch = pytest.importorskip("torch")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with features.torch_precision(torch, "cpu", "tf32"):
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    with features.torch_precision(torch, "cpu", "bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


# On a machine that has little


BLOCKED = ("click", "rich", "safetensors", "PIL", "ml_dtypes", "scipy", "sklearn", "matplotlib", "onnx", "torch", "cupy")


def test_it_needs_none_of_what_may_be_absent(tmp_path):
    """Every module is imported, and kernels run, where little is installed; bfloat16 says what it lacks."""
    code = f"""
        import importlib, pkgutil, sys
        for name in {BLOCKED!r}:
            sys.modules[name] = None
        import benchmarks.device_suite
        for module in pkgutil.iter_modules(benchmarks.device_suite.__path__):
            importlib.import_module(f"benchmarks.device_suite.{{module.name}}")
        from pathlib import Path
        from benchmarks.device_suite import kernels, steps, work
        from benchmarks.device_suite.devices import open_device
        from benchmarks.device_suite.store import Store
        suite = work.Suite(open_device("emu"), Store(Path({str(tmp_path)!r}), "emu", True), True)
        task = work.Task("relu", kernels.verb_of(suite, "relu", "bfloat16"))
        print(work.attempt(task, work.Deadline(9)))
        print(sorted(kernels.verb_of(suite, "relu", "float32")(work.Deadline(9))["timings"]))
        print(steps.race(suite, steps.NETS[0], "float32", steps.IMAGE, ("torch", "minidl"), work.Deadline(9))["missing"])
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, env=environment, text=True,
                          capture_output=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "('missing', {'why': 'bfloat16 needs ml_dtypes'})"
    assert "'cuda'" in lines[1] and lines[2] == "{'torch': 'PyTorch is not installed'}"


def test_rows_that_did_not_fit_are_done_later(monkeypatch, suite, tmp_path):
    cells = {"numpy": speed.Cell(0.1, 0.05, 3, 0.0), "gpu": speed.Cell(0.2, 0.001, 7, 1e-6)}
    made = [speed.Row("conv1", "conv", (64, 3, 8, 8), 1, cells, {}), speed.Row("fc", "fc", (64, 9), 0, {}, {"gpu": "no time"})]
    monkeypatch.setattr(speedup, "Bench", lambda *arguments, budget: types.SimpleNamespace(rows=lambda: iter(made)))
    (task,) = speedup.tasks(suite)
    with pytest.raises(Unfinished):
        task.run(Deadline(90))
    (entry,) = read(tmp_path)["results"]
    assert entry["case"] == "alexnet, batch 64" and entry["rows"][0]["times_gpu"] == {"numpy": pytest.approx(50.0)}
    assert "| conv1 (and 1 like it) | 64x3x8x8 | 50 | 1 | 50.0 | 1.0e-06 |" in "\n".join(page(suite.store))
    del made[1]
    assert len(task.run(Deadline(90))["rows"]) == 1
