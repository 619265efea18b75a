"""The files of images that are read, in one table, each recognised by its content."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.files import read_file
from bnhw.image_files import content
from bnhw.image_files.cifar_binary import is_cifar_binary, read_cifar_binary
from bnhw.image_files.cifar_python import is_pickle, read_cifar_python
from bnhw.image_files.content import Split, StoredImages, check_labels
from bnhw.image_files.idx import is_gzip, is_idx, read_idx, read_idx_labels
from bnhw.image_files.numpy_arrays import is_npy, is_npz, read_npy, read_npy_labels, read_npz, read_npz_labels
from bnhw.image_files.pictures import Picture, Pictures, is_picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A kind of file: `endings` decide only where no content does, that is, for damaged files."""

    name: str
    endings: tuple[str, ...]
    fits: Callable[[bytes], bool]
    read: Callable[[Path, bytes, Split], StoredImages]
    read_labels: Callable[[Path, bytes], Array] | None = None


def _read_picture(path: Path, data: bytes, split: Split) -> StoredImages:
    picture = Picture(name=str(path), open=partial(io.BytesIO, data))
    return StoredImages(pixels=Pictures(origin=str(path), items=(picture,)), labels=None)


FORMATS = (
    Format(name=".npz", endings=(".npz",), fits=is_npz, read=read_npz, read_labels=read_npz_labels),
    Format(name=".npy", endings=(".npy",), fits=is_npy, read=read_npy, read_labels=read_npy_labels),
    Format(name="PNG or JPEG", endings=(".png", ".jpg", ".jpeg"), fits=is_picture, read=_read_picture),
    Format(name="IDX, compressed", endings=(".gz",), fits=is_gzip, read=read_idx, read_labels=read_idx_labels),
    Format(name="IDX", endings=(), fits=is_idx, read=read_idx, read_labels=read_idx_labels),
    Format(name="CIFAR python batch", endings=(), fits=is_pickle, read=read_cifar_python),
    Format(name="CIFAR binary batch", endings=(), fits=is_cifar_binary, read=read_cifar_binary),
)
"""The first that fits is read."""


def read_image_file(path: Path, split: Split) -> StoredImages:
    """The images of a file; of one that holds training and test images, those of `split`.

    Raises BadInput, naming the file, what was found and what was expected.
    """
    missing = f"images are expected as {', '.join(kind.name for kind in FORMATS)}, or a folder"
    data = read_file(path, missing=missing, max_bytes=content.MAX_IMAGE_BYTES)
    return _format(path, data).read(path, data, split)


def read_label_file(path: Path, count: int) -> Array:
    """Labels, int64 (count,), of a file of their own. Raises BadInput as `read_image_file` does."""
    expected = ", ".join(kind.name for kind in FORMATS if kind.read_labels)
    data = read_file(path, missing=f"labels are expected as {expected}", max_bytes=content.MAX_IMAGE_BYTES)
    kind = _format(path, data)
    if kind.read_labels is None:
        raise BadInput(f"{path}: is a {kind.name} file; labels of their own are expected as {expected}")
    return check_labels(path, kind.read_labels(path, data), count)


def _format(path: Path, data: bytes) -> Format:
    by_content = next((kind for kind in FORMATS if kind.fits(data)), None)
    by_name = next((kind for kind in FORMATS if path.suffix.lower() in kind.endings), None)
    found = by_content or by_name
    if found is None:
        raise BadInput(
            f"{path}: {len(data)} bytes that begin with '{data[:8].hex(' ')}' are of no known kind; expected is one of "
            + ", ".join(kind.name for kind in FORMATS)
        )
    return found
