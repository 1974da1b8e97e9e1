import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidl.errors import CheckpointError
from minidl.io import checkpoint, safetensors

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=6),
    hnp.arrays(st.sampled_from(["float32", "int64", "bool"]), hnp.array_shapes(min_dims=0, max_dims=2)),
    st.floats(width=32, allow_nan=False).map(np.float32),
    st.integers(0, 99).map(np.int16),
)
keys = st.one_of(
    st.text(max_size=4),
    st.just("~array"),
    st.just("~pairs"),
    st.integers(),
    st.tuples(st.integers(), st.text(max_size=2)),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


def equal(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(equal, a.values(), b.values()))
    return a == b


@given(trees)
@settings(max_examples=150, deadline=None)
def test_round_trip_keeps_types_and_bits(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "tree.checkpoint"
    checkpoint.save(path, tree)
    assert equal(checkpoint.load(path), tree)


def test_nan_infinities_and_a_128_bit_random_state(tmp_path):
    tree = {"nan": math.nan, "inf": [math.inf, -math.inf], "state": 2**127 + 1, "zero": -0.0}
    checkpoint.save(tmp_path / "c", tree)
    again = checkpoint.load(tmp_path / "c")
    assert math.isnan(again["nan"]) and again["inf"] == tree["inf"] and again["state"] == tree["state"]
    assert math.copysign(1, again["zero"]) == -1


@pytest.mark.parametrize(
    "bad, where",
    [
        ({"a": [1, {2}]}, r"a set \(tree\['a'\]\[1\]\)"),
        (b"x", "a bytes"),
        ({"f": print}, r"tree\['f'\]"),
        (np.array(["x", None]), "object"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, bad, where):
    with pytest.raises(CheckpointError, match=where):
        checkpoint.save(tmp_path / "c", bad)
    assert os.listdir(tmp_path) == []


def test_a_tree_that_contains_itself(tmp_path):
    tree: list = []
    tree.append(tree)
    with pytest.raises(CheckpointError, match="contains itself"):
        checkpoint.save(tmp_path / "c", tree)


def test_every_flipped_byte_is_found(tmp_path):
    path = tmp_path / "c"
    checkpoint.save(path, {"w": np.arange(4, dtype="float32"), "step": 3})
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x21]) + good[position + 1 :])
        with pytest.raises(CheckpointError):
            checkpoint.load(path)


def test_a_weight_file_is_not_a_checkpoint(tmp_path):
    safetensors.save_file({"w": np.zeros(2)}, tmp_path / "w")
    with pytest.raises(CheckpointError, match="not a minidl checkpoint"):
        checkpoint.load(tmp_path / "w")


@pytest.mark.parametrize(
    "text",
    [
        '{"~array":"missing"}',
        '{"~array":[]}',
        '{"~tuple":1}',
        '{"~pairs":[[1]]}',
        "{",
        "[" * 9000,
        '{"~pairs":[[[1],2]]}',
        '{"~scalar":"a0"}x',
    ],
)
def test_a_hostile_tree_with_a_right_checksum(tmp_path, text):
    safetensors.save_file({"a0": np.zeros(2)}, tmp_path / "c", {"minidl.tree": text})
    with pytest.raises(CheckpointError, match="is corrupt"):
        checkpoint.load(tmp_path / "c")


def test_latest_passes_over_damaged_files_and_prune_keeps_the_newest(tmp_path):
    assert checkpoint.latest(tmp_path / "nowhere") is None and checkpoint.latest(tmp_path) is None
    for step in (5, 40, 300, 123456789):
        checkpoint.save(tmp_path / checkpoint.filename(step), {"step": step})
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    newest = tmp_path / checkpoint.filename(123456789)
    assert checkpoint.latest(tmp_path) == newest
    newest.write_bytes(newest.read_bytes()[:-3])
    assert checkpoint.latest(tmp_path) == tmp_path / checkpoint.filename(300)
    checkpoint.prune(tmp_path, 2)
    assert checkpoint.find(tmp_path) == [newest, tmp_path / checkpoint.filename(300)]
    assert (tmp_path / "notes.txt").exists()
    with pytest.raises(CheckpointError, match="at least 1"):
        checkpoint.prune(tmp_path, 0)


def test_kill_while_saving_leaves_the_newest_valid(tmp_path):
    """A process saves one checkpoint after another and is killed: what it reported as saved can be loaded."""
    code = textwrap.dedent("""
        import sys, numpy as np
        from minidl.io import checkpoint
        k = 0
        while True:
            k += 1
            checkpoint.save(f"{sys.argv[1]}/{checkpoint.filename(k)}", {"w": np.full(500_000, k, "float32"), "k": k})
            print(k, flush=True)
        """)
    for round_, delay in enumerate((0.0, 0.003, 0.008)):
        folder = tmp_path / str(round_)
        folder.mkdir()
        process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        reported = max([1, *map(int, rest.split())])
        tree = checkpoint.load(checkpoint.latest(folder))
        assert tree["k"] >= reported and (tree["w"] == tree["k"]).all()
        shutil.rmtree(folder)
