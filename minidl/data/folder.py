"""Folders of images: one sub-folder per class, decoded when asked for.

Either ``PATH/train/CLASS/*`` with ``PATH/val`` or ``PATH/test`` beside it, or ``PATH/CLASS/*``, which is split here.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.data.base import Array, Dataset, stratified_split
from minidl.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = frozenset(".jpg .jpeg .png .bmp .gif .webp .tif .tiff .ppm .pgm".split())
_TRAIN = ("train", "training")
_TEST = ("val", "valid", "validation", "test")


class ImageFolder(Dataset):
    """Images of one fixed size from a folder with one sub-folder per class.

    Each image is turned upright by its EXIF tag, converted to RGB (or grey), resized so that its shorter side has
    ``resize`` pixels, and cut to ``size`` in the middle.  Augment beyond that with transforms.

    Args:
        path: the folder.
        split: ``"train"`` or ``"test"`` (``"val"`` means the same).  A folder with ``train`` and ``val`` (or ``test``)
            inside is taken as it is; otherwise ``test_fraction`` of every class is held out, the same for one seed.
        size: (height, width), or one number for both.
        resize: pixels of the shorter side before the cut; at least ``size``, by default equal to it.
        grayscale: one channel instead of three.
        skip_unreadable: leave unreadable images out, with a warning that names them, instead of raising.  This decodes
            every image once at the start.
        max_pixels: refuse larger images before decoding them; a small file can claim a huge one.
        test_fraction, seed: of the split made here.

    Raises:
        DataError: no such folder, no class, a class without images, an unreadable image (named).
        ConfigError: an unknown split or impossible sizes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str = "train",
        *,
        size: int | tuple[int, int] = 64,
        resize: int | None = None,
        grayscale: bool = False,
        skip_unreadable: bool = False,
        max_pixels: int = 64_000_000,
        test_fraction: float = 0.2,
        seed: int = 0,
    ) -> None:
        if split not in ("train", *_TEST):
            raise ConfigError(f"folder: no split is called {split!r}; expected 'train' or 'test'")
        self.path = Path(path).expanduser()
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.resize = max(self.size) if resize is None else resize
        if min(self.size) < 1 or self.resize < max(self.size):
            raise ConfigError(f"folder: expected 1 <= size <= resize, got size={size} and resize={resize}")
        self.grayscale = grayscale
        self.max_pixels = max_pixels
        self.name = f"folder:{self.path}/{'train' if split == 'train' else 'test'}"

        source, already_split = self._source(split)
        self.class_names = _class_folders(source)
        files = [(file, label) for label, name in enumerate(self.class_names) for file in _image_files(source / name)]
        present = {label for _, label in files}
        for label, name in enumerate(self.class_names):
            if label not in present:
                raise DataError(
                    f"folder: {source / name} has no images (files ending in {', '.join(sorted(EXTENSIONS))}); add "
                    "some or remove the folder"
                )
        self.files = [file for file, _ in files]
        self.labels = np.array([label for _, label in files], np.int64)
        self.unreadable = self._check_all(decode=skip_unreadable)
        if self.unreadable:
            self._drop_unreadable(skip_unreadable)
        if not already_split:
            train, test = stratified_split(self.labels, test_fraction, seed)
            self._keep(train if split == "train" else test)
        if not len(self):
            raise DataError(f"folder: {source} leaves no image for split {split!r}; expected at least two in a class")

    def batch(self, indices: Sequence[int] | Array) -> tuple[Array, Array]:
        index = self._checked(indices)
        images = np.empty((len(index), 1 if self.grayscale else 3, *self.size), np.uint8)
        for row, i in enumerate(index):
            images[row] = self.read(self.files[i])
        return images, self.labels[index]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (1 if self.grayscale else 3, *self.size)

    def read(self, file: str | os.PathLike[str]) -> Array:
        """One image file, prepared as the data set's images are: uint8 (C, H, W).  Raises a DataError that names it."""
        return read_image(
            file, size=self.size, resize=self.resize, grayscale=self.grayscale, max_pixels=self.max_pixels
        )

    def _source(self, split: str) -> tuple[Path, bool]:
        """The folder of class folders, and whether it holds this split alone."""
        if not self.path.is_dir():
            raise DataError(f"folder: {self.path} is not a folder; expected one with a sub-folder of images per class")
        train = next((self.path / name for name in _TRAIN if (self.path / name).is_dir()), None)
        test = next((self.path / name for name in _TEST if (self.path / name).is_dir()), None)
        if train is None or test is None:
            return (train or self.path), False
        return (train if split == "train" else test), True

    def _check_all(self, decode: bool) -> dict[Path, str]:
        """What is wrong with each bad file: by its header only, or by decoding it."""
        bad = {}
        for file in self.files:
            try:
                if decode:
                    self.read(file)
                else:
                    _open(file, self.max_pixels).close()
            except DataError as error:
                bad[file] = str(error)
        return bad

    def _drop_unreadable(self, skip: bool) -> None:
        lines = list(self.unreadable.values())
        listed = "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
        if not skip:
            raise DataError(
                f"folder: {len(lines)} of {len(self.files)} images in {self.path} cannot be read: {listed}. Repair or "
                "remove them, or leave them out with skip_unreadable=True (`minidl train --skip-unreadable`)."
            )
        warnings.warn(f"folder: left out {len(lines)} of {len(self.files)} images: {listed}", stacklevel=3)
        keep = np.array([file not in self.unreadable for file in self.files], bool)
        lost = set(self.labels.tolist()) - set(self.labels[keep].tolist())
        if lost:
            name = self.class_names[min(lost)]
            raise DataError(f"folder: class {name!r} in {self.path} has no readable image: {listed}")
        self._keep(np.flatnonzero(keep))

    def _keep(self, index: Array) -> None:
        self.files = [self.files[i] for i in index]
        self.labels = self.labels[index]


