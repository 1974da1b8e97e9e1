import json

import pytest

from minidl.errors import ConfigError
from minidl.train.config import TrainConfig
from minidl.train.recipes import list_recipes, resolve


@pytest.mark.parametrize("recipe", list_recipes())
def test_recipes_are_valid_and_survive_json(recipe):
    config = resolve(recipe)
    assert config.recipe == recipe
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_convnetjs_is_as_published():
    config = resolve("convnetjs")
    assert (config.data, config.optimizer, config.batch_size, config.weight_decay) == ("cifar10", "adadelta", 4, 1e-4)


def test_options_override_the_recipe_and_none_does_not():
    config = resolve("convnetjs", batch_size=8, lr=None)
    assert (config.batch_size, config.lr) == (8, resolve("convnetjs").lr)


def test_a_models_own_recipe_leaves_the_data_alone():
    config = resolve(model="resnet20")
    assert (config.recipe, config.data, config.batch_size) == ("resnet20", "shapes10", 128)
    assert resolve(model="resnet20", data="cifar10").data == "cifar10"
    assert resolve().recipe == resolve(model="smallconv").recipe == "default"


@pytest.mark.parametrize("options, message", [
    ({"epochs": 0}, "epochs: expected a whole number of at least 1, got 0"),
    ({"batch_size": 2.5}, "batch_size: expected a whole number"),
    ({"batch_size": True}, "batch_size"),
    ({"max_steps": 0}, "max_steps"),
    ({"limit": -3}, "limit"),
    ({"seed": -1}, "seed: expected a whole number from 0"),
    ({"lr": 0.0}, "lr: expected a number above 0"),
    ({"lr": float("nan")}, "lr: expected a number above 0, got nan"),
    ({"lr": "fast"}, "lr"),
    ({"momentum": 1.0}, "momentum: expected a number from 0 to below 1"),
    ({"weight_decay": -1.0}, "weight_decay"),
    ({"epochs": 2, "warmup": 2.0}, "warmup: 2 epochs of warm-up leave nothing of 2 epochs"),
    ({"optimizer": "adamx"}, "optimizer 'adamx' is not known; did you mean adam?"),
    ({"schedule": "cosin"}, "did you mean cosine"),
    ({"augment": "all"}, r"augment 'all' is not known \(known: auto, none"),
    ({"recipe": "resnet"}, "recipe 'resnet' is not known; did you mean resnet20"),
    ({"data": 3}, "data: expected text, got 3"),
    ({"data_root": 3}, "data_root: expected text"),
    ({"device": ["cpu"]}, "device: expected text"),
    ({"model_options": [1]}, "model_options: expected the names of options with their values"),
    ({"nesterov": "no"}, "nesterov: expected true or false"),
    ({"skip_unreadable": 1}, "skip_unreadable: expected true or false"),
    ({"batchsize": 3}, "option 'batchsize' is not known; did you mean batch_size"),
])  # fmt: skip
def test_bad_options_say_what_is_expected(options, message):
    with pytest.raises(ConfigError, match=message):
        resolve(**options)


@pytest.mark.parametrize("options", [None, [], 3, "lr"])
def test_what_is_no_options_is_refused(options):
    with pytest.raises(ConfigError, match="config.json: expected the options of a run"):
        TrainConfig.from_json(options, "run/config.json")
