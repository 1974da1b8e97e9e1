"""Small files in the exact formats of the originals, written here byte by byte."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np


class Python2Pickle:
    """Writes what Python 2's cPickle wrote at protocol 2, instruction by instruction, memo entries included."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.memos = 0

    def memo(self) -> None:
        self.out += b"q" + bytes([self.memos]) if self.memos < 256 else b"r" + struct.pack("<I", self.memos)
        self.memos += 1

    def write(self, value: object) -> None:
        match value:
            case dict():
                self.out += b"}"
                self.memo()
                self.out += b"("
                for key, item in value.items():
                    self.write(key)
                    self.write(item)
                self.out += b"u"
            case list():
                self.out += b"]"
                self.memo()
                self.out += b"("
                for item in value:
                    self.write(item)
                self.out += b"e"
            case bool():
                self.out += b"\x88" if value else b"\x89"
            case int():
                small, medium = 0 <= value < 256, 0 <= value < 65536
                self.out += (
                    b"K" + bytes([value])
                    if small
                    else b"M" + struct.pack("<H", value)
                    if medium
                    else b"J" + (struct.pack("<i", value))
                )
            case None:
                self.out += b"N"
            case str() | bytes():
                raw = value.encode("latin-1") if isinstance(value, str) else value
                self.out += (
                    b"U" + bytes([len(raw)]) + raw if len(raw) < 256 else b"T" + struct.pack("<i", len(raw)) + raw
                )
                self.memo()
            case np.ndarray():
                self.array(value)
            case _:
                raise TypeError(type(value))

    def array(self, value: np.ndarray) -> None:
        self.out += b"cnumpy.core.multiarray\n_reconstruct\n"
        self.memo()
        self.out += b"cnumpy\nndarray\n"
        self.memo()
        self.write(0)
        self.out += b"\x85"
        self.memo()
        self.write("b")
        self.out += b"\x87"
        self.memo()
        self.out += b"R"
        self.memo()
        self.out += b"("
        self.write(1)
        for size in value.shape:
            self.write(size)
        self.out += {1: b"\x85", 2: b"\x86", 3: b"\x87"}[value.ndim]
        self.memo()
        self.out += b"cnumpy\ndtype\n"
        self.memo()
        self.write("u1")
        self.write(0)
        self.write(1)
        self.out += b"\x87"
        self.memo()
        self.out += b"R"
        self.memo()
        self.out += b"("
        for part in (3, "|", None, None, None, -1, -1, 0):
            self.write(part)
        self.out += b"tb"
        self.write(False)
        self.write(value.tobytes())
        self.out += b"tb"


def python2_pickle(value: object) -> bytes:
    pickle = Python2Pickle()
    pickle.write(value)
    return bytes(pickle.out + b".")


def cifar_images(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, n)


def cifar10_python(n: int = 6) -> dict[str, bytes]:
    """File name -> content of a CIFAR-10 with ``n`` images per batch."""
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    files = {}
    for seed, name in enumerate(names):
        images, labels = cifar_images(n, seed)
        batch = {"batch_label": name, "labels": labels.tolist(), "data": images.reshape(n, -1)}
        files[name] = python2_pickle({**batch, "filenames": [f"image_{i}.png" for i in range(n)]})
    return files


def cifar10_binary(n: int = 6) -> dict[str, bytes]:
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
    files = {}
    for seed, name in enumerate(names):
        images, labels = cifar_images(n, seed)
        files[name] = b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))
    return files


def cifar100_python(n: int = 6) -> dict[str, bytes]:
    files = {}
    for seed, name in enumerate(["train", "test"]):
        images, labels = cifar_images(n, seed)
        fine, coarse = (labels * 10).tolist(), labels.tolist()
        files[name] = python2_pickle({"data": images.reshape(n, -1), "fine_labels": fine, "coarse_labels": coarse})
    names = {
        "fine_label_names": [f"fine{k}" for k in range(100)],
        "coarse_label_names": [f"coarse{k}" for k in range(20)],
    }
    files["meta"] = python2_pickle(names)
    return files


def cifar100_binary(n: int = 6) -> dict[str, bytes]:
    files = {}
    for seed, name in enumerate(["train.bin", "test.bin"]):
        images, labels = cifar_images(n, seed)
        files[name] = b"".join(bytes([k, k * 10]) + x.tobytes() for x, k in zip(images, labels.tolist(), strict=True))
    files["fine_label_names.txt"] = "".join(f"fine{k}\n" for k in range(100)).encode()
    files["coarse_label_names.txt"] = "".join(f"coarse{k}\n" for k in range(20)).encode()
    return files


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def tar_gz(path: Path, files: dict[str, bytes], prefix: str) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist_files(n: int = 7, packed: bool = False) -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    files = {}
    for prefix in ("train", "t10k"):
        files[f"{prefix}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        files[f"{prefix}-labels-idx1-ubyte"] = idx(rng.integers(0, 10, n, dtype=np.uint8))
    return {name + ".gz": gzip.compress(data, 1) for name, data in files.items()} if packed else files
