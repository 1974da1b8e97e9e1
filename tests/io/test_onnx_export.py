"""ONNX files compute what the model computes: onnxruntime is the judge, for single operations and for whole nets."""

import threading

import numpy as np
import pytest

import minidl
from minidl import models, nn
from minidl.autograd.function import functions
from minidl.errors import CheckpointError, ConfigError, DeviceError, GraphError
from minidl.io import onnx_layers, onnx_ops  # noqa: F401  (the rules)
from minidl.io.onnx_export import export_onnx
from minidl.nn import functional as F

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install '.[onnx]'")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime")

# The tracer runs the model on numbers of both signs, logarithms of some of which are NaN; nobody looks at them.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

# Both sides compute in float32 and add up in different orders: a few ulp (6e-8) per layer, grown by the depth of a net.
TOLERANCE = 1e-5


class Fn(nn.Module):
    """A function of a tensor (and of a weight, since a model must have one)."""

    def __init__(self, function, *weight_shape):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(minidl.randn(*(weight_shape or (1,))))

    def forward(self, x):
        return self.function(x, self.weight) if self.function.__code__.co_argcount == 2 else self.function(x)


def randomise(model):
    """Values everywhere: zeros (a head, a bias, a running mean) would hide what is wrong."""
    rng = np.random.default_rng(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.data[...] = rng.uniform(0.5, 1.5, tensor.shape)
        elif tensor.is_floating_point() and (name.endswith("running_mean") or not tensor.data.any()):
            tensor.data[...] = rng.normal(0, 0.1, tensor.shape)
    return model


def run(path, x):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"input": x})


def check(model, shape, path, batches=(1, 4), dtype="float32", positive=False, **options):
    """Export, then compare with the model for batches of other sizes than were traced; the largest relative error."""
    export_onnx(model, shape, path, dtype=dtype, **options)
    model.eval()
    worst = 0.0
    for n in batches:
        x = np.random.default_rng(n).standard_normal((n, *shape[1:]))
        x = (
            (np.abs(x) + 0.1 if positive else x).astype(dtype)
            if np.dtype(dtype).kind == "f"
            else np.abs(x * 2).astype(dtype) % 5
        )
        with minidl.no_grad():
            expected = model(minidl.from_numpy(x))
        for want, found in zip(expected if isinstance(expected, tuple) else (expected,), run(path, x), strict=True):
            want = want.numpy()
            assert found.shape == want.shape and found.dtype == want.dtype
            scale = np.abs(want[np.isfinite(want)], dtype=float).max(initial=0) or 1
            np.testing.assert_allclose(found, want, rtol=0, atol=TOLERANCE * scale)
            if want.dtype.kind == "f":
                worst = max(worst, float(np.abs(found - want).max(initial=0) / scale))
    return worst


