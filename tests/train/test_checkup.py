"""The doctor for nets: batch normalisation and dropout in the wrong mode, on one image, with stale statistics."""

import pytest

import minidl
from minidl import nn
from minidl.train.checkup import checkup


@pytest.fixture
def net():
    """A net that has seen enough batches of standard normal images for its statistics to be theirs."""
    blocks = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)]
    model = nn.Sequential(*blocks, nn.Dropout(0.5))
    with minidl.no_grad():
        for _ in range(60):  # with momentum 0.1 the start keeps 0.9^60 = 0.2 %
            model(minidl.randn(8, 3, 8, 8))
    return model.eval()


def test_nothing_is_wrong_with_a_trained_net(net):
    images = minidl.randn(64, 3, 8, 8)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    assert checkup(net, images) == [] == checkup(net) == checkup(net.train(), images, evaluating=False)
    assert all((value == state[name]).all() for name, value in net.state_dict().items())


def test_tested_in_training_mode(net):
    net.train()
    (line,) = checkup(net)
    assert line.startswith("1 (BatchNorm2d), 4 (BatchNorm2d), 5 (Dropout) in training mode") and "call model.eval()" in line
    net.eval()
    net[5].train()
    assert checkup(net)[0].startswith("5 (Dropout) in training mode")


def test_trained_on_one_image(net):
    (line,) = checkup(net.train(), minidl.randn(1, 3, 8, 8), evaluating=False)
    assert "a training batch of one image: the statistics of 1 (BatchNorm2d), 4 (BatchNorm2d)" in line
    frozen = checkup(net.eval(), minidl.randn(1, 3, 8, 8), evaluating=False)
    assert frozen == [], "frozen statistics do not mind"


def test_statistics_that_never_saw_a_batch(net):
    net[4].reset_running_stats()
    (line,) = checkup(net, minidl.randn(64, 3, 8, 8))
    assert line.startswith("4 (BatchNorm2d) never saw a training batch")


@pytest.mark.parametrize("prepare", [lambda x: x * 255, lambda x: x / 16, lambda x: x + 5])
def test_statistics_of_other_images(net, prepare):
    """As when the pixels were not scaled, or not normalised.  Only the first layer is named: the rest follows from it."""
    net[0].weight.data[:] = abs(net[0].weight.data)  # so that a shift of the pixels is one of the maps
    with minidl.no_grad():
        net.train()
        for _ in range(60):
            net(minidl.randn(8, 3, 8, 8))
        net.eval()
    (line,) = checkup(net, prepare(minidl.randn(64, 3, 8, 8)))
    assert line.startswith("the running statistics of 1 (BatchNorm2d) are not those of these images")
    assert not net.training


def test_a_net_without_such_layers():
    assert checkup(nn.Linear(2, 2)) == []
