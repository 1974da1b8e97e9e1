"""How far are the outputs of every family of nets from PyTorch's and from onnxruntime's, for the same random weights?

Each net at its full size, a random state with statistics like a trained net's, random images. The difference is the largest one,
relative to the largest output. PyTorch's twin is our own source with torch.nn in the place of minidl.nn; onnxruntime gets what
`minidl export` writes.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import minidl
from benchmarks.bench import ROOT
from benchmarks.experiments import common
from minidl import models
from minidl.io.onnx_export import difference, export_onnx

FAMILIES = (
    "linear", "mlp", "lenet5", "lenet5_original", "convnetjs", "smallconv", "speednet", "stack", "alexnet", "alexnet_original",
    "overfeat", "vgg11_lrn", "vgg16c", "vgg11_bn", "resnet18", "resnet50", "plain18", "wide_resnet50_2", "resnet20", "resnet110",
    "plain20", "preact_resnet20", "preact_resnet164", "wide_resnet16_4", "squeezenet1_0", "squeezenet1_1", "vit_tiny_cifar",
    "vit_b_32",
)  # fmt: skip


def compare(name: str, twins: Any, folder: Path) -> dict[str, Any]:
    """The two differences of one net."""
    import torch

    minidl.manual_seed(0)
    model = importlib.import_module("tests.models.twins").randomise(models.create(name)).eval()
    shape = models.model_info(name).input_shape
    images = minidl.randn(2, *shape)
    with minidl.no_grad(), torch.inference_mode():
        ours = torch.from_numpy(model(images).numpy())
        theirs = twins.of(model, name)(torch.from_numpy(images.numpy()))
    found = float((ours - theirs).abs().max() / theirs.abs().max())
    file = folder / "net.onnx"
    export_onnx(model, (1, *shape), file)
    error = difference(model, (1, *shape), file)
    file.unlink()
    return {"net": name, "input": list(shape), "torch": found, "onnxruntime": error}


def main() -> None:
    parser = common.parser(__doc__.split("\n", 1)[0], "parity")
    parser.set_defaults(out=ROOT / "benchmarks" / "results" / "parity.json")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    twins = importlib.import_module("tests.models.twins").Twins(torch)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for name in FAMILIES:
            runs.append(compare(name, twins, Path(folder)))
            print("{net:<18} torch {torch:.1e}  onnxruntime {onnxruntime:.1e}".format(**runs[-1]), flush=True)
    most = {other: max(run[other] for run in runs) for other in ("torch", "onnxruntime")}
    print("at most: " + ", ".join(f"{other} {value:.1e}" for other, value in most.items()))
    question = "How far are the outputs from PyTorch's and onnxruntime's, relative to the largest output?"
    common.keep(options.out, question, {"threads": options.threads}, runs, most=most)


if __name__ == "__main__":
    main()
