"""Image files: what can be read, and checked before it is used.

`.npz` with `images` (uint8, (N, H, W, C) or (N, H, W)) and optionally `labels`, or `.npy` with the images alone.
No pickled object is ever loaded.
"""

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.files import read_file

MAX_IMAGE_BYTES = 8 << 30
"""No image file is read that unpacks to more than 8 GiB."""

IMAGE_KEYS = ("images", "test_images")
LABEL_KEYS = ("labels", "test_labels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Pixels uint8 (N, H, W, C) or (N, H, W) and, where the file has them, labels int64 (N,)."""

    pixels: Array
    labels: Array | None

    def part(self, skip: int, limit: int | None) -> "Images":
        """At most `limit` images behind the first `skip`."""
        chosen = slice(skip, None if limit is None else skip + limit)
        return Images(pixels=self.pixels[chosen], labels=None if self.labels is None else self.labels[chosen])

    def with_labels(self, labels: Array) -> "Images":
        """The same images with other labels."""
        return Images(pixels=self.pixels, labels=labels)


def read_images(path: Path) -> Images:
    """Read images and labels.

    Raises BadInput, naming the file, what was found and what was expected, for a missing or damaged file,
    another kind of file, pickled objects, and pixels that are not uint8.
    """
    data = read_file(path, missing="images are expected as .npz (images, labels) or .npy", max_bytes=MAX_IMAGE_BYTES)
    if path.suffix == ".npz":
        arrays = _read_npz(path, data)
        pixels = _named(arrays, IMAGE_KEYS)
        if pixels is None:
            raise BadInput(f"{path}: has no array {IMAGE_KEYS[0]!r}; save it with numpy.savez(path, images=...)")
        labels = _named(arrays, LABEL_KEYS)
    elif path.suffix == ".npy":
        pixels, labels = _read_npy(path, data), None
    else:
        raise BadInput(f"{path}: images are read from .npz (images, labels) or .npy, not from {path.suffix!r} files")
    return Images(pixels=_check_pixels(path, pixels), labels=_check_labels(path, labels, len(pixels)))


def read_labels(path: Path, count: int) -> Array:
    """Labels from a `.npy` or `.npz` of their own; int64 (count,). Errors as in `read_images`."""
    data = read_file(path, missing="labels are expected as .npy or .npz (labels)", max_bytes=MAX_IMAGE_BYTES)
    found = _named(_read_npz(path, data), LABEL_KEYS) if path.suffix == ".npz" else _read_npy(path, data)
    labels = _check_labels(path, found, count)
    if labels is None:
        raise BadInput(f"{path}: has no array {LABEL_KEYS[0]!r}")
    return labels


def _read_npz(path: Path, data: bytes) -> dict[str, Array]:
    """The arrays of images and labels only; sizes are checked before anything is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > MAX_IMAGE_BYTES:
                raise BadInput(
                    f"{path}: unpacks to {unpacked} bytes, at most {MAX_IMAGE_BYTES} are read; split the file"
                )
            names = [name for name in (*IMAGE_KEYS, *LABEL_KEYS) if f"{name}.npy" in archive.namelist()]
            return {name: _parse_array(archive.read(f"{name}.npy")) for name in names}
    except BadInput:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise errors of many kinds for a damaged file
        raise BadInput(f"{path}: not a readable .npz file ({error}); save it with numpy.savez") from error


def _read_npy(path: Path, data: bytes) -> Array:
    try:
        return _parse_array(data)
    except Exception as error:  # as above
        raise BadInput(f"{path}: not a readable .npy file ({error}); save it with numpy.save") from error


def _parse_array(data: bytes) -> Array:
    """The array in the bytes of a `.npy` file, without a copy: a header that claims more than is there is an error.

    Raises ValueError, or what numpy raises, for anything but one array of plain numbers.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are never loaded")
    count, start = math.prod(shape), file.tell()
    if min(shape, default=0) < 0 or count * dtype.itemsize != len(data) - start:
        raise ValueError(f"its header says {dtype} {shape}, behind it are {len(data) - start} bytes")
    return np.frombuffer(data, dtype, count, start).reshape(shape, order="F" if by_columns else "C")


def _named(arrays: dict[str, Array], keys: tuple[str, ...]) -> Array | None:
    return next((arrays[key] for key in keys if key in arrays), None)


def _check_pixels(path: Path, pixels: Array) -> Array:
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


def _check_labels(path: Path, labels: Array | None, count: int) -> Array | None:
    if labels is None:
        return None
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise BadInput(
            f"{path}: labels are {labels.dtype} of shape {labels.shape}; {count} integers are expected, one an image"
        )
    return labels.astype(np.int64)


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
