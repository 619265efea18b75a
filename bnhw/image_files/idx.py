"""IDX files, the format of MNIST: 0, 0, type, number of axes; their lengths, big-endian uint32; the values.

Also compressed with gzip. Images are uint8 (N, H, W), labels uint8 (N,).
"""

import gzip
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.image_files import content
from bnhw.image_files.cifar_binary import is_cifar_binary
from bnhw.image_files.content import Split, StoredImages, check_pixels

GZIP = b"\x1f\x8b"
UINT8 = 0x08
MAX_DEFLATE_RATIO = 1032
"""No byte of deflated data unpacks to more bytes."""

_LARGEST_HEADER = 4 + 4 * 255


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    shape: tuple[int, ...]
    bytes: int


def is_idx(data: bytes) -> bool:
    """Whether this begins as an IDX file of uint8, and not as CIFAR records with the same first bytes."""
    header = _header(data)
    return header is not None and (header.bytes + math.prod(header.shape) == len(data) or not is_cifar_binary(data))


def is_gzip(data: bytes) -> bool:
    """Whether this is compressed with gzip."""
    return data.startswith(GZIP)


def read_idx(path: Path, data: bytes, split: Split) -> StoredImages:
    """The images of a file of three axes. Raises BadInput."""
    return StoredImages(pixels=check_pixels(path, _values(path, data, axes=3)), labels=None)


def read_idx_labels(path: Path, data: bytes) -> Array:
    """The values of a file of one axis; uint8. Raises BadInput."""
    return _values(path, data, axes=1)


def _values(path: Path, data: bytes, *, axes: int) -> Array:
    start = _unzip(path, data, _LARGEST_HEADER) if is_gzip(data) else data[:_LARGEST_HEADER]
    header = _header(start)
    if header is None:
        advice = "; unpack an archive first (tar -xzf)" if start[:2] != bytes(2) else ""
        raise BadInput(f"{path}: begins with {start[:4].hex(' ')}; an IDX file of uint8 is expected{advice}")
    if len(header.shape) != axes:
        raise BadInput(f"{path}: its header says {header.shape}; images have the axes (N, H, W), labels (N,)")
    expected = header.bytes + math.prod(header.shape)
    if expected > content.MAX_IMAGE_BYTES:
        raise BadInput(f"{path}: holds {expected} bytes, at most {content.MAX_IMAGE_BYTES} are read; split the file")
    if is_gzip(data):
        if expected > MAX_DEFLATE_RATIO * len(data):
            raise BadInput(f"{path}: its header says {header.shape}, more than {len(data)} bytes can unpack to")
        data = _unzip(path, data, expected + 1)
    if len(data) != expected:
        raise BadInput(
            f"{path}: its header says {header.shape}, {expected} bytes in all; it has "
            f"{'more' if len(data) > expected else len(data)}; fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=header.bytes).reshape(header.shape)


def _header(data: bytes) -> _Header | None:
    if len(data) < 4 or data[:3] != bytes((0, 0, UINT8)) or not data[3] or len(data) < 4 + 4 * data[3]:
        return None
    lengths = np.frombuffer(data, ">u4", data[3], 4).tolist()
    return _Header(shape=tuple(lengths), bytes=4 + 4 * data[3])


def _unzip(path: Path, data: bytes, most: int) -> bytes:
    """At most `most` bytes of what is compressed."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return file.read(most)
    except Exception as error:  # gzip and zlib raise errors of several kinds
        raise BadInput(f"{path}: damaged gzip file ({error}); fetch it again") from error
