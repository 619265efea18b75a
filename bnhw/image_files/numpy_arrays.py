"""`.npz` and `.npy` files. No pickled object is ever loaded, and no header believed.

An `.npz` holds `images` and optionally `labels`; or `train_images`, `test_images` and their labels (also as `x_train`,
`y_train`, ...); or pictures as `jpeg_bytes` (uint8), `offsets` (N + 1) and `labels`: picture k is
jpeg_bytes[offsets[k]:offsets[k + 1]].
"""

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.image_files import content
from bnhw.image_files.content import Split, StoredImages, check_labels, check_pixels
from bnhw.image_files.pictures import Picture, Pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Names of the arrays that belong together, and the part of a data set that they are."""

    images: str
    labels: str
    split: Split | None = None


KEYS = (
    Keys(images="images", labels="labels"),
    Keys(images="jpeg_bytes", labels="labels"),
    Keys(images="train_images", labels="train_labels", split="train"),
    Keys(images="test_images", labels="test_labels", split="test"),
    Keys(images="x_train", labels="y_train", split="train"),
    Keys(images="x_test", labels="y_test", split="test"),
)
"""What an `.npz` may hold; the first that it does and that is of the split asked for is read."""

OFFSETS = "offsets"


def is_npz(data: bytes) -> bool:
    """Whether this is a zip archive."""
    return data.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def is_npy(data: bytes) -> bool:
    """Whether this is one array of numpy's."""
    return data.startswith(b"\x93NUMPY")


def read_npz(path: Path, data: bytes, split: Split) -> StoredImages:
    """The images of the split asked for, or all where the file knows no splits. Raises BadInput."""
    with_names = _open(path, data)
    found = [keys for keys in KEYS if keys.images in with_names]
    if not found:
        raise BadInput(f"{path}: has no array 'images'; save it with numpy.savez(path, images=...)")
    keys = next((keys for keys in found if keys.split in (None, split)), None)
    if keys is None:
        raise BadInput(f"{path}: has {found[0].images}, but no {split} images; hand over a file that has them")
    wanted = {keys.images, keys.labels, *([OFFSETS] if keys.images == "jpeg_bytes" else [])}
    arrays = _read(path, data, wanted)
    if keys.images == "jpeg_bytes":
        pixels: Array | Pictures = _encoded(path, arrays)
    else:
        pixels = check_pixels(path, arrays[keys.images])
    labels = check_labels(path, arrays[keys.labels], len(pixels)) if keys.labels in arrays else None
    return StoredImages(pixels=pixels, labels=labels, split=keys.split)


def read_npy(path: Path, data: bytes, split: Split) -> StoredImages:
    """The images of a file that is one array. Raises BadInput."""
    return StoredImages(pixels=check_pixels(path, _array(path, data)), labels=None)


def read_npz_labels(path: Path, data: bytes) -> Array:
    """The array `labels`, or `test_labels`. Raises BadInput."""
    names = _open(path, data)
    name = next((keys.labels for keys in KEYS if keys.split != "train" and keys.labels in names), None)
    if name is None:
        raise BadInput(f"{path}: has no array 'labels'")
    return _read(path, data, {name})[name]


def read_npy_labels(path: Path, data: bytes) -> Array:
    """The one array. Raises BadInput."""
    return _array(path, data)


def _open(path: Path, data: bytes) -> set[str]:
    """The names of all arrays; their sizes together are checked before anything is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            names = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
    except Exception as error:  # zipfile raises errors of many kinds for a damaged file
        raise _damaged(path, error) from error
    if unpacked > content.MAX_IMAGE_BYTES:
        raise BadInput(
            f"{path}: unpacks to {unpacked} bytes, at most {content.MAX_IMAGE_BYTES} are read; split the file"
        )
    return names


def _read(path: Path, data: bytes, names: set[str]) -> Mapping[str, Array]:
    """Those arrays of `names` that the file has."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            present = sorted(name for name in names if f"{name}.npy" in archive.namelist())
            return {name: _parse_array(archive.read(f"{name}.npy")) for name in present}
    except Exception as error:  # so do zlib and numpy
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path}: not a readable .npz file ({error}); save it with numpy.savez")


def _array(path: Path, data: bytes) -> Array:
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


def _encoded(path: Path, arrays: Mapping[str, Array]) -> Pictures:
    data, offsets = arrays["jpeg_bytes"], arrays.get(OFFSETS)
    if data.dtype != np.uint8 or data.ndim != 1:
        raise BadInput(f"{path}: jpeg_bytes is {data.dtype} of shape {data.shape}; uint8 of one axis is expected")
    if offsets is None or offsets.dtype.kind not in "iu" or offsets.ndim != 1 or len(offsets) < 2:
        found = "missing" if offsets is None else f"{offsets.dtype} of shape {offsets.shape}"
        raise BadInput(f"{path}: offsets is {found}; where each picture begins, and the end, are expected (N + 1)")
    if offsets[0] != 0 or offsets[-1] != len(data) or (offsets[1:] < offsets[:-1]).any():
        raise BadInput(f"{path}: offsets do not rise from 0 to {len(data)}, the length of jpeg_bytes")
    view, bounds = np.ascontiguousarray(data).data, offsets.tolist()
    items = [
        Picture(name=f"{path}: picture {index}", open=partial(io.BytesIO, view[start:stop]))
        for index, (start, stop) in enumerate(pairwise(bounds))
    ]
    return Pictures(origin=str(path), items=items)
