import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidl.errors import CheckpointError
from minidl.io.safetensors import load_file, save_file

DTYPES = [
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "float32",
    "float64",
    "complex64",
]


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def write_raw(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__"),
        st.sampled_from(DTYPES).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
        ),
        max_size=4,
    ),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_round_trip(tmp_path_factory, arrays, metadata):
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    save_file(arrays, path, metadata)
    again, text = load_file(path)
    assert text == metadata and set(again) == set(arrays)
    assert all(same(again[name], array) and again[name].flags.writeable for name, array in arrays.items())


def test_memory_order_and_byte_order_do_not_matter(tmp_path):
    a = np.arange(24, dtype="float32").reshape(2, 3, 4)
    save_file({"f": np.asfortranarray(a), "s": a[:, ::2, ::-1], "b": a.astype(">f4")}, tmp_path / "x")
    arrays, _ = load_file(tmp_path / "x")
    assert same(arrays["f"], a) and same(arrays["s"], np.ascontiguousarray(a[:, ::2, ::-1])) and same(arrays["b"], a)


def test_the_librarys_own_reader_agrees(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    arrays = {"a": np.arange(3, dtype="int8"), "b": np.eye(3), "c": np.array(2, "float32")}
    save_file(arrays, tmp_path / "x", {"note": "é"})
    assert all(same(array, arrays[name]) for name, array in library.load_file(tmp_path / "x").items())
    library.save_file(arrays, tmp_path / "y", {"note": "é"})  # and a file of theirs, which has no checksum
    again, metadata = load_file(tmp_path / "y")
    assert metadata == {"note": "é"} and all(same(again[name], array) for name, array in arrays.items())


def test_equal_input_gives_equal_bytes_in_every_process(tmp_path):
    code = (
        "import sys, numpy as np; from minidl.io.safetensors import save_file\n"
        "save_file({k: np.arange(5.) for k in 'badc'}, sys.argv[1], {k: k for k in 'zyxwv'})"
    )
    digests = set()
    for k in range(2):
        path = tmp_path / str(k)
        subprocess.run([sys.executable, "-c", code, path], check=True)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    save_file({k: np.arange(5.0) for k in "abcd"}, tmp_path / "z", {k: k for k in "vwxyz"})
    digests.add(hashlib.sha256((tmp_path / "z").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_bfloat16_is_widened_exactly(tmp_path):
    values = np.array([[1.5, -2.0], [float("inf"), 3.140625]], dtype="float32")
    bits = (values.view("uint32") >> 16).astype("uint16")
    write_raw(tmp_path / "x", {"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}, bits.tobytes())
    arrays, _ = load_file(tmp_path / "x")
    assert same(arrays["w"], values)


def test_bfloat16_is_saved(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.array([1.5, -2.0, 0.0078125], dtype="float32")
    save_file({"w": values.astype(ml_dtypes.bfloat16)}, tmp_path / "x")
    assert same(load_file(tmp_path / "x")[0]["w"], values)


def test_flipped_bits_in_every_byte_are_found(tmp_path):
    path = tmp_path / "x"
    save_file({"w": np.arange(3, dtype="float32")}, path, {"model": "m"})
    good = path.read_bytes()
    for position in range(len(good)):
        for bit in (0, 5):  # the lowest, and the one that turns letters into other letters
            path.write_bytes(good[:position] + bytes([good[position] ^ (1 << bit)]) + good[position + 1 :])
            with pytest.raises(CheckpointError):
                load_file(path)


def test_every_truncation_is_found(tmp_path):
    path = tmp_path / "x"
    save_file({"w": np.arange(3, dtype="float32")}, path)
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match="truncated, corrupt or of another format"):
            load_file(path)
    path.write_bytes(good + b"x")
    with pytest.raises(CheckpointError):
        load_file(path)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 5000,
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
        {"w": {**ENTRY, "data_offsets": [0, 1 << 62]}},
        {"w": {**ENTRY, "data_offsets": [8, 0]}},
        {"w": {**ENTRY, "data_offsets": [-8, 0]}},
        {"w": {**ENTRY, "shape": [1 << 62, 1 << 62]}},
        {"w": {**ENTRY, "shape": [-2]}},
        {"w": {**ENTRY, "dtype": "object"}},
        {"w": {**ENTRY, "dtype": "F8_E4M3", "shape": [8]}},
        {"w": ENTRY, "v": ENTRY},
        {"w": ENTRY, "__metadata__": {"a": 1}},
        {"w": ENTRY, "__metadata__": {"minidl.sha256": "0" * 64}},
        {"w": {**ENTRY, "shape": [0] * 100, "data_offsets": [0, 0]}},
    ],
    ids=lambda header: str(header)[:60],
)
def test_hostile_headers(tmp_path, header):
    write_raw(tmp_path / "x", header, b"\0" * 8)
    with pytest.raises(CheckpointError):
        load_file(tmp_path / "x")


def test_a_header_longer_than_the_file(tmp_path):
    (tmp_path / "x").write_bytes((1 << 63).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_file(tmp_path / "x")


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_random_bytes(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "random"
    path.write_bytes(data)
    try:
        load_file(path)
    except CheckpointError:
        pass


def test_what_cannot_be_saved(tmp_path):
    for arrays, problem in [
        ({"w": np.array([None])}, "'w' is an array of object"),
        ({"w": [1]}, "'w' is a list"),
        ({1: np.zeros(1)}, "1 is not a usable array name"),
        ({"__metadata__": np.zeros(1)}, "not a usable array name"),
    ]:
        with pytest.raises(CheckpointError, match=problem):
            save_file(arrays, tmp_path / "x")
    with pytest.raises(CheckpointError, match="metadata maps text to text"):
        save_file({}, tmp_path / "x", {"epochs": 3})
    assert not (tmp_path / "x").exists()


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file .*nowhere"):
        load_file(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="cannot read .*: Is a directory"):
        load_file(tmp_path)
