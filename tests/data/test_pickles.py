"""The pickle reader builds plain data and nothing else."""

import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.data.pickles import loads
from minidl.errors import DataError
from tests.data.files import python2_pickle

ARRAY = np.arange(12, dtype=np.uint8).reshape(3, 4)
PLAIN = {"labels": [1, 2, 300, 70000], "name": "x\xff", "none": None, "yes": True, "long": "y" * 300, "data": ARRAY}


def test_a_python_2_pickle_is_read_as_written():
    value = loads(python2_pickle(PLAIN), "file")
    np.testing.assert_array_equal(value.pop("data"), ARRAY)
    assert value == {k: v for k, v in PLAIN.items() if k != "data"}


def test_our_python_2_pickles_are_what_python_reads():
    """Guards the guard: the test's own writer makes pickles that the real unpickler understands."""
    value = pickle.loads(python2_pickle(PLAIN), encoding="latin-1")
    np.testing.assert_array_equal(value["data"], ARRAY)
    assert value["labels"] == PLAIN["labels"]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_batches_written_anew_by_python_3(protocol):
    value = loads(pickle.dumps({b"data": ARRAY, "labels": [1, -2, 2**40], "pair": (1, b"z")}, protocol), "file")
    np.testing.assert_array_equal(value["data"], ARRAY)
    assert value["labels"] == [1, -2, 2**40] and value["pair"] == (1, b"z")


def test_fortran_order_is_kept():
    value = loads(pickle.dumps({"data": np.asfortranarray(ARRAY)}, 2), "file")
    np.testing.assert_array_equal(value["data"], ARRAY)


class Command:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "function, name",
    [(os.system, f"{os.system.__module__}.system"), (eval, "eval"), (getattr, "getattr"), (np.load, "numpy.load")],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_hostile_pickle_is_refused_by_name(tmp_path, protocol, function, name):
    planted = tmp_path / "planted"
    data = pickle.dumps({"data": Command(function, f"touch {planted}")}, protocol)
    with pytest.raises(DataError, match=f"evil_batch.*call of '.*{name}'"):
        loads(data, "evil_batch")
    assert not planted.exists()


@pytest.mark.parametrize(
    "program, reason",
    [
        (b"\x80\x02cnumpy\nndarray\n.", "bare constructor"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "call of something other"),
        (b"\x80\x02cnumpy\ndtype\nU\x01OK\x00K\x01\x87R.", "dtype 'O'"),
        (b"\x80\x02}((K\x01K\x02tK\x03u.", "dictionary key of type tuple"),
        (b"\x80\x02K\x01}b.", "a state for a int"),
        (b"\x80\x02c__builtin__\nobject\n)\x81.", "__builtin__.object"),
        (b"\x80\x02)\x81.", "instruction NEWOBJ"),
        (b"\x80\x02P1\n.", "instruction PERSID"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02K\x01", "pickle exhausted|no STOP|damaged"),
        (b"", "damaged"),
        (b".", "damaged"),
        (b"\x80\x09N.", "protocol 9"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02K\x01e.", "damaged"),
        (b"\x80\x02]K\x01u.", "damaged"),
    ],
)
def test_programs_that_are_not_plain_data(program, reason):
    with pytest.raises(DataError, match=reason):
        loads(program, "file")


def test_a_huge_memo_index_takes_no_memory():
    """Python's own unpickler would make a table of four thousand million entries for it."""
    assert loads(b"\x80\x02K\x07r" + struct.pack("<I", 2**32 - 1) + b".", "file") == 7


def test_a_text_copied_again_and_again_is_refused():
    text = b"T" + struct.pack("<i", 100_000) + b"a" * 100_000 + b"q\x00"
    copy = b"c_codecs\nencode\nh\x00U\x06latin1\x86R"
    with pytest.raises(DataError, match="copied again"):
        loads(b"\x80\x02(" + text + copy * 50 + b"l.", "file")


SAMPLE = python2_pickle({"data": ARRAY, "labels": list(range(20)), "filenames": [f"{i}.png" for i in range(20)]})


@given(st.data())
@settings(max_examples=300)
def test_damaged_pickles_are_read_or_refused(data):
    damaged = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    for program in (bytes(damaged), bytes(damaged[:cut])):
        try:
            loads(program, "file")
        except DataError as error:
            assert str(error).startswith("file: ")


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_random_bytes_are_read_or_refused(program):
    try:
        loads(b"\x80\x02" + program + b".", "file")
    except DataError:
        pass
