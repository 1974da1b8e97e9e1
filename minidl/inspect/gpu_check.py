"""Does this GPU compute what the CPU does?  Every kernel is compiled, and each family tried on small inputs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import minidl
from minidl import nn, optim
from minidl.backend.rng import Generator
from minidl.errors import MinidlError
from minidl.kernels.cuda import loader, source
from minidl.nn import functional as F
from minidl.tensor import Tensor

# Differences allowed, of the largest number.  Sums of some hundred float32 products in another order differ by about 1e-6 of it,
# a 16-bit float's last bit is 1e-3 (float16); a wrong index, mask or barrier shows as whole numbers.
CLOSE = {"float32": 1e-4, "float16": 1e-2}
WITHOUT_A_GPU = "sm_90"  # what is compiled where no GPU says what it is


class Compiled(NamedTuple):
    """A .cu file for all dtypes that it is made for: ``found`` of them were compiled before and kept on disk."""

    file: str
    kernels: int
    dtypes: int
    found: int
    seconds: float
    problem: str = ""


class Verdict(NamedTuple):
    """A family on the GPU beside the CPU: the largest difference, as a part of the largest number."""

    family: str
    dtype: str
    difference: float
    seconds: float
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem and self.difference <= CLOSE[self.dtype]


def architecture(device: int | None) -> str:
    """The machine code of a GPU, such as sm_90; None: of no GPU in particular."""
    if device is None:
        return WITHOUT_A_GPU
    major, minor = minidl.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def compile_all(arch: str) -> Iterator[Compiled]:
    """Compile every file with kernels for ``arch``, one result each; a file that NVRTC refuses has its words as ``problem``."""
    capability = int(arch.removeprefix("sm_"))
    for file in source.files():
        begin, before = time.perf_counter(), _kept()
        dtypes = [dtype for dtype in source.DTYPES if source.made_for(file, dtype, capability)]
        try:
            with ThreadPoolExecutor(len(dtypes)) as pool:
                list(pool.map(lambda dtype: loader.compile_cubin(file, arch, source.defines(dtype)), dtypes))  # noqa: B023
        except MinidlError as error:
            yield Compiled(file, len(source.entries(file)), len(dtypes), 0, time.perf_counter() - begin, str(error))
            continue
        new = _kept() - before
        yield Compiled(file, len(source.entries(file)), len(dtypes), len(dtypes) - new, time.perf_counter() - begin)


def _kept() -> int:
    folder = loader.cache_folder()
    return len(list(folder.glob("*.cubin"))) if folder.is_dir() else 0


def check_all(device: str) -> Iterator[Verdict]:
    """Each family of kernels, forward and backward, on ``device`` and on the CPU."""
    for family, run in FAMILIES.items():
        yield check(family, run, device)
    yield check("conv", _convolutions, device, "float16")


def check(family: str, run: Callable[[Draw], list[Tensor]], device: str, dtype: str = "float32") -> Verdict:
    """One of them.  The same numbers are drawn for both, and dropout draws the same masks."""
    begin = time.perf_counter()
    try:
        expected, got = (_results(run, place, dtype) for place in ("cpu", device))
        worst = max(map(_difference, got, expected))
    except Exception as error:  # whatever it is, the families after it are looked at too
        return Verdict(family, dtype, math.inf, time.perf_counter() - begin, " ".join(str(error).split()))
    return Verdict(family, dtype, worst, time.perf_counter() - begin)


def _results(run: Callable[[Draw], list[Tensor]], device: str, dtype: str) -> list[Tensor]:
    state = minidl.get_rng_state()
    minidl.manual_seed(7)
    try:
        draw = Draw(device, dtype)
        found = run(draw)
        roots = [y for y in found if y.requires_grad]
        if roots:
            # Weights make the gradient of each element another one: sums alone would hide elements that were swapped.
            minidl.stack([(y.float() * draw.like(y)).sum() for y in roots]).sum().backward()
        return [y.detach().float().cpu() for y in (*found, *(x.grad for x in draw.given if x.grad is not None))]
    finally:
        minidl.set_rng_state(state)


def _difference(got: Tensor, expected: Tensor) -> float:
    if got.shape != expected.shape:
        return math.inf
    if not got.numel():
        return 0.0
    largest = max(expected.abs().max().item(), 1e-30)
    worst = (got - expected).abs().max().item() / largest
    return worst if math.isfinite(worst) else math.inf


class Draw:
    """Inputs: normal numbers from a seed, the same for every device; ``given`` are those that may get a gradient."""

    def __init__(self, device: str, dtype: str):
        self.device, self.dtype, self.given = device, dtype, list[Tensor]()
        self.generator = Generator(11)

    def __call__(self, *shape: int) -> Tensor:
        x = self.constant(*shape).requires_grad_()
        self.given.append(x)
        return x

    def constant(self, *shape: int) -> Tensor:
        return minidl.tensor(self.generator.normal(shape), dtype=self.dtype, device=self.device)

    def like(self, y: Tensor) -> Tensor:
        return minidl.tensor(self.generator.normal(y.shape), device=self.device)

    def labels(self, classes: int, *shape: int) -> Tensor:
        return minidl.tensor(self.generator.randint(0, classes, shape), device=self.device)


def _convolutions(draw: Draw) -> list[Tensor]:
    x = draw(2, 16, 9, 9)
    plain = F.conv2d(x, draw(24, 16, 3, 3), draw(24), padding=1)
    strided = F.conv2d(x, draw(8, 16, 5, 3), stride=2, padding=(2, 0))
    return [plain, strided, F.conv2d(x, draw(16, 1, 3, 3), groups=16), F.conv2d(x, draw(8, 8, 1, 1), groups=2)]


def _pooling(draw: Draw) -> list[Tensor]:
    x = draw(2, 8, 9, 9)
    return [F.max_pool2d(x, 3, 2), F.avg_pool2d(x, 2), F.adaptive_avg_pool2d(x, 4), F.adaptive_max_pool2d(x, 3)]


def _norms(draw: Draw) -> list[Tensor]:
    x, weight, bias = draw(4, 8, 5, 5), draw(8), draw(8)
    mean, var = draw.constant(8), draw.constant(8).square() + 1
    return [
        F.batch_norm(x, None, None, weight, bias, training=True),
        F.batch_norm(x, mean, var, weight, bias),
        F.layer_norm(draw(6, 40), (40,), draw(40), draw(40)),
        F.group_norm(x, 4, weight, bias),
        F.local_response_norm(x, 3),
    ]


def _softmaxes(draw: Draw) -> list[Tensor]:
    x = draw(5, 33)
    return [F.softmax(x, -1), F.log_softmax(x, -1)]


def _losses(draw: Draw) -> list[Tensor]:
    x, labels = draw(6, 11), draw.labels(11, 6)
    return [F.cross_entropy(x, labels), F.cross_entropy(x, labels, label_smoothing=0.1, reduction="none")]


def _activations(draw: Draw) -> list[Tensor]:
    x = draw(3, 50)
    return [F.relu(x), F.sigmoid(x), F.tanh(x), F.silu(x), F.gelu(x), x + draw(3, 50)]


def _attention(draw: Draw) -> list[Tensor]:
    q, k, v = (draw(2, 3, 10, 16) for _ in range(3))
    return [F.scaled_dot_product_attention(q, k, v)]


def _products(draw: Draw) -> list[Tensor]:
    return [F.linear(draw(7, 20), draw(9, 20), draw(9)), draw(2, 5, 6) @ draw(2, 6, 4)]


def _random(draw: Draw) -> list[Tensor]:
    drawn = [make(9, 9, device=draw.device) for make in (minidl.rand, minidl.randn)]
    return [F.dropout(draw(6, 41), 0.3, training=True), *drawn]


def _embedding(draw: Draw) -> list[Tensor]:
    return [F.embedding(draw.labels(7, 4, 5), draw(7, 12))]


def _optimizers(draw: Draw) -> list[Tensor]:
    """Three steps of each, with gradients that are the weights."""
    found = []
    for make in (lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), lambda p: optim.Adam(p, lr=0.1)):
        weights = [nn.Parameter(draw.constant(*shape)) for shape in ((30, 7), (5,))]
        stepper: Any = make(weights)
        for _ in range(3):
            for weight in weights:
                weight.grad = weight.detach().clone()
            stepper.step()
        found += [weight.detach() for weight in weights]
    return found


FAMILIES: dict[str, Callable[[Draw], list[Tensor]]] = {
    "conv": _convolutions,
    "pool": _pooling,
    "norm": _norms,
    "softmax": _softmaxes,
    "loss": _losses,
    "activation": _activations,
    "attention": _attention,
    "matmul": _products,
    "random": _random,
    "embedding": _embedding,
    "optim": _optimizers,
}
