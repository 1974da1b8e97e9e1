"""AlexNet and ResNet-50: reading a weight file of PyTorch into the net, and one image of 224x224 through it."""

from __future__ import annotations

import atexit
import functools
import importlib
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.bench import Case, Contender

NETS = ("alexnet", "resnet50")


def write_weights(name: str, path: Path) -> Path:
    """A file of random weights: a state dict in torch's zip format, as torchvision publishes them, or safetensors."""
    import minidl
    from minidl import models
    from minidl.io.safetensors import save_file

    minidl.manual_seed(0)
    state = {key: value.numpy() for key, value in models.create(name).state_dict().items()}
    if path.suffix == ".pth":
        import torch

        torch.save({key: torch.from_numpy(value) for key, value in state.items()}, path)
    else:
        save_file(state, path)
    return path


@functools.cache
def _weights_file(name: str, suffix: str) -> Path:
    """One file for all cases of this process, gone with it."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return write_weights(name, Path(folder.name) / f"{name}{suffix}")


def load_minidl(name: str, path: Path) -> Any:
    from minidl import models

    return models.create(name, weights=path).eval()


@functools.cache
def twins() -> Any:
    """Our nets' sources, run with torch.nn in the place of minidl.nn."""
    import torch

    return importlib.import_module("tests.models.twins").Twins(torch)


def load_torch(name: str, path: Path) -> Any:
    """PyTorch's quickest way: a net without memory, whose parameters the file's tensors become.

    The net is our own source with torch.nn in the place of minidl.nn.
    """
    import torch

    with torch.device("meta"):
        net = twins().create(name)
    net.load_state_dict(torch.load(path, weights_only=True), assign=True)
    return net.eval()


def loading(name: str) -> Any:
    def contenders(with_torch: bool) -> dict[str, Contender]:
        path = _weights_file(name, ".pth" if with_torch else ".safetensors")
        found: dict[str, Contender] = {"minidl": lambda: list(load_minidl(name, path).parameters())[-1].detach().numpy()}
        if with_torch:
            found["torch"] = lambda: list(load_torch(name, path).parameters())[-1].detach().numpy()
        return found

    return contenders


def running(name: str) -> Any:
    def contenders(with_torch: bool) -> dict[str, Contender]:
        import minidl

        path = _weights_file(name, ".pth" if with_torch else ".safetensors")
        net, image = load_minidl(name, path), minidl.randn(1, 3, 224, 224)

        def ours() -> Any:
            with minidl.no_grad():
                return net(image).numpy()

        found: dict[str, Contender] = {"minidl": ours}
        if with_torch:
            import torch

            other, same = load_torch(name, path), torch.from_numpy(image.numpy())

            def theirs() -> Any:
                with torch.inference_mode():
                    return other(same).numpy()

            found["torch"] = theirs
        return found

    return contenders


def cases() -> list[Case]:
    found = []
    for name in NETS:
        found.append(Case(f"{name} load", "a .pth file into the net", loading(name)))
        found.append(Case(f"{name} run", "one image of 224x224", running(name)))
    return found
