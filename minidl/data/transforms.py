"""Preprocessing and augmentation of whole batches.

A transform is called with images (..., C, H, W), uint8 or float32, and a ``numpy.random.Generator``, and returns new
images; random choices are made for each image of the first axis.  Unless it says otherwise it keeps the dtype.
``config()`` gives a JSON-able description that :func:`from_config` turns back into the transform, so a checkpoint can
carry its preprocessing; ``deterministic()`` gives what is left of it at evaluation.

They are array-module code: images on a GPU are transformed there.  The random numbers are drawn on the host, from the same
stream, and the arithmetic is the same, so the results are the same bits (but for Resize and ColorJitter's contrast and
saturation, which add several numbers: a GPU does so in another order).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from minidl.backend.transfer import array_module, windows
from minidl.data.base import Array, Dataset
from minidl.errors import ConfigError, DataError

Rng = np.random.Generator
Size = int | tuple[int, int] | Sequence[int]
REGISTRY: dict[str, type[Transform]] = {}


class Transform:
    """Base: a subclass's constructor arguments are its attributes, which is all that ``config`` has to save."""

    random: ClassVar[bool] = False
    any_device: bool = False  # whether ``apply`` also takes CuPy's arrays

    def __init_subclass__(cls) -> None:
        REGISTRY[cls.__name__] = cls
        if cls.__module__ == __name__:
            cls.any_device = True

    def __call__(self, images: Array, rng: Rng) -> Array:
        if images.ndim < 4 or images.dtype not in (np.uint8, np.float32):
            raise DataError(
                f"{type(self).__name__}: expected a batch (N, C, H, W) of uint8 or float32, got {images.dtype} of "
                f"shape {images.shape}; add an axis with images[None] for a single image"
            )
        return self.apply(images, rng)

    def apply(self, images: Array, rng: Rng) -> Array:
        """The transform itself; the batch's rank and dtype are checked."""
        raise NotImplementedError(f"{type(self).__name__} must implement apply(images, rng)")

    def config(self) -> dict[str, Any]:
        """``{"name": ..., argument: value, ...}``, JSON-able."""
        names = inspect.signature(type(self)).parameters
        return {"name": type(self).__name__, **{name: _plain(getattr(self, name)) for name in names}}

    def deterministic(self) -> Transform | None:
        """The transform to use at evaluation: itself, or None if it only adds chance."""
        return None if self.random else self

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.config().items() if k != "name")
        return f"{type(self).__name__}({arguments})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Transform) and self.config() == other.config()

    __hash__ = None  # type: ignore[assignment]


def from_config(config: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Transform:
    """Rebuild a transform from its ``config()``; a list makes a :class:`Compose`.

    Raises:
        ConfigError: an unknown name or argument, or something that is not a configuration.
    """
    try:
        return _from_config(config)
    except RecursionError:
        raise ConfigError("transforms: the configuration is nested too deeply") from None


def _from_config(config: Any) -> Transform:
    if isinstance(config, list | tuple):
        return Compose([_from_config(part) for part in config])
    if not isinstance(config, Mapping) or not isinstance(config.get("name"), str):
        raise ConfigError(f"transforms: expected a mapping with a 'name', got {str(config)[:80]!r}")
    options = dict(config)
    name = options.pop("name")
    if name not in REGISTRY:
        raise ConfigError(f"transforms: no transform is called {name!r}; expected one of {', '.join(sorted(REGISTRY))}")
    if name == "Compose":
        parts = options.pop("transforms", [])
        if not isinstance(parts, list | tuple):
            raise ConfigError(f"transforms: Compose needs a list of transforms, got {str(parts)[:80]!r}")
        options["transforms"] = [_from_config(part) for part in parts]
    known = list(inspect.signature(REGISTRY[name]).parameters)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"transforms: {name} has no argument {unknown[0]!r}; expected {', '.join(known) or 'none'}")
    try:
        return REGISTRY[name](**options)
    except ConfigError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"transforms: {name} cannot be built from {str(options)[:80]}: {error}") from None


