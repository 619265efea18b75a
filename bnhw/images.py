"""Images as the commands take them: read and checked, then fitted to a program."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.image_files.content import Split
from bnhw.image_files.formats import read_label_file
from bnhw.image_files.source import read_stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Pixels uint8 (N, H, W, C), (N, H, W) or (N, features) and, where there are any, labels int64 (N,)."""

    pixels: Array
    labels: Array | None


def read_images(
    path: Path, *, split: Split = "test", labels: Path | None = None, skip: int = 0, limit: int | None = None
) -> Images:
    """At most `limit` images behind the first `skip`; only these are decoded.

    path: a file or folder, see `bnhw/image_files/`. split: which images, where it holds training and test images.
    labels: a file of labels for all images, in place of those that come with them.

    Raises BadInput, naming the file, what was found and what was expected, for a missing or damaged file, another kind
    of file, pickled objects, pixels that are not uint8, and where no image is left; MissingDependency for pictures
    without Pillow.
    """
    stored = read_stored(path, split)
    count = len(stored.pixels)
    if skip >= count:
        raise BadInput(f"{path}: --skip {skip} leaves none of its {count} images")
    if labels is not None:
        stored = replace(stored, labels=read_label_file(labels, count))
    part = stored.part(skip, limit)
    return Images(pixels=part.decode(), labels=part.labels)


def fit_pixels(pixels: Array, shape: tuple[int, int, int]) -> Array:
    """`pixels` as uint8 (images, height, width, channels) with `shape` = (height, width, channels).

    The axis of one channel may be missing. Where flat features are expected, (1, 1, features), images of one channel
    with as many pixels are taken row by row. Raises BadInput, naming what was found and expected, on any other shape
    or type, and where there is no image.
    """
    height, width, channels = shape
    if pixels.dtype != np.uint8:
        raise BadInput(
            f"images are {pixels.dtype}; uint8 pixels 0..255 are expected. The program contains the normalisation: "
            "hand over the raw pixels"
        )
    one_channel = pixels.ndim in (2, 3) or (pixels.ndim == 4 and pixels.shape[3] == 1)
    if height == width == 1 and one_channel and pixels[:1].size == channels:
        pixels = pixels.reshape(-1, 1, 1, channels)
    elif channels == 1 and pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[1:] != shape:
        raise BadInput(
            f"images have the shape {pixels.shape}; expected (images, height, width, channels) = "
            f"(N, {', '.join(map(str, shape))})"
            + (", the order of the axes is another" if _is_channels_first(pixels, shape) else "")
        )
    if not len(pixels):
        raise BadInput("there are no images: the first axis has length 0")
    return pixels


def _is_channels_first(pixels: Array, shape: tuple[int, int, int]) -> bool:
    return pixels.ndim == 4 and pixels.shape[1:] == (shape[2], shape[0], shape[1])
