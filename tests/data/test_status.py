"""What is on this machine."""

from minidl.data import available
from minidl.data.registry import DATASETS
from tests.data import files


def by_name(root, **options):
    return {status.name: status for status in available(root, **options)}


def test_an_empty_root(tmp_path):
    found = by_name(tmp_path, verify=True)
    assert list(found) == list(DATASETS)
    assert found["shapes10"].present and found["shapes10"].where == "generated"
    assert not found["cifar10"].present and found["cifar10"].where == "minidl data download cifar10"
    assert found["cifar10"].counts == {"train": 50_000, "test": 10_000}


def test_damaged_and_missing_files_are_listed(tmp_path):
    contents = files.cifar10_python()
    del contents["data_batch_3"]
    files.write_folder(tmp_path / "cifar-10-batches-py", contents)
    files.write_folder(tmp_path / "mnist", files.mnist_files())
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    assert by_name(tmp_path)["cifar10"].checksum == "not checked"
    found = by_name(tmp_path, verify=True)
    cifar, mnist = found["cifar10"], found["mnist"]
    assert not cifar.present and cifar.checksum == "bad" and len(cifar.problems) == 6
    assert any("data_batch_3: missing" in p for p in cifar.problems)
    assert any("data_batch_1: checksum sha256:" in p for p in cifar.problems)
    assert len(mnist.problems) == 4 and any("t10k-labels-idx1-ubyte: missing" in p for p in mnist.problems)


def test_files_without_a_known_checksum(tmp_path):
    files.write_folder(tmp_path / "cifar-10-batches-bin", files.cifar10_binary())
    files.write_folder(tmp_path / "fashion_mnist", files.mnist_files())
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"damaged")
    found = by_name(tmp_path, verify=True)
    assert (found["cifar10"].present, found["cifar10"].checksum) == (True, "unverified")
    assert found["fashion_mnist"].checksum == "unverified"
    assert found["cifar100"].checksum == "bad"
    assert "cifar-100-python.tar.gz: not a complete .tar.gz" in found["cifar100"].problems[0]


def test_a_gzip_that_cannot_be_unpacked(tmp_path):
    contents = files.mnist_files(packed=True)
    contents["train-images-idx3-ubyte.gz"] = contents["train-images-idx3-ubyte.gz"][:100]
    files.write_folder(tmp_path / "mnist", contents)
    status = by_name(tmp_path, verify=True)["mnist"]
    assert status.checksum == "bad" and "train-images-idx3-ubyte.gz: cannot be read or unpacked" in status.problems[0]
