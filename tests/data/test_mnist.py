"""IDX files."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.data import load
from minidl.data.mnist import parse_idx, read_idx
from minidl.errors import ConfigError, DataError
from tests.data import files


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "name, folder", [("mnist", "mnist"), ("mnist", "MNIST/raw"), ("fashion_mnist", "FashionMNIST/raw")]
)
def test_reads_what_was_written(tmp_path, name, folder, packed):
    files.write_folder(tmp_path / folder, files.mnist_files(7, packed))
    for split in ("train", "test"):
        dataset = load(name, tmp_path, split, verify=False)
        stem = {"train": "train", "test": "t10k"}[split]
        plain = files.mnist_files(7)
        assert dataset.images.shape == (7, 1, 28, 28)
        assert dataset.images.tobytes() == plain[f"{stem}-images-idx3-ubyte"][16:]
        assert dataset.labels.astype(np.uint8).tobytes() == plain[f"{stem}-labels-idx1-ubyte"][8:]
    assert dataset.class_names[9] == ("9" if name == "mnist" else "Ankle boot")


def test_other_files_than_the_originals_are_refused(tmp_path):
    files.write_folder(tmp_path / "mnist", files.mnist_files())
    with pytest.raises(DataError, match="train-images.*checksum sha256:.*the original's is sha256:ba89"):
        load("mnist", tmp_path)
    files.write_folder(tmp_path / "fashion_mnist", files.mnist_files())
    with pytest.raises(DataError, match=r"train images of shape \(7, 28, 28\), expected \(60000, 28, 28\)"):
        load("fashion_mnist", tmp_path)


def test_no_data_and_missing_files(tmp_path):
    with pytest.raises(DataError, match="mnist: no data in .*minidl data download mnist"):
        load("mnist", tmp_path)
    with pytest.raises(ConfigError, match="no split is called 'all'"):
        load("mnist", tmp_path, "all")
    files.write_folder(tmp_path / "mnist", files.mnist_files())
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="has no t10k-labels-idx1-ubyte"):
        load("mnist", tmp_path, "test", verify=False)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "starts with , expected"),
        (b"\x89PNG1234", "starts with 89 50 4e 47"),
        (b"\0\0\x0d\x01\0\0\0\1\0\0\0\0", "IDX type 0x0d with 1 dimensions, expected 0x08"),
        (b"\0\0\x08\x00", "with 0 dimensions"),
        (b"\0\0\x08\x03\0\0", "6 bytes, too short for a header of 16"),
        (b"\0\0\x08\x02\0\0\0\2\0\0\0\3abcde", "promises 2 x 3 bytes, 5 follow"),
        (b"\0\0\x08\x02\0\0\0\2\0\0\0\3abcdefg", "promises 2 x 3 bytes, 7 follow"),
        (b"\0\0\x08\x02\xff\xff\xff\xff\xff\xff\xff\xff", "promises 4294967295 x 4294967295 bytes, 0 follow"),
    ],
)
def test_files_that_are_not_idx(data, reason):
    with pytest.raises(DataError, match=f"file: .*{reason}"):
        parse_idx(data, "file")


def test_files_that_do_not_belong_together(tmp_path):
    contents = files.mnist_files()
    contents["train-labels-idx1-ubyte"] = files.idx(np.zeros(6, np.uint8))
    files.write_folder(tmp_path / "mnist", contents)
    with pytest.raises(DataError, match=r"images of shape \(7, 28, 28\) and labels of shape \(6,\)"):
        load("mnist", tmp_path, verify=False)
    contents["train-labels-idx1-ubyte"] = files.idx(np.full(7, 10, np.uint8))
    files.write_folder(tmp_path / "mnist", contents)
    with pytest.raises(DataError, match="label 10 of image 0 is out of range: expected 0 to 9"):
        load("mnist", tmp_path, verify=False)


@given(st.data())
@settings(max_examples=150)
def test_damaged_files_are_read_or_refused(tmp_path_factory, data):
    array = np.arange(30, dtype=np.uint8).reshape(2, 3, 5)
    packed = data.draw(st.booleans())
    damaged = bytearray(gzip.compress(files.idx(array)) if packed else files.idx(array))
    hits = data.draw(st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(1, 255)), max_size=3))
    for at, flip in hits:
        damaged[at] ^= flip
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    path = tmp_path_factory.mktemp("fuzz") / "train-images-idx3-ubyte.gz"
    path.write_bytes(damaged)
    try:
        read_idx(path)
    except DataError as error:
        assert str(path) in str(error)
