"""From PyTorch's weight files to safetensors, value for value."""

from __future__ import annotations

import collections
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from minidl.errors import CheckpointError
from minidl.io.safetensors import load_file, save_file
from minidl.io.torch_import import load_pth


@dataclass(frozen=True)
class Conversion:
    """What a conversion wrote.

    Attributes:
        tensors: how many.
        elements: of all of them together.
        dtypes: NumPy's name of a dtype -> how many tensors have it.
        nbytes: the size of the new file.
        sha256: of the new file.
        metadata: what was found beside the weights (see :func:`minidl.io.torch_import.load_pth`).
    """

    tensors: int
    elements: int
    dtypes: dict[str, int]
    nbytes: int
    sha256: str
    metadata: dict[str, str]

    def __str__(self) -> str:
        dtypes = ", ".join(f"{count} {name}" for name, count in self.dtypes.items())
        lines = [f"{self.tensors} tensors ({dtypes}), {self.elements:,} numbers, {self.nbytes:,} bytes"]
        return "\n".join([*lines, *(f"{key}: {text}" for key, text in self.metadata.items()), f"sha256: {self.sha256}"])


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str], entry: str | None = None) -> Conversion:
    """Read the weights in ``source``, a file of ``torch.save``, and write them as the safetensors file ``target``.

    Every value stays what it is: bfloat16 is widened to float32, other dtypes stay.  The new file is read again and
    compared before this returns.  ``entry`` chooses among several sets of weights in the file.

    Raises:
        CheckpointError: the source cannot be read, the target is not named ``*.safetensors`` or cannot be written, or a
            dtype that the format lacks (complex128).
    """
    if Path(target).suffix != ".safetensors":
        raise CheckpointError(f"cannot write {os.fspath(target)}: expected a name that ends in .safetensors")
    arrays, metadata = load_pth(source, entry)
    save_file(arrays, target, metadata)
    again, _ = load_file(target)
    for name, array in arrays.items():
        if again[name].dtype != array.dtype or again[name].tobytes() != array.tobytes():
            raise CheckpointError(f"{os.fspath(target)}: {name!r} does not read as it was written; the disk is failing")
    with open(target, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    dtypes = collections.Counter(array.dtype.name for array in arrays.values())
    elements = sum(array.size for array in arrays.values())
    return Conversion(len(arrays), elements, dict(dtypes), os.path.getsize(target), sha256, metadata)
