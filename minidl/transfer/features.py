"""Features: what the layers of a trained net say of images, as vectors for another classifier.

Donahue et al. 2014 (DeCAF, arXiv:1310.1531) read them from AlexNet: ``pool5``, the last maps, laid out flat (9,216 numbers),
and ``fc6`` and ``fc7``, the two hidden layers behind them (4,096 each), after their ReLU.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import minidl
from minidl import nn
from minidl.autograd.grad_mode import no_grad
from minidl.data import Dataset, Subset, transforms
from minidl.data.folder import ImageFolder
from minidl.errors import CheckpointError, ConfigError, DataError, ShapeError
from minidl.io import safetensors
from minidl.nn import Module
from minidl.tensor import Tensor

Array = Any
DECAF = ("pool5", "fc6", "fc7")
_NAMED = 60  # module names in an error message; resnet152 has over 500
_KEY = "minidl.features"


# ---- layers by name


def aliases(model: Module) -> dict[str, str]:
    """The lectures' names of the layers of AlexNet, and of the nets built like it (VGG, OverFeat), with the modules' paths.

    ``pool5`` is the end of ``features``; ``fc6`` and ``fc7`` are the first two linear layers of ``classifier``, after their
    ReLU.  Other nets have no such names: {}.
    """
    features, classifier = (model.__dict__.get(name) for name in ("features", "classifier"))
    if not isinstance(features, nn.Sequential) or not isinstance(classifier, nn.Sequential) or not len(features):
        return {}
    parts = list(classifier.named_children())
    rectified = [
        f"classifier.{after}"
        for (_, layer), (after, following) in zip(parts, parts[1:], strict=False)
        if isinstance(layer, nn.Linear) and isinstance(following, nn.ReLU)
    ]
    if len(rectified) != 2:
        return {}
    last = [name for name, _ in features.named_children()][-1]
    return {"pool5": f"features.{last}", "fc6": rectified[0], "fc7": rectified[1]}


def layer_paths(model: Module, layers: Sequence[str]) -> dict[str, str]:
    """The module's path for each of ``layers``: an alias (see :func:`aliases`) or a path such as ``"layer4.1.conv2"``.

    Raises:
        ConfigError: an unknown layer; the message lists those that there are.
    """
    if isinstance(layers, str) or not layers:
        raise ConfigError(f"features: expected the names of layers, such as ['fc7'], got {layers!r}")
    known, modules = aliases(model), [name for name, _ in model.named_modules() if name]
    found = {}
    for layer in layers:
        if layer not in known and layer not in modules:
            names = [*known, *modules]
            close = difflib.get_close_matches(str(layer), names, n=3)
            hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
            more = f" and {len(names) - _NAMED} more, see model.named_modules()" if len(names) > _NAMED else ""
            raise ConfigError(
                f"features: {type(model).__name__} has no layer {layer!r}; {hint}its layers: {', '.join(names[:_NAMED])}{more}"
            )
        found[layer] = known.get(layer, layer)
    return found


# ---- extraction


def extract(
    model: Module,
    images: Dataset | Array | Tensor,
    layers: Sequence[str] = DECAF,
    *,
    transform: transforms.Transform | Any = None,
    batch_size: int = 64,
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Array]:
    """What ``layers`` of ``model`` say of every image: for each layer an array (N, features), maps laid out flat.

    The model runs in evaluation mode and without gradients; afterwards each of its modules is in the mode in which it was.
    Of a module that a net uses several times, the last use counts.

    Args:
        images: a data set, or images (N, C, H, W) in an array or Tensor.
        layers: names from :func:`aliases` or modules' paths.
        transform: preprocessing; of random parts only what remains of them at evaluation.  None: images are given as
            float32 as they are, which uint8 images cannot be.
        batch_size: images at a time; the memory that is needed grows with it, the result does not depend on it but for
            rounding.
        cache: a folder, made if need be, in which each layer's features are kept in a file (written whole or not at all),
            under a hash of the model (its modules, weights and statistics), the preprocessing and the images.  What is there
            is not computed again, and is what was saved, bit for bit; a damaged file is replaced.  Images of an ImageFolder
            are the same as long as their files' names, sizes and times are; of others the pixels themselves are hashed.
        progress: called with (images done, images) after each batch.

    Raises:
        ConfigError: an unknown layer, or an impossible batch size.
        DataError: uint8 images without a transform.
        ShapeError: images that do not fit the net, a layer that gives no single Tensor with one row for each image, or that
            was not used.
    """
    paths = layer_paths(model, layers)
    if batch_size < 1:
        raise ConfigError(f"features: batch_size must be at least 1, got {batch_size}")
    steps = None if transform is None else transform.deterministic()
    source = _Source(images, steps)
    if cache is None:
        return _compute(model, source, paths, batch_size, progress)
    folder = Path(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"features: cannot make the folder {folder} ({error.strerror}); give cache another one") from None
    key = {
        "model": model_hash(model), "preprocessing": None if steps is None else steps.config(), "images": source.identity(),
        "minidl": minidl.__version__,
    }  # fmt: skip
    files = {layer: _cache_file(folder, key, path) for layer, path in paths.items()}
    found = {layer: _cached(file, key, paths[layer]) for layer, file in files.items()}
    missing = {layer: path for layer, path in paths.items() if found[layer] is None}
    if missing:
        for layer, features in _compute(model, source, missing, batch_size, progress).items():
            found[layer] = features
            safetensors.save_file({"features": features}, files[layer], {_KEY: _text(key, paths[layer])})
    return found


class _Source:
    """Images by the batch, ready for the net, and what they are."""

    def __init__(self, images: Any, transform: Any) -> None:
        self.transform = transform
        self.images = images.detach().to("cpu").numpy() if isinstance(images, Tensor) else images
        self.dataset = images if isinstance(images, Dataset) else None
        if self.dataset is None and getattr(self.images, "ndim", 0) != 4:
            what = f"shape {tuple(self.images.shape)}" if hasattr(self.images, "shape") else f"a {type(images).__name__}"
            raise ShapeError(f"features: expected a data set or images (N, C, H, W), found {what}")

    def __len__(self) -> int:
        return len(self.images)

    def raw(self, start: int, stop: int) -> Array:
        """Images from ``start`` to before ``stop``, as they are kept."""
        if self.dataset is None:
            return self.images[start:stop]
        return self.dataset.batch(list(range(start, min(stop, len(self)))))[0]

    def batch(self, start: int, stop: int) -> Tensor:
        pixels = self.raw(start, stop)
        if self.transform is not None:
            pixels = self.transform(pixels, None)
        if pixels.dtype.kind != "f":
            raise DataError(
                f"features: a net takes floating-point images, found {pixels.dtype}; give the transform that the net was "
                "trained with, such as Compose([ToFloat(), Normalize(mean, std)])"
            )
        return minidl.from_numpy(pixels)

    def identity(self) -> dict[str, Any]:
        """What tells these images from others, JSON-able."""
        digest, part = hashlib.sha256(), self.dataset
        folder = part.dataset if isinstance(part, Subset) else part
        if isinstance(folder, ImageFolder):
            for i in part.indices.tolist() if isinstance(part, Subset) else range(len(folder)):
                state, name = folder.files[i].stat(), folder.files[i].relative_to(folder.path).as_posix()
                digest.update(f"{name} {state.st_size} {state.st_mtime_ns}\n".encode())
            return {"files": len(self), "shape": [*folder.image_shape, folder.resize], "sha256": digest.hexdigest()}
        shape: list[int] = []
        kind = ""
        for start in range(0, len(self), 256):
            pixels = self.raw(start, start + 256)
            shape, kind = list(pixels.shape[1:]), pixels.dtype.str
            digest.update(pixels.tobytes())
        return {"images": len(self), "shape": shape, "dtype": kind, "sha256": digest.hexdigest()}


def _compute(
    model: Module, source: _Source, paths: Mapping[str, str], batch_size: int, progress: Callable[[int, int], None] | None
) -> dict[str, Array]:
    n, found, device = len(source), {}, _device(model)
    with _evaluating(model), no_grad(), _outputs(model, set(paths.values())) as outputs:
        for start in range(0, max(n, 1), batch_size):
            outputs.clear()
            batch = source.batch(start, start + batch_size)
            model(batch.to(device))
            for layer, path in paths.items():
                features = _rows(layer, outputs.get(path), batch.shape[0])
                if layer not in found:
                    found[layer] = minidl.empty(n, features.shape[1], dtype=features.dtype).numpy()
                found[layer][start : start + batch_size] = features.to("cpu").numpy()
            if progress is not None:
                progress(min(start + batch_size, n), n)
    return found


def _device(model: Module) -> Any:
    return next((p.device for p in model.parameters()), "cpu")


def _rows(layer: str, output: Any, n: int) -> Tensor:
    """The output of a layer as one vector for each image."""
    if output is None:
        raise ShapeError(f"features: the net has a layer {layer!r} but did not use it for these images")
    if not isinstance(output, Tensor) or output.ndim < 1 or output.shape[0] != n:
        what = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ShapeError(f"features: layer {layer!r} gives {what}, not one row for each of {n} images; choose the one around it")
    return output.reshape(n, -1) if n else output.reshape(0, math.prod(output.shape[1:]))


@contextlib.contextmanager
def _evaluating(model: Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module as it was, frozen ones included."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _outputs(model: Module, paths: set[str]) -> Iterator[dict[str, Any]]:
    """What the modules at ``paths`` return, by path, copied: the next layer may work in place."""
    found: dict[str, Any] = {}

    def keeper(path: str) -> Callable[..., None]:
        def keep(module: Module, args: Any, output: Any) -> None:
            found[path] = output.clone() if isinstance(output, Tensor) else output

        return keep

    handles = [model.get_submodule(path).register_forward_hook(keeper(path)) for path in sorted(paths)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


# ---- the cache


def model_hash(model: Module) -> str:
    """SHA-256 of the modules with their options, as ``repr`` shows them, and of every parameter and buffer."""
    digest = hashlib.sha256(f"{type(model).__module__}.{type(model).__qualname__}\n{model!r}".encode())
    for name, tensor in model.state_dict().items():
        array = tensor.to("cpu").numpy()
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _text(key: dict[str, Any], path: str) -> str:
    return json.dumps({**key, "layer": path}, sort_keys=True)


def _cache_file(folder: Path, key: dict[str, Any], path: str) -> Path:
    name = re.sub(r"[^\w.-]", "_", path)[-60:]
    return folder / f"{name}-{hashlib.sha256(_text(key, path).encode()).hexdigest()[:20]}.safetensors"


def _cached(file: Path, key: dict[str, Any], path: str) -> Array | None:
    """The features in ``file``; None where there are none, or not these, or damaged ones."""
    if not file.exists():
        return None
    try:
        arrays, metadata = safetensors.load_file(file)
    except CheckpointError:
        return None
    return arrays.get("features") if metadata.get(_KEY) == _text(key, path) else None
