"""What a file of images holds, before it is decoded."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.image_files.pictures import Pictures, decode_pictures

MAX_IMAGE_BYTES = 8 << 30
"""No image file is read that unpacks to more than 8 GiB."""

MAX_CLASSES = 100_000
"""Labels are smaller than this."""

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImages:
    """Images of one file or folder.

    pixels: uint8 (N, H, W, C), (N, H, W) or (N, features), often a view of the file's bytes, or pictures that are not
    decoded yet. labels: int64 (N,). classes: their names, where the format knows them. split: what part of a data set
    these images are, where the file tells the parts apart.
    """

    pixels: Array | Pictures
    labels: Array | None
    classes: tuple[str, ...] | None = None
    split: Split | None = None

    def part(self, skip: int, limit: int | None) -> "StoredImages":
        """At most `limit` images behind the first `skip`; nothing is copied or decoded."""
        chosen = slice(skip, None if limit is None else skip + limit)
        return replace(self, pixels=self.pixels[chosen], labels=None if self.labels is None else self.labels[chosen])

    def decode(self) -> Array:
        """The pixels; pictures are decoded. Raises BadInput as `decode_pictures` does."""
        return decode_pictures(self.pixels, MAX_IMAGE_BYTES) if isinstance(self.pixels, Pictures) else self.pixels


def check_pixels(path: Path, pixels: Array) -> Array:
    """`pixels`, which are uint8 and at least one. Raises BadInput otherwise."""
    if pixels.dtype != np.uint8:
        span = f", {pixels.min()} to {pixels.max()}" if pixels.size and pixels.dtype.kind in "iuf" else ""
        raise BadInput(
            f"{path}: images are {pixels.dtype}{span}; uint8 pixels 0..255 are expected, as they come from the camera "
            "(the network contains the normalisation)"
        )
    if pixels.ndim not in (2, 3, 4) or not pixels.size:
        raise BadInput(
            f"{path}: images have the shape {pixels.shape}; (N, H, W, C), (N, H, W) or flat (N, features) is expected"
        )
    return pixels


def check_labels(path: Path, labels: Array, count: int) -> Array:
    """`labels` as int64 (count,). Raises BadInput where they are no integers or another number."""
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise BadInput(
            f"{path}: labels are {labels.dtype} of shape {labels.shape}; {count} integers are expected, one an image"
        )
    return labels.astype(np.int64)


def check_label_range(path: Path, labels: Array, classes: int) -> None:
    """Raise BadInput unless all `labels` (N,) are 0 to classes - 1."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise BadInput(
            f"{path}: labels are {labels.min()} to {labels.max()}; 0 to {classes - 1} are expected ({classes} classes)"
        )
