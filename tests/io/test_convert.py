"""Conversion to safetensors changes no value."""

import hashlib

import numpy as np
import pytest

from minidl.errors import CheckpointError
from minidl.io.convert import convert
from minidl.io.safetensors import load_file
from tests.io.torch_files import bfloat16, ordered, storage, tensor, view, zip_file

ARRAYS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "half": np.array([1.5, np.inf], np.float16),
    "double": np.array([1 / 3]),
    "counter": np.array([7]),
    "mask": np.array([True, False]),
}


def test_every_value_stays(tmp_path):
    tied = storage(ARRAYS["w"])
    state = {name: tensor(array) for name, array in ARRAYS.items()}
    state |= {"tied": view(tied, (6,), (1,)), "too": view(tied, (6,), (1,)), "b": view(bfloat16(np.float32([-2.5])), (1,), (1,))}
    (tmp_path / "a.pth").write_bytes(zip_file({"epoch": 4, "state_dict": ordered(state)}))
    done = convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    arrays, metadata = load_file(tmp_path / "a.safetensors")
    expected = ARRAYS | {"tied": ARRAYS["w"].reshape(-1), "too": ARRAYS["w"].reshape(-1), "b": np.float32([-2.5])}
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype and arrays[name].tobytes() == array.tobytes(), name
    assert metadata["torch.values"] == '{"epoch": 4}' and metadata == done.metadata
    content = (tmp_path / "a.safetensors").read_bytes()
    assert (done.tensors, done.elements, done.nbytes) == (8, 25, len(content))
    assert done.sha256 == hashlib.sha256(content).hexdigest()
    assert done.dtypes == {"float32": 4, "float16": 1, "float64": 1, "int64": 1, "bool": 1}


def test_errors(tmp_path):
    (tmp_path / "a.pth").write_bytes(zip_file({"a": tensor(ARRAYS["w"])}))
    with pytest.raises(CheckpointError, match="ends in .safetensors"):
        convert(tmp_path / "a.pth", tmp_path / "a.npz")
    with pytest.raises(CheckpointError, match="there is no file"):
        convert(tmp_path / "b.pth", tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()
