"""The original data sets, where they are on this machine: counts, checksums, statistics."""

import os
from pathlib import Path

import numpy as np
import pytest

from minidl.data import available, channel_statistics, dataset_info, load
from minidl.data.checksum import file_checksum

pytestmark = pytest.mark.realdata

ROOTS = [Path(root) for root in (os.environ.get("MINIDL_DATA"), Path(__file__).parents[3] / "shared" / "data") if root]
# The checksums that the data set's page and other libraries publish.
CIFAR10_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


def root_of(name):
    for root in ROOTS:
        if {status.name: status.present for status in available(root)}[name]:
            return root
    pytest.skip(f"{name} is not on this machine (set MINIDL_DATA)")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist"])
def test_counts_and_statistics(name):
    root, info = root_of(name), dataset_info(name)
    train, test = load(name, root), load(name, root, "test")
    for split, dataset in (("train", train), ("test", test)):
        assert len(dataset) == info.counts[split] and dataset.images.shape[1:] == info.image_shape
        assert dataset.images.dtype == np.uint8 and dataset.num_classes == info.num_classes
        if name != "mnist":
            assert set(np.bincount(dataset.labels)) == {info.counts[split] // info.num_classes}
    if name == "mnist":
        assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    mean, std = channel_statistics(train)
    assert [round(value, 4) for value in mean] == list(info.mean)
    assert [round(value, 4) for value in std] == list(info.std)


def test_the_famous_wrong_std_is_another_quantity():
    images = load("cifar10", root_of("cifar10")).images[:10_000] / np.float32(255)
    per_image = images.std(axis=(2, 3)).mean(axis=0)
    # From a fifth of the images: within 0.002 of the number that is often copied.
    np.testing.assert_allclose(per_image, [0.2023, 0.1994, 0.2010], atol=0.002)


def test_cifar10_files_are_the_published_ones():
    folder = root_of("cifar10") / "cifar-10-batches-py"
    if not folder.is_dir():
        pytest.skip("CIFAR-10 is here in another form than the unpacked python release")
    for name, md5 in CIFAR10_MD5.items():
        assert file_checksum(folder / name, "md5") == f"md5:{md5}"


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_verified(name):
    status = {s.name: s for s in available(root_of(name), verify=True)}[name]
    assert (status.present, status.checksum, status.problems) == (True, "ok", ())


def test_a_folder_of_photographs():
    folder = next((root / "hymenoptera_256" for root in ROOTS if (root / "hymenoptera_256").is_dir()), None)
    if folder is None:
        pytest.skip("the ants and bees are not on this machine")
    train, test = load(f"folder:{folder}", size=64), load(f"folder:{folder}", split="test", size=64)
    assert train.class_names == test.class_names == ("ants", "bees")
    assert np.bincount(train.labels).tolist() == [123, 121] and np.bincount(test.labels).tolist() == [70, 83]
    images, _ = train.batch(np.arange(0, 244, 20))
    assert images.shape == (13, 3, 64, 64) and images.std(axis=(1, 2, 3)).min() > 10
