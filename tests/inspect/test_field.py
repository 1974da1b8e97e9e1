"""The receptive field that the arithmetic gives, against the one that is measured with gradients."""

import math

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import minidl
from minidl import models, nn
from minidl.errors import ConfigError, ShapeError
from minidl.inspect import box, fields, table, trace
from minidl.nn import functional as F
from minidl.nn import init


def positive(net):
    """Weights of 1 / fan-in: no path through the net cancels another, and none fades away."""
    for name, parameter in net.named_parameters():
        fan = math.prod(parameter.shape[1:]) if parameter.ndim > 1 else 1
        init.constant_(parameter, 0.0 if name.endswith("bias") else 1 / fan)
    return net.double()  # 1 / fan to the tenth power is still far from the smallest number


def measured(net, shape, place):
    """The box of pixels with a gradient: (top, left, bottom, right) of the unit at ``place`` of the output's first map."""
    x = minidl.ones(1, *shape, dtype=minidl.float64).requires_grad_()
    net.eval()(x)[0, 0, place[0], place[1]].backward()
    seen = x.grad.abs().sum((0, 1)).numpy() > 0
    rows, columns = seen.any(1).nonzero()[0], seen.any(0).nonzero()[0]
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def expected(field, axis, index):
    """The pixels of unit ``index`` along an axis as Field has them, uncut."""
    start = -field.padding[axis] + index * field.stride[axis]
    return start, start + field.size[axis]


def traced(net, shape):
    try:
        return trace(net, shape)
    except ShapeError:  # strides had left less than the next kernel
        reject()


# Max-pooling passes the gradient to the maximum alone, so windows are averaged: it is the same windows that are looked
# through.  Strides up to the kernel: with larger ones, pixels between the windows are not seen.
@st.composite
def layers(draw, dilated):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = tuple(draw(st.integers(1, k)) for k in kernel)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    if draw(st.booleans()):
        return nn.AvgPool2d(kernel, stride, padding, count_include_pad=True)
    dilation = tuple(draw(st.integers(1, 2)) for _ in kernel) if dilated else 1
    return nn.Conv2d(1, 1, kernel, stride=stride, padding=padding, dilation=dilation)


