"""PNG and JPEG pictures, decoded by Pillow: sizes are checked before anything is decoded.

Grey pictures have one channel, coloured ones three; among coloured ones a grey picture counts as coloured. Palettes are
looked up. A turn that a camera wrote beside the picture (EXIF) is not applied.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, overload

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import BadInput, MissingDependency

Result = TypeVar("Result")

FORMATS = ("PNG", "JPEG")
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")

MAX_PICTURE_PIXELS = 1 << 26
"""No picture of more pixels is decoded (8192 x 8192)."""

CHANNELS = {"1": 1, "L": 1, "P": 3, "RGB": 3}
"""Channels of each Pillow mode that is read."""

THREADS = min(8, os.cpu_count() or 1)
CHUNK = 64
"""Pictures that a thread decodes at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One encoded picture: a name for messages, and how to open its bytes."""

    name: str
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures(Sequence[Picture]):
    """Pictures that are not decoded yet; a slice of them is `Pictures`, too. `origin` is the file or folder."""

    origin: str
    items: Sequence[Picture]

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> "Pictures": ...
    def __getitem__(self, index: int | slice) -> "Picture | Pictures":
        if isinstance(index, slice):
            return Pictures(origin=self.origin, items=self.items[index])
        return self.items[index]


def is_picture(data: bytes) -> bool:
    """Whether `data` begins as a PNG or JPEG file does."""
    return data.startswith(SIGNATURES)


def decode_pictures(pictures: Pictures, max_bytes: int) -> Array:
    """The pixels of one or more pictures of one size, uint8 (N, H, W, C) with C = 1 or 3.

    Every header is read before the first picture is decoded. Raises BadInput, naming the picture, where one is
    damaged, neither PNG nor JPEG, transparent, of another kind than 8 bits a channel, larger than
    `MAX_PICTURE_PIXELS` or of another size than the first, and where all together exceed `max_bytes`;
    MissingDependency without Pillow.
    """
    pillow = _pillow(pictures.origin)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pillow.DecompressionBombWarning)
        shapes = [_read(pillow, picture, _shape) for picture in pictures]
    _check_sizes(pictures, shapes)
    channels = max(shape[2] for shape in shapes)
    total = len(shapes) * shapes[0][0] * shapes[0][1] * channels
    if total > max_bytes:
        raise BadInput(
            f"{pictures.origin}: {len(shapes)} pictures decode to {total} bytes, at most {max_bytes} are read; "
            "take fewer of them"
        )
    pixels = np.empty((len(shapes), *shapes[0][:2], channels), np.uint8)

    def decode_chunk(start: int) -> None:
        for index in range(start, min(start + CHUNK, len(pixels))):
            pixels[index] = _decode(pillow, pictures[index], shapes[index], channels)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(decode_chunk, range(0, len(pixels), CHUNK)))
    return pixels


def _check_sizes(pictures: Pictures, shapes: Sequence[tuple[int, int, int]]) -> None:
    height, width, _ = shapes[0]
    for picture, shape in zip(pictures, shapes, strict=True):
        if shape[:2] != (height, width):
            raise BadInput(
                f"{picture.name}: {shape[1]} x {shape[0]} pixels, but {pictures[0].name} has {width} x {height}; "
                "bring all pictures to one size"
            )


def _pillow(origin: str) -> Any:
    try:
        from PIL import Image  # noqa: PLC0415 - needed for pictures only
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"{origin}: reading PNG and JPEG needs Pillow, which is not installed; "
            "install it with: pip install 'bnhw[images]'"
        ) from error
    return Image


def _decode(pillow: Any, picture: Picture, shape: tuple[int, int, int], channels: int) -> Array:
    """The pixels (H, W, channels) of a picture whose header said `shape` before."""

    def decode(image: Any) -> Array:
        if _shape(image) != shape:
            raise ValueError("it has changed while it was read")
        return np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(*shape[:2], channels)

    return _read(pillow, picture, decode)


def _read(pillow: Any, picture: Picture, use: Callable[[Any], Result]) -> Result:
    """What `use` makes of the opened picture; Pillow's errors become BadInput."""
    try:
        with picture.open() as file, pillow.open(file, formats=FORMATS) as image:
            return use(image)
    except pillow.UnidentifiedImageError as error:
        raise BadInput(f"{picture.name}: is neither a PNG nor a JPEG picture, or a damaged one") from error
    except Exception as error:  # on a damaged picture Pillow raises errors of many kinds
        raise BadInput(f"{picture.name}: not a readable PNG or JPEG picture ({error})") from error


def _shape(image: Any) -> tuple[int, int, int]:
    """(height, width, channels) by the header. Raises ValueError where it is not to be decoded."""
    width, height = image.size
    if width * height > MAX_PICTURE_PIXELS:
        raise ValueError(f"{width} x {height} pixels, at most {MAX_PICTURE_PIXELS} are decoded")
    channels = CHANNELS.get(image.mode)
    if channels is None or "transparency" in image.info:
        found = f"{image.mode} with transparency" if channels else f"mode {image.mode}"
        raise ValueError(f"{found}; 8-bit grey or RGB without transparency is expected")
    return height, width, channels