class Compose(Transform):
    """One transform after another."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)
        for part in self.transforms:
            if not isinstance(part, Transform):
                raise ConfigError(f"Compose: expected transforms, got {type(part).__name__}")
        self.any_device = all(part.any_device for part in self.transforms)

    def apply(self, images: Array, rng: Rng) -> Array:
        for transform in self.transforms:
            images = transform(images, rng)
        return images

    def config(self) -> dict[str, Any]:
        return {"name": "Compose", "transforms": [part.config() for part in self.transforms]}

    def deterministic(self) -> Compose:
        return Compose([kept for part in self.transforms if (kept := part.deterministic()) is not None])

    def __repr__(self) -> str:
        return f"Compose([{', '.join(map(repr, self.transforms))}])"


class ToFloat(Transform):
    """uint8 in 0..255 -> float32 in [0, 1]; float32 passes unchanged."""

    def apply(self, images: Array, rng: Rng) -> Array:
        return to_float(images)


class Normalize(Transform):
    """(x - mean) / std for each channel; uint8 images are first scaled to [0, 1].  Returns float32."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        usable = all(map(math.isfinite, self.mean + self.std)) and all(s > 0 for s in self.std)
        if len(self.mean) != len(self.std) or not self.mean or not usable:
            raise ConfigError(f"Normalize: one mean and one positive std per channel, got {self.mean} and {self.std}")

    def apply(self, images: Array, rng: Rng) -> Array:
        if images.shape[-3] != len(self.mean) and len(self.mean) != 1:
            raise DataError(
                f"Normalize: {len(self.mean)} means for images of {images.shape[-3]} channels {images.shape}"
            )
        xp = array_module(images)
        mean, std = (np.array(values).reshape(-1, 1, 1) for values in (self.mean, self.std))
        # One multiplication and one addition, the scale of uint8 included, and no copy in between.
        scale = 1 / (std * 255) if images.dtype == np.uint8 else 1 / std
        result = images * xp.asarray(scale.astype(np.float32))
        result -= xp.asarray((mean / std).astype(np.float32))
        return result


class RandomHorizontalFlip(Transform):
    """Mirror each image left to right with probability ``p``."""

    random = True

    def __init__(self, p: float = 0.5) -> None:
        self.p = _fraction("RandomHorizontalFlip", "p", p)

    def apply(self, images: Array, rng: Rng) -> Array:
        return mirror(images, rng.random(len(images)) < self.p)


class RandomCrop(Transform):
    """Pad on every side, then cut a window at a random place from each image (He et al. 2015, section 4.2).

    Args:
        size: the window's (height, width); None for the image's own.
        padding: pixels added on each side before.
        mode: what the padding holds: ``"zero"`` or ``"reflect"``.
    """

    random = True

    def __init__(self, size: Size | None = None, padding: int = 4, mode: str = "zero") -> None:
        self.size = None if size is None else _pair("RandomCrop", size)
        self.padding = _count("RandomCrop", "padding", padding)
        self.mode = _choice("RandomCrop", "mode", mode, ("zero", "reflect"))

    def apply(self, images: Array, rng: Rng) -> Array:
        size = self.size or (images.shape[-2], images.shape[-1])
        padded = _padded("RandomCrop", images, self.padding, self.mode)
        high = _room("RandomCrop", padded, size)
        return windows(
            padded, size, rng.integers(0, high[0] + 1, len(images)), rng.integers(0, high[1] + 1, len(images))
        )

    def deterministic(self) -> Transform | None:
        return None if self.size is None else CenterCrop(self.size)


class RandomShift(Transform):
    """Move each image by up to ``pixels`` along each axis; what comes in is zero, or a reflection (``mode``)."""

    random = True

    def __init__(self, pixels: int = 4, mode: str = "zero") -> None:
        self.pixels = _count("RandomShift", "pixels", pixels)
        self.mode = _choice("RandomShift", "mode", mode, ("zero", "reflect"))

    def apply(self, images: Array, rng: Rng) -> Array:
        return RandomCrop(None, self.pixels, self.mode).apply(images, rng)


