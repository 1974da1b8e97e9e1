"""Weight files with a description of their net: what is wrong with one is said, whatever it claims."""

import json

import numpy as np
import pytest

from minidl import models
from minidl.errors import CheckpointError
from minidl.io import safetensors
from minidl.train.weights import ModelCard, load_model, save_model

OPTIONS = {"num_classes": 2, "in_channels": 1, "image_size": [8, 8]}
PREPROCESSING = [{"name": "ToFloat"}, {"name": "Normalize", "mean": [0.5], "std": [0.25]}]
CARD = ModelCard("mlp", OPTIONS, (1, 8, 8), ("cat", "dog"), PREPROCESSING, "folder:pets")


@pytest.fixture
def path(tmp_path):
    save_model(tmp_path / "model.safetensors", models.create("mlp", **OPTIONS), CARD)
    return tmp_path / "model.safetensors"


def test_what_was_saved_comes_back(path):
    model, card = load_model(path)
    assert card == CARD and not model.training
    arrays, _ = safetensors.load_file(path)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), arrays[name])


@pytest.mark.parametrize("change, reason", [
    ({"model": "nonsense"}, "cannot build its model: .*nonsense"),
    ({"model": 3}, "model is no text"),
    ({"data": 3}, "data is no text"),
    ({"options": [1]}, "description is damaged"),
    ({"options": {**OPTIONS, "surprise": 1}}, "cannot build its model: .*surprise"),
    ({"options": {**OPTIONS, "num_classes": -3}}, "cannot build its model"),
    ({"options": {**OPTIONS, "num_classes": 3}}, "wrong shape"),
    ({"input_shape": [1, 8]}, "description is damaged"),
    ({"input_shape": [1, 0, 8]}, "images of shape"),
    ({"input_shape": "1x8x8"}, "description is damaged"),
    ({"class_names": 5}, "description is damaged"),
    ({"class_names": ["cat"]}, r"output of \(2,\) for each image, but it names 1 classes"),
    ({"class_names": []}, "names 0 classes"),
    ({"preprocessing": 3}, "expected a mapping with a 'name'"),
    ({"preprocessing": [{"name": "Normalize", "mean": ["a"], "std": [1]}]}, "Normalize cannot be built"),
    ({"surprise": 1}, "description is damaged"),
])  # fmt: skip
def test_descriptions_that_do_not_hold(path, change, reason):
    arrays, metadata = safetensors.load_file(path)
    card = {**json.loads(metadata["minidl.model"]), **change}
    safetensors.save_file(arrays, path, {"minidl.model": json.dumps(card)})
    with pytest.raises(CheckpointError, match=reason) as error:
        load_model(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000])
def test_descriptions_that_are_none(path, text):
    arrays, _ = safetensors.load_file(path)
    safetensors.save_file(arrays, path, {"minidl.model": text})
    with pytest.raises(CheckpointError, match="its description is damaged"):
        load_model(path)


def test_class_names_cannot_steer_the_terminal(path):
    arrays, metadata = safetensors.load_file(path)
    card = {**json.loads(metadata["minidl.model"]), "class_names": ["\x1b[2Jcat", "d\nog"]}
    safetensors.save_file(arrays, path, {"minidl.model": json.dumps(card)})
    assert load_model(path)[1].class_names == ("?[2Jcat", "d?og")