# ----------------------------------------------------------------------------------------------------------- whole nets
def alexnet_like():
    """Groups, LRN, overlapping pooling, dropout, adaptive pooling with uneven windows."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=2, padding=2),
        nn.ReLU(inplace=True),
        nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(8, 12, 5, padding=2, groups=2),
        nn.ReLU(inplace=True),
        nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0),
        nn.MaxPool2d(3, 2),
        nn.AdaptiveAvgPool2d((4, 5)),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(240, 20),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(20, 10),
    )


def vgg_like():
    layers, channels = [], 3
    for width in (8, 8, 0, 16, 16, 0, 16, 0):
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers, nn.Flatten(1), nn.Linear(16 * 4 * 4, 10))


class SmallViT(nn.Module):
    """Patches, a class token, learned positions, attention, layer norm, GELU."""

    def __init__(self, width=24, heads=3, depth=2, **encoder):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, stride=8)
        self.token = nn.Parameter(minidl.randn(1, 1, width))
        self.position = nn.Parameter(minidl.randn(1, 17, width))
        layer = nn.TransformerEncoderLayer(width, heads, 48, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = minidl.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.encoder(x)[:, 0])


@pytest.mark.parametrize(
    "build, shape",
    [(alexnet_like, (1, 3, 63, 71)), (vgg_like, (1, 3, 32, 32)), (SmallViT, (1, 3, 32, 32))],
    ids=["alexnet", "vgg_bn", "vit"],
)
def test_nets_built_here(build, shape, tmp_path):
    check(randomise(build()), shape, tmp_path / "m.onnx")


ZOO = {
    "linear": (1, 3, 32, 32),
    "mlp": (1, 3, 32, 32),
    "lenet5": (1, 1, 32, 32),
    "lenet5_original": (1, 1, 32, 32),
    "convnetjs": (1, 3, 32, 32),
    "smallconv": (1, 3, 32, 32),
    "stack": (1, 3, 32, 32),
    "speednet": (1, 3, 32, 32),
    "resnet20": (1, 3, 32, 32),
    "plain20": (1, 3, 32, 32),
    "preact_resnet20": (1, 3, 32, 32),
    "wide_resnet16_4": (1, 3, 32, 32),
    "vit_tiny_cifar": (1, 3, 32, 32),
    "squeezenet1_1": (1, 3, 64, 64),
    "resnet18": (1, 3, 64, 64),
}
LARGE = {
    "alexnet": 224,
    "alexnet_original": 227,
    "vgg11_lrn": 224,
    "vgg11_bn": 224,
    "resnet50": 224,
    "overfeat": 221,
    "vit_b_32": 224,
}


@pytest.mark.parametrize("name", ZOO)
def test_nets_of_the_zoo(name, tmp_path):
    if name not in models.list_models():
        pytest.skip(f"no model {name} in this build")
    check(randomise(models.create(name, in_channels=ZOO[name][1])), ZOO[name], tmp_path / "m.onnx", batches=(1, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_nets_of_the_zoo(name, tmp_path):
    if name not in models.list_models():
        pytest.skip(f"no model {name} in this build")
    check(
        randomise(models.create(name, num_classes=1000)),
        (1, 3, LARGE[name], LARGE[name]),
        tmp_path / "m.onnx",
        batches=(1,),
    )


# ---------------------------------------------------------------------------------------------------- single operations
IMAGES = (2, 4, 9, 11)
ELEMENTWISE = {
    name: (lambda function: lambda x: function(x))(getattr(minidl, name))
    for name in "neg abs exp log log1p expm1 log2 log10 sqrt rsqrt reciprocal square sign sin cos tan atan sinh cosh tanh "
    "sigmoid erf relu floor ceil round trunc".split()
}
OPERATIONS = {
    "asin": lambda x: minidl.asin(x.clamp(-0.9, 0.9)) + minidl.acos(x.clamp(-0.9, 0.9)),
    "arithmetic": lambda x, w: (x + w) * 2 - 1 / (x * x + 1) + (3 - x) / 2,
    "powers": lambda x: (
        x**2 + x**3 + (x.abs() + 1) ** -0.5 + (x.abs() + 1) ** 0.5 + (x.abs() + 1) ** 1.7 + 2 ** (x * 0.1)
    ),
    "comparisons": lambda x: (
        ((x > 0) | (x <= -1)).float() + ((x >= 0.5) & (x < 2)).float() + ((x == x) ^ ~(x != 0)).float()
    ),
    "integers and bits": lambda x: (((x * 9).long() & 12) | ((x * 9).long() ^ 5)).float(),
    "where": lambda x, w: (
        minidl.where(x > 0, x, w) + x.masked_fill(x < -1, 7.0) + minidl.maximum(x, w) * minidl.minimum(x, w)
    ),
    "remainders": lambda x: minidl.fmod(x, 0.7) + minidl.remainder(x, 0.7) + x // 0.7,
    "finite": lambda x: (minidl.isnan(x) | minidl.isinf(x / 0)).float() + minidl.isfinite(x).float(),
    "clamp": lambda x: x.clamp(-0.5, 0.5) + x.clamp(min=0.1) + x.clamp(max=0.2),
    "activations": lambda x: (
        F.leaky_relu(x) + F.elu(x, 1.3) + F.softplus(x) + F.softplus(x, 2.0) + F.silu(x) + F.relu(x)
    ),
    "gelu": lambda x: F.gelu(x) * 3 + F.gelu(x, approximate="tanh"),
    "softmax": lambda x: F.softmax(x, 1) + F.log_softmax(x, -1) + F.softmax(x * 100, 2),
    "casts": lambda x: (x * 10).long().float() + x.double().float() + (x > 0).long().sum(1, keepdim=True).float(),
    "reductions": lambda x: (
        x.sum(1, keepdim=True) + x.mean((2, 3), keepdim=True) + x.amax(3, keepdim=True) - x.amin(1, True)
    ),
    "more reductions": lambda x: x.prod(1) + x.var(1) + x.std((1,), unbiased=False) + x.norm(2, 1) + x.logsumexp(1),
    "running sums": lambda x: x.cumsum(2) + x.cumsum(1),
    "all of it": lambda x: x * x.sum() + x.mean(),
    "truths": lambda x: (x > 0).any(1).float() + (x > -1).all(1).float() + x.argmax(1).float() + x.argmin(1).float(),
    "flat argmax": lambda x: x.argmax().float() + x,
    "matmul": lambda x, w: x @ w.reshape(11, 5) + (x @ x.transpose(2, 3)).sum(),
    "einsum": lambda x: minidl.einsum("nchw,ndhw->ncd", x, x * 2),
    "shapes": lambda x: x.reshape(x.shape[0], -1, 3).permute(2, 0, 1).unsqueeze(1).squeeze(1).flatten(1),
    "batch in two places": lambda x: x.reshape(x.shape[0] * 4, 9, 11).reshape(2, x.shape[0] * 2, 99),
    "all but the last image": lambda x: x[: x.shape[0] - 1] + x[:-1],
    "broadcasts": lambda x, w: w.reshape(1, 1, 5, 11).expand(x.shape[0], 4, 5, 11) * 2,
    "repeats": lambda x: x.repeat(1, 2, 1, 1) * x.tile(1, 2, 1, 1),
    "cat and stack": lambda x: minidl.stack([minidl.cat([x, x * 2], 1), minidl.cat([x * 3, x], 1)], 1),
    "splits": lambda x: minidl.cat([t * i for i, t in enumerate(x.chunk(3, 2))] + list(x.split([2, 7], 2)), 2),
    "flip and roll": lambda x: minidl.roll(x, (1, -2), (2, 3)) + minidl.flip(x, 2, 3) + minidl.roll(x, 5, 1),
    "flat roll": lambda x: minidl.roll(x.reshape(-1, 396), 5, 1),
    "padding": lambda x: F.pad(x, (1, 2, 3, 0), value=2.5)[:, :, 3:, 1:12] + F.pad(F.pad(x, (1, 1)), (-1, -1)),
    "reflected": lambda x: F.pad(x, (2, 1), mode="reflect") + F.pad(x, (2, 1), mode="circular"),
    "triangles": lambda x: x.tril() + x.triu(2) + x.tril(-1),
    "slices": lambda x: x[:, 1:3, ::2, -3:] + x[:, :2, :5, :3] * x[:, :2, :5, 4:1:-1],
    "integers": lambda x: x[:, 1] + x[:, -1] + x[..., None, 0].sum() + x[:, :, 2, 3][:, :, None, None].sum(1),
    "lists": lambda x: x[:, [0, 2, 2]] + x[:, :, :, [3, 1]].sum() + x[:, minidl.tensor([True, False, True, True])],
    "gather": lambda x: x.gather(1, (x > 0).long()),
    "scatter": lambda x: x.scatter(1, x.argmax(1, keepdim=True), -x[:, :1]).scatter_add(1, (x[:, :1] > 0).long(), x[:, 1:2]),
    "whole division": lambda x: ((x * 9).long() // -4 + (x * 9).long() % 4 - (x * 9).long().fmod(4)).float() + x // 2 - x % 3,
    "interpolation": lambda x: F.interpolate(x, scale_factor=2) + F.interpolate(x, (18, 22), mode="bilinear"),
    "cubic interpolation": lambda x: F.interpolate(x, (7, 20), mode="bicubic", align_corners=True),
    "constants": lambda x: (
        minidl.zeros_like(x) + minidl.ones_like(x) * minidl.ones(x.shape[0], 1, 1, 1, device=x.device)
    ),
    "two outputs": lambda x: (x.sum(1), x * 2),
    "in place": lambda x: x.clone().add_(1).mul_(x).clamp_(-1, 1).relu_() + x,
    "causal attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "normalize": lambda x: F.normalize(x, dim=1),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_operations(name, tmp_path):
    positive = name in ("log", "log1p", "log2", "log10", "sqrt", "rsqrt", "reciprocal")
    check(Fn(ELEMENTWISE[name]), (2, 37), tmp_path / "m.onnx", positive=positive)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name, tmp_path):
    weight = (55,) if name == "matmul" else (1, 1, 5, 11) if name == "broadcasts" else (4, 1, 1)
    check(Fn(OPERATIONS[name], *weight), IMAGES, tmp_path / "m.onnx")


LAYERS = {
    "conv": lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2)),
    "uneven padding": lambda: nn.Conv2d(4, 6, 4, padding="same"),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    "max pool": lambda: nn.MaxPool2d(3, 2, padding=1, dilation=2),
    "max pool, ceil": lambda: nn.MaxPool2d(3, 3, ceil_mode=True),
    "avg pool": lambda: nn.AvgPool2d(3, 2, padding=1),
    "avg pool, ceil": lambda: nn.AvgPool2d(4, 3, padding=1, ceil_mode=True),
    "avg pool, no padding counted": lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False),
    "adaptive avg": lambda: nn.AdaptiveAvgPool2d((3, 4)),
    "adaptive avg, even": lambda: nn.AdaptiveAvgPool2d((3, 11)),
    "adaptive avg, one": lambda: nn.AdaptiveAvgPool2d(1),
    "adaptive avg, same": lambda: nn.AdaptiveAvgPool2d((9, 11)),
    "adaptive max": lambda: nn.AdaptiveMaxPool2d((3, 4)),
    "batch norm": lambda: nn.BatchNorm2d(4, eps=1e-3),
    "batch norm without scale": lambda: nn.BatchNorm2d(4, affine=False),
    "batch norm of the batch": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "layer norm": lambda: nn.LayerNorm((9, 11)),
    "layer norm without scale": lambda: nn.LayerNorm(11, elementwise_affine=False),
    "rms norm": lambda: nn.RMSNorm(11),
    "mobile activations": lambda: nn.Sequential(nn.ReLU6(), nn.Hardswish(), nn.Hardtanh(), nn.Mish(), nn.SELU(), nn.PReLU(4)),
    "shuffles": lambda: nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2), nn.GLU(1)),
    "upsample": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "lrn": lambda: nn.LocalResponseNorm(3, 0.5, 0.75, 2.0),
    "lrn of three axes": lambda: nn.Sequential(nn.Flatten(2), nn.LocalResponseNorm(3, 0.5, 0.75, 2.0)),
    "lrn, even": lambda: nn.LocalResponseNorm(2, 0.5, 0.75, 2.0),
    "linear": lambda: nn.Linear(11, 7),
    "linear without bias": lambda: nn.Linear(11, 7, bias=False),
    "flat linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(396, 3, bias=False)),
    "dropout": lambda: nn.Sequential(nn.Dropout(), nn.Dropout2d()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, tmp_path):
    layer = LAYERS[name]()
    model = nn.Sequential(layer) if list(layer.parameters()) else nn.Sequential(layer, Fn(lambda x, w: x * w))
    check(randomise(model), IMAGES, tmp_path / "m.onnx")


def test_integers_in(tmp_path):
    check(nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3)), (2, 7), tmp_path / "m.onnx", dtype="int64")


def test_float64(tmp_path):
    """onnxruntime has few float64 kernels; these are some of them."""
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    assert check(model, (2, 6), tmp_path / "m.onnx", dtype="float64") < 1e-14  # float64 is kept, not rounded to float32


# ------------------------------------------------------------------------------------------------------------ the file
def test_what_the_file_says(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    path = tmp_path / "m.onnx"
    export_onnx(model, (1, 3, 8, 8), path, metadata={"classes": "cat dog"})
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [node.op_type for node in proto.graph.node] == ["Conv", "Relu", "Reshape", "Gemm", "Identity"]
    assert {tensor.name for tensor in proto.graph.initializer} >= {"0.weight", "0.bias", "3.weight", "3.bias"}
    dims = [
        [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (proto.graph.input[0], proto.graph.output[0])
    ]
    assert dims == [["N", 3, 8, 8], ["N", 2]]
    assert {p.key: p.value for p in proto.metadata_props} == {"classes": "cat dog"} and proto.producer_name == "minidl"
    before = path.read_bytes()
    export_onnx(model, (7, 3, 8, 8), path, metadata={"classes": "cat dog"})
    assert path.read_bytes() == before, "the same model gives the same bytes, whatever the example's batch"


def test_parameters_may_be_called_as_the_file_calls_things(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("input", "output", "relu_1", "/mul_0"):
                self.register_parameter(name, nn.Parameter(minidl.randn(3)))

        def forward(self, x):
            for _, parameter in self.named_parameters():
                x = F.relu(x * parameter) + 1
            return x

    check(Net(), (2, 3), tmp_path / "m.onnx")


def test_the_model_is_as_it_was(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    model[1].eval()
    before = {name: t.data.copy() for name, t in model.state_dict().items()}
    export_onnx(model, (1, 3, 8, 8), tmp_path / "m.onnx")
    assert (model.training, model[0].training, model[1].training, model[2].training) == (True, True, False, True)
    assert all(t.device == "cpu" for t in (*model.parameters(), *model.buffers()))
    assert all((model.state_dict()[name].data == value).all() for name, value in before.items())
    model(minidl.randn(2, 3, 8, 8)).sum().backward()


def test_a_failing_model_is_as_it_was_too(tmp_path):
    model = Fn(lambda x, w: x.reshape(3) + w)
    with pytest.raises(minidl.errors.ShapeError):
        export_onnx(model, (2, 4), tmp_path / "m.onnx")
    assert model.weight.device == "cpu" and model.training and not (tmp_path / "m.onnx").exists()


def test_a_fixed_batch(tmp_path):
    def halves(x):
        return x[: x.shape[0] // 2] if x.shape[0] > 3 else x * 2

    path = tmp_path / "m.onnx"
    export_onnx(Fn(halves), (8, 3), path, dynamic_batch=False)
    x = np.ones((8, 3), np.float32)
    assert run(path, x)[0].shape == (4, 3)
    assert [d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim] == [8, 3]


def test_an_overwritten_constant_keeps_the_value_it_had(tmp_path):
    def forward(x, w):
        table = minidl.ones(3, device=x.device)
        y = x + table
        table.mul_(5.0)
        return y * table

    check(Fn(forward), (2, 3), tmp_path / "m.onnx")


def test_two_threads_wait_for_each_other(tmp_path):
    threads = [
        threading.Thread(target=check, args=(nn.Linear(3, 2 + i), (1, 3), tmp_path / f"{i}.onnx")) for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for i, thread in enumerate(threads):
        thread.join()
        assert run(tmp_path / f"{i}.onnx", np.ones((1, 3), np.float32))[0].shape == (1, 2 + i)


# ---------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    "function, words",
    [
        (lambda x: x * x.shape[0], "dynamic_batch=False"),
        (lambda x: x + 1 if x.shape[0] == 2 else x * 2, "different things for different batch sizes"),
        (lambda x: x[: x.shape[0] // 2], "no multiple of the batch"),
        (lambda x: x[: (x.shape[0] + 1) // 2], "no multiple of the batch"),
        (lambda x: x[0].reshape(1, 3).expand(x.shape[0] ** 2, 3), "no multiple of the batch"),
        (lambda x: F.dropout(x, 0.5), "dropout"),
        (lambda x: minidl.nonzero(x).float(), "dynamic_batch=False|nonzero"),
        (lambda x: x[x > 0], "option computed from the input|dynamic_batch"),
        (lambda x: "text", "returned str"),
        (lambda x: x[[0, 1], [1, 2]], "several lists"),
    ],
)
def test_what_cannot_be_exported(function, words, tmp_path):
    with pytest.raises(GraphError, match=words):
        export_onnx(Fn(function), (2, 3), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_view_of_an_overwritten_tensor(tmp_path):
    def forward(x):
        y = x * 2
        view = y.reshape(-1)
        y.relu_()
        return view + 1

    with pytest.raises(GraphError, match="overwritten"):
        export_onnx(Fn(forward), (2, 3), tmp_path / "m.onnx")


def test_other_errors(tmp_path, monkeypatch):
    with pytest.raises(GraphError, match="Flatten has no parameters"):
        export_onnx(nn.Flatten(), (2, 3), tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="example_input_shape is \\(1, 0\\)"):
        export_onnx(nn.Linear(3, 2), (1, 0), tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match="folder"):
        export_onnx(nn.Linear(3, 2), (1, 3), tmp_path / "no" / "m.onnx")
    outside = minidl.ones(3)
    with pytest.raises(
        DeviceError, match="Fn uses a tensor that is neither a parameter nor a buffer.*make it an nn.Buffer"
    ):
        export_onnx(Fn(lambda x: x + outside), (1, 3), tmp_path / "m.onnx")
    monkeypatch.setattr("minidl.io.onnx_export._MOST_BYTES", 10)
    with pytest.raises(CheckpointError, match="2 GB"):
        export_onnx(nn.Linear(3, 2), (1, 3), tmp_path / "m.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ConfigError, match="pip install 'minidl\\[onnx\\]'"):
        export_onnx(nn.Linear(3, 2), (1, 3), tmp_path / "m.onnx")


def test_every_operation_has_a_rule_or_a_reason():
    """A new operation must decide here whether models that use it can be exported."""
    without = {
        "dropout": "random",
        "im2col": "unfold is not used by nets",
        "col2im": "fold is not used by nets",
        "atan2": "not in ONNX",
        "setitem": "in-place writes",
        "zero_at": "in-place writes",
        "sum_to": "gradients only",
        "view_write": "in-place writes",
        "overwrite": "in-place writes",
        "to_device": "transfers",
    }
    losses = ("loss", "cross_entropy", "nll")
    forward = {
        verb for verb in functions if not verb.endswith(("_grad", "_take")) and not any(word in verb for word in losses)
    }
    assert forward - set(onnx_ops.RULES) - set(without) == set()