class Cutout(Transform):
    """Blank a square of ``size`` pixels, centred anywhere, in each image (DeVries & Taylor 2017, arXiv:1708.04552).

    Part of the square may lie outside the image, as in the paper.  ``value`` is what the square is filled with, in the
    images' own units: put Cutout after Normalize to fill with the mean.
    """

    random = True

    def __init__(self, size: int = 8, value: float = 0.0, p: float = 1.0) -> None:
        self.size = _count("Cutout", "size", size)
        self.value = float(value)
        self.p = _fraction("Cutout", "p", p)

    def apply(self, images: Array, rng: Rng) -> Array:
        xp, n, (h, w) = array_module(images), len(images), images.shape[-2:]
        top = xp.asarray(rng.integers(0, h, n) - self.size // 2)
        left = xp.asarray(rng.integers(0, w, n) - self.size // 2)
        which = xp.asarray(rng.random(n) < self.p)
        rows, columns = xp.arange(h), xp.arange(w)
        in_rows = (rows >= top[:, None]) & (rows < top[:, None] + self.size) & which[:, None]
        in_columns = (columns >= left[:, None]) & (columns < left[:, None] + self.size)
        hole = in_rows[:, :, None] & in_columns[:, None, :]
        hole = hole.reshape(n, *[1] * (images.ndim - 3), h, w)
        return xp.where(hole, np.asarray(self.value).astype(images.dtype)[()], images)


class ColorJitter(Transform):
    """Random brightness, contrast and saturation, in this order; each a factor from [1 - a, 1 + a] per image.

    Brightness scales the pixels; contrast the distance from the image's mean grey; saturation the distance from each
    pixel's grey (0.299 R + 0.587 G + 0.114 B, ITU-R BT.601).  The result is clipped to the range of the input's dtype,
    0..255 or [0, 1]: use it before Normalize.  One-channel images have no saturation to change.
    """

    random = True

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> None:
        self.brightness = _fraction("ColorJitter", "brightness", brightness)
        self.contrast = _fraction("ColorJitter", "contrast", contrast)
        self.saturation = _fraction("ColorJitter", "saturation", saturation)

    def apply(self, images: Array, rng: Rng) -> Array:
        xp, top = array_module(images), 255 if images.dtype == np.uint8 else 1
        result = images.astype(np.float32)

        def factor(amount: float) -> Array:
            values = 1 + amount * (2 * rng.random(len(images)) - 1)
            return xp.asarray(values.astype(np.float32).reshape(-1, *[1] * (images.ndim - 1)))

        bright, contrast, saturation = factor(self.brightness), factor(self.contrast), factor(self.saturation)
        if self.brightness:
            result = xp.clip(result * bright, 0, top)
        if self.contrast:
            mean = _grey(result).mean(axis=(-3, -2, -1), keepdims=True)
            result = xp.clip(mean + contrast * (result - mean), 0, top)
        if self.saturation and images.shape[-3] == 3:
            grey = _grey(result)
            result = xp.clip(grey + saturation * (result - grey), 0, top)
        return xp.rint(result).astype(np.uint8) if images.dtype == np.uint8 else result


class Resize(Transform):
    """Resize to (height, width), or one number for the shorter side; anti-aliased when it shrinks.

    ``interpolation`` is "bilinear" or "bicubic", which is sharper: use the one that a published net was trained with.
    """

    def __init__(self, size: Size, interpolation: str = "bilinear") -> None:
        self.size = size if isinstance(size, int) else _pair("Resize", size)
        _pair("Resize", size)
        self.interpolation = _choice("Resize", "interpolation", interpolation, tuple(_FILTERS))

    def apply(self, images: Array, rng: Rng) -> Array:
        h, w = images.shape[-2:]
        if not isinstance(self.size, int):
            return resize(images, self.size, self.interpolation)
        short = min(h, w)
        size = self.size * h // short, self.size * w // short  # rounded down, as torchvision
        return resize(images, size, self.interpolation)


class CenterCrop(Transform):
    """The middle window of (height, width) pixels.

    Half of an odd rest is rounded to the nearest even number, as in torchvision, whose crops these are to the pixel.
    """

    def __init__(self, size: Size) -> None:
        self.size = _pair("CenterCrop", size)

    def apply(self, images: Array, rng: Rng) -> Array:
        rest = _room("CenterCrop", images, self.size)
        top, left = _half(rest[0]), _half(rest[1])
        return array_module(images).ascontiguousarray(images[..., top : top + self.size[0], left : left + self.size[1]])


class TenCrop(Transform):
    """The four corners, the centre, and the mirror images of these: (N, C, H, W) -> (N, 10, C, h, w).

    The average of a net's ten outputs is its prediction (Krizhevsky, Sutskever, Hinton 2012, section 4.1).
    """

    def __init__(self, size: Size) -> None:
        self.size = _pair("TenCrop", size)

    def apply(self, images: Array, rng: Rng) -> Array:
        h, w = self.size
        down, right = _room("TenCrop", images, self.size)
        places = [(0, 0), (0, right), (down, 0), (down, right), (_half(down), _half(right))]
        xp = array_module(images)
        five = xp.stack([images[..., y : y + h, x : x + w] for y, x in places], axis=1)
        return xp.concatenate([five, five[..., ::-1]], axis=1)


def _half(rest: int) -> int:
    return round(rest / 2)


def to_float(images: Array) -> Array:
    """uint8 in 0..255 -> float32 in [0, 1]; other dtypes keep their values."""
    return images * np.float32(1 / 255) if images.dtype == np.uint8 else images.astype(np.float32, copy=False)


def mirror(images: Array, which: Array) -> Array:
    """The images (N, ..., W) with those left to right for which ``which`` (N,) is true."""
    xp = array_module(images)
    return xp.where(xp.asarray(which).reshape(-1, *[1] * (images.ndim - 1)), images[..., ::-1], images)


def resize(images: Array, size: tuple[int, int], interpolation: str = "bilinear") -> Array:
    """Resize (..., H, W) to ``size``, keeping the dtype; ``interpolation`` is "bilinear" or "bicubic".

    Pixel centres lie at half-integers, as in Pillow and in PyTorch with ``align_corners=False, antialias=True``: each
    new pixel is a mean of the old ones, weighted by a triangle whose half-width is the scale, but at least one pixel; or by
    Keys' cubic (1981, a = -0.5), which is twice as wide and sinks below 0.  uint8 images are rounded, and cut off at 0 and
    255, after each axis, width first, as Pillow does: a published net then sees what it was trained on.
    """
    xp = array_module(images)
    rows = xp.asarray(_resize_matrix(images.shape[-2], size[0], interpolation))
    columns = xp.asarray(_resize_matrix(images.shape[-1], size[1], interpolation))
    if images.dtype != np.uint8:
        return xp.matmul(rows, xp.matmul(images, columns.T))
    wide = xp.clip(xp.floor(xp.matmul(images.astype(np.float32), columns.T) + 0.5), 0, 255)
    return xp.clip(xp.floor(xp.matmul(rows, wide) + 0.5), 0, 255).astype(np.uint8)


def _resize_matrix(old: int, new: int, interpolation: str = "bilinear") -> Array:
    """The (new, old) matrix whose rows are the weights of the old pixels; each row sums to 1."""
    scale = old / new
    width = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale
    distance = np.abs(np.arange(old) + 0.5 - centre[:, None]) / width
    weights = _FILTERS[interpolation](distance)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _triangle(distance: Array) -> Array:
    return np.maximum(1 - distance, 0)


def _cubic(distance: Array) -> Array:
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


_FILTERS = {"bilinear": _triangle, "bicubic": _cubic}


def channel_statistics(dataset: Dataset, batch_size: int = 2048) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and standard deviation of each channel over every pixel of every image, as numbers in [0, 1].

    Sums are kept in float64 (for uint8 images they are exact integers), so the order of the images does not matter.
    """
    if not len(dataset):
        raise DataError(f"{dataset.name}: an empty data set has no mean")
    total: Any = 0
    squares: Any = 0
    pixels = 0
    for start in range(0, len(dataset), batch_size):
        images, _ = dataset.batch(np.arange(start, min(start + batch_size, len(dataset))))
        scale = 255.0 if images.dtype == np.uint8 else 1.0
        wide = images.astype(np.float64)
        total = total + wide.sum(axis=(0, 2, 3)) / scale
        squares = squares + np.square(wide, out=wide).sum(axis=(0, 2, 3)) / scale**2
        pixels += images.shape[0] * images.shape[2] * images.shape[3]
    mean = total / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    return tuple(mean.tolist()), tuple(std.tolist())


def _grey(images: Array) -> Array:
    """The luma of RGB images, one channel; other images' mean over channels."""
    if images.shape[-3] != 3:
        return images.mean(axis=-3, keepdims=True)
    weights = np.array([0.299, 0.587, 0.114], np.float32).reshape(3, 1, 1)
    return (images * array_module(images).asarray(weights)).sum(axis=-3, keepdims=True)


def _padded(name: str, images: Array, padding: int, mode: str) -> Array:
    if mode == "reflect" and padding >= min(images.shape[-2:]):
        raise DataError(
            f"{name}: cannot reflect {padding} pixels of images {images.shape}; use mode='zero' or pad less"
        )
    widths = [(0, 0)] * (images.ndim - 2) + [(padding, padding)] * 2
    return array_module(images).pad(images, widths, mode="reflect" if mode == "reflect" else "constant")


def _room(name: str, images: Array, size: tuple[int, int]) -> tuple[int, int]:
    """How far a window can move down and right inside the images."""
    down, right = images.shape[-2] - size[0], images.shape[-1] - size[1]
    if down < 0 or right < 0:
        raise DataError(
            f"{name}: a window of {size} does not fit images {images.shape}; resize them first, or pad more"
        )
    return down, right


def _pair(name: str, size: Size) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise ConfigError(f"{name}: size must be one or two positive integers, got {size}")
    return pair[0], pair[1]


def _count(name: str, argument: str, value: int) -> int:
    if not isinstance(value, int) or value < 0:
        raise ConfigError(f"{name}: {argument} must be an integer of at least 0, got {value!r}")
    return value


def _fraction(name: str, argument: str, value: float) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(f"{name}: {argument} must lie between 0 and 1, got {value!r}")
    return float(value)


def _choice(name: str, argument: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ConfigError(f"{name}: {argument} must be one of {', '.join(choices)}, got {value!r}")
    return value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