@given(st.lists(layers(dilated=False), min_size=1, max_size=4), st.integers(24, 40), st.integers(24, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_any_unit_of_a_random_chain_sees_what_was_computed(chain, height, width, data):
    net, shape = positive(nn.Sequential(*chain)), (1, height, width)
    seen = traced(net, shape)
    out_h, out_w = seen.calls[0].out_shape[2:]
    place = data.draw(st.integers(0, out_h - 1)), data.draw(st.integers(0, out_w - 1))
    for where in (place, (out_h // 2, out_w // 2)):
        assert box(seen, seen.calls[0].out_edge, where) == measured(net, shape, where)
    assert box(seen, seen.calls[0].out_edge) == measured(net, shape, (out_h // 2, out_w // 2))


@given(st.lists(layers(dilated=True), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_away_from_the_border_the_field_is_exact(chain):
    net, shape = positive(nn.Sequential(*chain)), (1, 260, 260)
    seen = traced(net, shape)
    field = fields(seen)[seen.calls[0].out_edge]
    place = tuple(n // 2 for n in seen.calls[0].out_shape[2:])
    (top, bottom), (left, right) = expected(field, 0, place[0]), expected(field, 1, place[1])
    assert 0 <= top and bottom <= 260 and 0 <= left and right <= 260  # the test means something
    assert measured(net, shape, place) == (top, left, bottom, right)


class Branches(nn.Module):
    """A residual block of functions, then a fork whose parts are joined; options of all kinds."""

    def __init__(self, kernel, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, kernel, stride=stride, padding=kernel // 2)
        self.conv2 = nn.Conv2d(2, 2, 3, padding=1)
        self.short = nn.Conv2d(1, 2, 1, stride=stride)
        self.left = nn.Conv2d(2, 1, 1)
        self.right = nn.Conv2d(2, 1, 5, padding=2)

    def forward(self, x):
        y = self.conv2(F.relu(self.conv1(x)))
        y = F.relu(y + self.short(x))
        return F.avg_pool2d(minidl.cat([self.left(y), self.right(y)], 1).sum(1, keepdim=True), 2)


@given(st.sampled_from([1, 3, 5, 7]), st.integers(1, 3), st.integers(20, 33))
@settings(max_examples=15, deadline=None)
def test_branches_see_what_either_sees(kernel, stride, side):
    net, shape = positive(Branches(kernel, stride)), (1, side, side)
    seen = trace(net, shape)
    units = seen.calls[0].out_shape[2]
    for place in {(0, 0), (units // 2, units - 1), (units - 1, 0)}:
        assert box(seen, seen.calls[0].out_edge, place) == measured(net, shape, place)
    size = kernel + (2 + 4 + 1) * stride  # the longest way: conv1, conv2, right, pool
    assert fields(seen)[seen.calls[0].out_edge].size == (size, size)


def test_padding_cropping_striding_and_resizing_by_functions():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3)

        def forward(self, x):
            x = F.pad(x, (0, 0, 3, 4))[..., 2:, ::2]
            return self.conv(F.interpolate(x, scale_factor=2))

    net, shape = positive(Net()), (1, 16, 20)
    seen = trace(net, shape)
    for place in ((0, 0), (9, 5), (31, 17)):
        assert box(seen, seen.calls[0].out_edge, place) == measured(net, shape, place)


@pytest.mark.parametrize(("kernel", "stride", "padding", "extra"), [(3, 2, 1, 1), (4, 2, 1, 0), (2, 2, 0, 0), (5, 1, 2, 0)])
def test_transposed_convolutions(kernel, stride, padding, extra):
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ConvTranspose2d(1, 1, kernel, stride, padding, extra))
    shape = (1, 12, 12)
    seen = trace(positive(net), shape)
    units = seen.calls[0].out_shape[2]
    for place in ((0, 0), (units // 2, units // 3), (units - 1, units - 1)):
        assert box(seen, seen.calls[0].out_edge, place) == measured(net, shape, place)


@pytest.mark.parametrize("out", [1, 2, 3, 5, 8])
def test_adaptive_pooling(out):
    net = positive(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.AdaptiveAvgPool2d(out)))
    seen = trace(net, (1, 8, 8))
    for place in ((0, 0), (out - 1, out // 2)):
        assert box(seen, seen.calls[0].out_edge, place) == measured(net, (1, 8, 8), place)


def test_the_field_grows_by_k_minus_one_with_each_layer():
    for depth in range(1, 6):
        for kernel in (3, 5):
            net = nn.Sequential(*(nn.Conv2d(1, 1, kernel) for _ in range(depth)))
            rows = table(net, (1, 40, 40)).rows
            assert rows[-1].field.size == (1 + depth * (kernel - 1),) * 2
            assert rows[-1].seen == (kernel, kernel)
    assert table(nn.Sequential(*(nn.Conv2d(1, 1, 3) for _ in range(3))), (1, 9, 9)).rows[-1].field.size == (7, 7)


@pytest.mark.parametrize(("name", "row"), [("resnet20", "layer3.2.conv2"), ("smallconv", "conv4"), ("lenet5", "conv2")])
def test_layers_inside_real_nets(name, row):
    """The measured box of a unit of a hidden layer, its gradient taken by a hook."""
    net = positive(models.create(name))
    shape = models.model_info(name).input_shape
    layers = table(net, shape)
    seen = trace(net, shape)
    path = layers[row].path
    call = next(c for c in seen.calls if c.path == path)
    for pool in [m for m in net.modules() if isinstance(m, nn.MaxPool2d)]:  # see `layers`
        pool.forward = lambda x, pool=pool: F.avg_pool2d(x, pool.kernel_size, pool.stride, pool.padding)
    for norm in [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]:
        init.ones_(norm.weight)
    kept = []
    units = call.out_shape[2]
    with net.get_submodule(path).register_forward_hook(lambda m, a, y: kept.append(y)):
        x = minidl.ones(1, *shape, dtype=minidl.float64).requires_grad_()
        net.eval()(x)
    for place in ((units // 2, units // 2), (0, units - 1)):
        x.grad = None
        kept[0][0, 0, place[0], place[1]].backward(retain_graph=True)
        lit = x.grad.abs().sum((0, 1)).numpy() > 0
        rows, columns = lit.any(1).nonzero()[0], lit.any(0).nonzero()[0]
        assert box(seen, call.out_edge, place) == (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)


def test_attention_sees_everything_and_patches_only_themselves():
    net = models.create("vit_tiny_cifar", num_layers=1)
    layers = {row.path: row for row in table(net, (3, 32, 32)).rows}
    assert layers["conv_proj"].field.size == (4, 4) and layers["conv_proj"].field.stride == (4, 4)
    assert layers["encoder.layers.encoder_layer_0.ln_1"].field.size == (4, 4)
    assert layers["encoder.layers.encoder_layer_0.mlp.0"].field.size == (32, 32)
    assert layers["heads.head"].field.size == (32, 32)


def test_no_such_unit():
    seen = trace(nn.Sequential(nn.Conv2d(1, 1, 3)), (1, 5, 5))
    with pytest.raises(ConfigError, match=r"no unit \(3, 0\) in a map of 3x3"):
        box(seen, seen.calls[0].out_edge, (3, 0))
    with pytest.raises(ConfigError, match="cannot be followed"):
        box(seen, None)
