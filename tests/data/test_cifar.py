"""CIFAR from small files in the exact formats."""

import gzip
import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.data import load
from minidl.data.cifar import CLASSES, _read_archive
from minidl.errors import ConfigError, DataError
from tests.data import files
from tests.data.test_pickles import Command

RELEASES = {
    "cifar-10-batches-py": ("cifar10", files.cifar10_python, "cifar-10-python.tar.gz"),
    "cifar-10-batches-bin": ("cifar10", files.cifar10_binary, "cifar-10-binary.tar.gz"),
    "cifar-100-python": ("cifar100", files.cifar100_python, "cifar-100-python.tar.gz"),
    "cifar-100-binary": ("cifar100", files.cifar100_binary, "cifar-100-binary.tar.gz"),
}


@pytest.fixture(params=["folder", "archive", "folder itself", "renamed archive"])
def layout(request):
    return request.param


def write(tmp_path, folder, layout):
    name, make, archive = RELEASES[folder]
    if layout.startswith("folder"):
        path = files.write_folder(tmp_path / folder, make())
        return path if layout == "folder itself" else tmp_path
    path = files.tar_gz(tmp_path / ("mine.tgz" if "renamed" in layout else archive), make(), f"{folder}/")
    return path if "renamed" in layout else tmp_path


@pytest.mark.parametrize("folder", RELEASES)
def test_every_release_from_every_layout(tmp_path, folder, layout):
    root = write(tmp_path, folder, layout)
    name = RELEASES[folder][0]
    before = sorted(tmp_path.rglob("*"))
    for split, seeds in (("train", range(5) if name == "cifar10" else [0]), ("test", [5 if name == "cifar10" else 1])):
        dataset = load(name, root, split, verify=False)
        parts = [files.cifar_images(6, seed) for seed in seeds]
        np.testing.assert_array_equal(dataset.batch(np.arange(len(dataset)))[0], np.concatenate([p[0] for p in parts]))
        labels = np.concatenate([p[1] for p in parts])
        np.testing.assert_array_equal(dataset.labels, labels if name == "cifar10" else labels * 10)
        assert dataset.labels.dtype == np.int64 and dataset.name == f"{name}/{split}"
        assert dataset.class_names == (CLASSES if name == "cifar10" else tuple(f"fine{k}" for k in range(100)))
    assert sorted(tmp_path.rglob("*")) == before, "reading wrote something"


@pytest.mark.parametrize("folder", ["cifar-100-python", "cifar-100-binary"])
def test_coarse_labels(tmp_path, folder):
    root = write(tmp_path, folder, "folder")
    dataset = load("cifar100", root, coarse=True, verify=False)
    np.testing.assert_array_equal(dataset.labels, files.cifar_images(6, 0)[1])
    assert dataset.class_names == tuple(f"coarse{k}" for k in range(20))
    with pytest.raises(ConfigError, match="coarse=True is for cifar100"):
        load("cifar10", root, coarse=True)


def test_other_files_than_the_originals_are_refused(tmp_path):
    root = write(tmp_path, "cifar-10-batches-py", "folder")
    with pytest.raises(DataError, match="data_batch_1.*checksum sha256:.*the original's is sha256:5463.*verify=False"):
        load("cifar10", root)
    (tmp_path / "b").mkdir()
    root = write(tmp_path / "b", "cifar-10-batches-bin", "folder")
    with pytest.raises(DataError, match="30 train images, expected 50,000"):
        load("cifar10", root)


def test_a_complete_release_is_preferred_to_a_broken_one(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    files.write_folder(tmp_path / "cifar-10-batches-bin", files.cifar10_binary())
    assert len(load("cifar10", tmp_path, verify=False)) == 30


def test_a_binary_archive_is_checked_as_a_whole(tmp_path):
    root = write(tmp_path, "cifar-100-binary", "archive")
    with pytest.raises(DataError, match="cifar-100-binary.tar.gz: checksum md5:.*the original's is md5:03b5"):
        load("cifar100", root)


def test_no_data(tmp_path):
    message = "no data in .*cifar-10-batches-py/ or cifar-10-python.tar.gz.*minidl data download cifar10.*--data-file"
    with pytest.raises(DataError, match=message):
        load("cifar10", tmp_path)
    with pytest.raises(ConfigError, match="no split is called 'dev'"):
        load("cifar10", tmp_path, "dev")
    with pytest.raises(ConfigError, match="no option is called 'nonsense'"):
        load("cifar10", tmp_path, nonsense=1)


def test_a_missing_batch_is_named(tmp_path):
    root = write(tmp_path, "cifar-10-batches-py", "folder")
    (root / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4: cannot be read .*No such file"):
        load("cifar10", root, verify=False)
    (tmp_path / "b").mkdir()
    contents = files.cifar10_python()
    del contents["data_batch_4"]
    archive = files.tar_gz(tmp_path / "b" / "cifar-10-python.tar.gz", contents, "cifar-10-batches-py/")
    with pytest.raises(DataError, match="has no data_batch_4"):
        load("cifar10", archive, verify=False)


BATCH = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 9]}