def read_image(
    file: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    resize: int | None = None,
    grayscale: bool = False,
    max_pixels: int = 64_000_000,
) -> Array:
    """One image file as uint8 (C, H, W): upright, RGB or grey, and resized and cut to ``size`` if that is given.

    Raises:
        DataError: the file cannot be read, is damaged, or has more than ``max_pixels`` pixels.
    """
    from PIL import ImageOps

    image = _open(file, max_pixels)
    try:
        with image:
            if size is not None:
                # A JPEG decodes at 1/2, 1/4 or 1/8 size for a fraction of the time; twice what is needed loses nothing.
                image.draft(None, (2 * (resize or max(size)), 2 * (resize or max(size))))
            upright = ImageOps.exif_transpose(image)
            upright = _eight_bit(upright).convert("L" if grayscale else "RGB")
            if size is not None:
                h, w = size
                side = resize or max(size)
                scale = side / min(upright.size)
                scaled = (max(side, round(upright.width * scale)), max(side, round(upright.height * scale)))
                if upright.size != scaled:
                    upright = _resize_and_cut(upright, scaled, (w, h))
                else:
                    upright = _cut(upright, (w, h))
            pixels = np.asarray(upright, np.uint8)
    except Exception as error:  # Pillow's decoders raise nearly anything: OSError, SyntaxError, struct.error, ...
        raise DataError(f"{file}: cannot be decoded ({type(error).__name__}: {str(error)[:100]})") from None
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _open(file: str | os.PathLike[str], max_pixels: int) -> Image.Image:
    """Open an image without decoding it; a DataError if that fails or it claims to be too large."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow's own limit only warns at first; ours, below, is lower and always an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
    except Exception as error:
        empty = isinstance(error, OSError) and os.path.isfile(file) and os.path.getsize(file) == 0
        reason = "the file is empty" if empty else f"{type(error).__name__}: {str(error)[:100]}"
        raise DataError(f"{file}: is not a readable image ({reason})") from None
    if image.width * image.height > max_pixels:
        found = f"{image.width} x {image.height}"
        image.close()
        raise DataError(f"{file}: {found} pixels, more than max_pixels={max_pixels:,}; shrink it or raise the limit")
    return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """16- and 32-bit grey images scaled to 8 bits; Pillow's own conversion clips them."""
    if not image.mode.startswith(("I", "F")):
        return image
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I"):
        values = values / 257  # 65,535 -> 255
    elif values.max(initial=0) <= 1:
        values = values * 255
    return Image.fromarray(np.clip(np.rint(np.nan_to_num(values)), 0, 255).astype(np.uint8))


def _resize_and_cut(image: Image.Image, scaled: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """Resize to ``scaled`` and cut ``size`` from the middle, computing only the part that is kept."""
    from PIL import Image

    left, top = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    fx, fy = image.width / scaled[0], image.height / scaled[1]
    box = (left * fx, top * fy, min((left + size[0]) * fx, image.width), min((top + size[1]) * fy, image.height))
    return image.resize(size, Image.Resampling.BILINEAR, box=box)


def _cut(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    return image.crop((left, top, left + size[0], top + size[1]))


def _class_folders(source: Path) -> tuple[str, ...]:
    names = tuple(sorted(entry.name for entry in source.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    if not names:
        raise DataError(f"folder: {source} has no sub-folders; expected one folder of images per class inside it")
    return names


def _image_files(folder: Path) -> list[Path]:
    """The image files in and below ``folder``, sorted, so that the order does not depend on the file system."""
    found = []
    for parent, _, names in os.walk(folder):
        found += [
            Path(parent, name)
            for name in names
            if os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith(".")
        ]
    return sorted(found)


def load_folder(path: str | os.PathLike[str], split: str = "train", **options: Any) -> ImageFolder:
    """:class:`ImageFolder` with its class names checked against the other split's."""
    dataset = ImageFolder(path, split, **options)
    other = ImageFolder._source(dataset, "test" if split == "train" else "train")[0]
    names = _class_folders(other)
    if names != dataset.class_names:
        odd = sorted(set(names) ^ set(dataset.class_names))[0]
        raise DataError(f"folder: {path} has a class {odd!r} in one split only; both need the same sub-folders")
    return dataset
