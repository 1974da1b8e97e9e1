"""Views of a picture: what a test looks at beside the picture itself, and how much each view counts."""

from __future__ import annotations

import dataclasses
from typing import Any

import minidl
from minidl.data import transforms
from minidl.errors import ConfigError
from minidl.nn import functional as F
from minidl.ops.shape import stack

Array = Any
KINDS = {"none": 1, "flip": 2, "shift": 6, "ten-crop": 10}  # and how many views each has


@dataclasses.dataclass(frozen=True)
class Views:
    """One kind of views; the prediction for a picture is the weighted mean of the probabilities of all its views.

    * none: the picture.
    * flip: the picture and its mirror image.
    * shift: the picture, and two copies moved by ``pixels`` (1) down and right, and up and left, with a mirrored border; these
      two count half.  And their mirror images: 6 views (Jordan 2024, arXiv:2404.00498).
    * ten-crop: the corners and the centre, and their mirror images (Krizhevsky, Sutskever and Hinton 2012, section 4.1).  A
      picture that is not larger than what the net takes first gets a black margin of ``pixels`` (an eighth of its size) on
      all sides, as training with shifted images gives it.
    """

    kind: str = "none"
    pixels: int | None = None

    @classmethod
    def parse(cls, text: str | int | Views) -> Views:
        """From ``"flip"``, ``"shift:2"``, or the number of views of none, flip and ten-crop.

        Raises:
            ConfigError: anything else.
        """
        if isinstance(text, Views):
            return text
        counts = {"1": "none", "2": "flip", "10": "ten-crop"}
        kind, colon, pixels = counts.get(str(text), str(text)).partition(":")
        if kind not in KINDS or (colon and (kind not in ("shift", "ten-crop") or not pixels.isdecimal() or not int(pixels))):
            raise ConfigError(
                "tta: expected 1, 2 (and mirrored) or 10 (corners and centre, mirrored) views, or none, flip, shift or ten-crop, "
                f"the last two also with a number of pixels as in shift:2, got {text!r}"
            )
        return cls(kind, int(pixels) if colon else None)

    def __str__(self) -> str:
        return self.kind if self.pixels is None else f"{self.kind}:{self.pixels}"

    @property
    def count(self) -> int:
        """How many there are of each picture."""
        return KINDS[self.kind]

    @property
    def weights(self) -> tuple[float, ...] | None:
        """How much each counts, with sum 1; None: all alike."""
        return (0.25, 0.125, 0.125) * 2 if self.kind == "shift" else None

    def cut(self, images: Array, size: tuple[int, int]) -> Array:
        """(N, C, H, W) -> (N, count, C, h, w) for ``size`` = (h, w); larger images are ten-crop's only."""
        rng: Any = None  # nothing here is random
        if self.kind == "ten-crop":
            if images.shape[-2:] == size:
                margin = self.pixels or max(1, max(size) // 8)
                images = F.pad(minidl.from_numpy(images), (margin,) * 4).numpy()
            return transforms.TenCrop(size)(images, rng)
        if self.kind == "none":
            return images[:, None]
        viewed = [images, *(self._moved(images) if self.kind == "shift" else ())]
        mirrored = [view[..., ::-1].copy() for view in viewed]
        return stack([minidl.from_numpy(view) for view in viewed + mirrored], 1).numpy()

    def _moved(self, images: Array) -> list[Array]:
        """The images moved down and right, and up and left."""
        p = self.pixels or 1
        h, w = images.shape[-2:]
        if p >= min(h, w):
            raise ConfigError(f"tta: shift:{p} needs images of more than {p} pixels, got {h}x{w}")
        wide = F.pad(minidl.from_numpy(images), (p,) * 4, mode="reflect").numpy()
        return [wide[..., :h, :w].copy(), wide[..., 2 * p :, 2 * p :].copy()]