@pytest.mark.parametrize(
    "batch, reason",
    [
        ({**BATCH, "labels": [0, 10]}, "label of image 1 is not in 0 to 9"),
        ({**BATCH, "labels": [-1, 3]}, "label of image 0 is not in 0 to 9"),
        ({**BATCH, "labels": [0]}, "must be a list of 2 integers, got 1"),
        ({**BATCH, "labels": ["a", "b"]}, "must be a list of 2 integers"),
        ({**BATCH, "data": np.zeros((2, 3071), np.uint8)}, r"shape \(n, 3072\), got uint8 \(2, 3071\)"),
        ({**BATCH, "data": "text"}, "got str"),
        ({"data": BATCH["data"], "fine_labels": [0, 1]}, "'data' and 'labels', got data, fine_labels. Is it cifar10"),
        ([1, 2], "got list"),
        ({"labels": [0]}, "got labels"),
    ],
)
def test_batches_with_the_wrong_contents(tmp_path, batch, reason):
    contents = {**files.cifar10_python(), "test_batch": files.python2_pickle(batch)}
    files.write_folder(tmp_path / "cifar-10-batches-py", contents)
    with pytest.raises(DataError, match=f"test_batch.*{reason}"):
        load("cifar10", tmp_path, "test", verify=False)


@pytest.mark.parametrize("verify", [True, False])
def test_a_hostile_batch_runs_nothing(tmp_path, verify):
    planted = tmp_path / "planted"
    contents = files.cifar10_python()
    contents["test_batch"] = pickle.dumps({"data": Command(os.system, f"touch {planted}"), "labels": [1]}, 2)
    files.write_folder(tmp_path / "cifar-10-batches-py", contents)
    with pytest.raises(DataError, match=r"test_batch.*call of '\w+\.system'"):
        load("cifar10", tmp_path, "test", verify=verify)
    assert not planted.exists()


def test_a_truncated_binary_batch(tmp_path):
    contents = files.cifar10_binary()
    contents["test_batch.bin"] = contents["test_batch.bin"][:-1]
    files.write_folder(tmp_path / "cifar-10-batches-bin", contents)
    with pytest.raises(DataError, match="test_batch.bin.*18,437 bytes, expected a multiple of 3,073"):
        load("cifar10", tmp_path, "test", verify=False)


def test_an_archive_cannot_write_outside(tmp_path):
    """Members are read by the last part of their name, in memory: a path that climbs leads nowhere."""
    where = tmp_path / "a" / "b"
    where.mkdir(parents=True)
    archive = files.tar_gz(where / "cifar-10-python.tar.gz", files.cifar10_python(), "../../../../")
    assert len(load("cifar10", archive, "test", verify=False)) == 6
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [archive]


def test_a_bomb_stops(tmp_path, monkeypatch):
    monkeypatch.setattr("minidl.data.cifar._ARCHIVE_LIMIT", 1 << 20)
    archive = files.tar_gz(tmp_path / "bomb.tar.gz", {"zeros": bytes(4 << 20), "test_batch": b""}, "")
    with pytest.raises(DataError, match="bomb.tar.gz: unpacks to more than"):
        _read_archive(archive, ["test_batch"])


@pytest.fixture(scope="module")
def small_archive(tmp_path_factory):
    """The content of an archive so small that damage is likely to hit something that matters."""
    contents = {}
    for name in [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]:
        contents[name] = files.python2_pickle({"data": np.zeros((1, 3072), np.uint8), "labels": [3]})
    folder = tmp_path_factory.mktemp("fuzz")
    return files.tar_gz(folder / "cifar-10-python.tar.gz", contents, "cifar-10-batches-py/")


@given(st.data())
@settings(max_examples=100)
def test_damaged_archives_are_read_or_refused(small_archive, data):
    original = small_archive.read_bytes()
    inside = data.draw(st.booleans())
    damaged = bytearray(gzip.decompress(original) if inside else original)
    for _ in range(data.draw(st.integers(0, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))] if data.draw(st.booleans()) else damaged
    path = small_archive.parent / "damaged.tar.gz"
    path.write_bytes(gzip.compress(bytes(damaged), 1) if inside else bytes(damaged))
    for split in ("train", "test"):
        try:
            dataset = load("cifar10", path, split, verify=False)
        except DataError as error:
            assert "damaged.tar.gz" in str(error)
        else:
            assert dataset.labels.max() <= 9 and dataset.images.shape[1:] == (3, 32, 32)


@pytest.mark.parametrize("name, make", [("cifar10", files.cifar10_binary), ("cifar100", files.cifar100_binary)])
@given(data=st.data())
@settings(max_examples=60)
def test_damaged_binary_batches_are_read_or_refused(tmp_path_factory, name, make, data):
    folder = tmp_path_factory.mktemp("fuzz") / ("cifar-10-batches-bin" if name == "cifar10" else "cifar-100-binary")
    contents = {file: bytearray(content) for file, content in make(1).items()}
    victim = contents[data.draw(st.sampled_from(sorted(contents)))]
    # Most of a record is pixels, where any byte is right: aim at the labels half of the time.
    at = data.draw(st.one_of(st.integers(0, 2), st.integers(0, len(victim) - 1)))
    victim[at] ^= data.draw(st.integers(0, 255))
    del victim[data.draw(st.integers(0, len(victim))) :]
    files.write_folder(folder, contents)
    for split in ("train", "test"):
        try:
            dataset = load(name, folder, split, verify=False)
        except DataError as error:
            assert folder.name in str(error)
        else:
            assert dataset.labels.max() < dataset.num_classes
