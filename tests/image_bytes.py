"""Bytes of image files, written without the code under test."""

import io
import pickle
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def random_pixels(*shape: int, seed: int = 0) -> Pixels:
    """Random pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def idx(values: Pixels, *, kind: int = 8) -> bytes:
    """An IDX file."""
    return bytes((0, 0, kind, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def planes(pixels: Pixels) -> Pixels:
    """Images (N, 32, 32, 3) as rows of 3072 bytes, plane by plane."""
    return np.stack([np.concatenate([image[..., colour].ravel() for colour in range(3)]) for image in pixels])


def cifar_binary(pixels: Pixels, *labels: list[int]) -> bytes:
    """A binary batch, with one or two labels a record."""
    rows = planes(pixels)
    return b"".join(bytes(values[:-1]) + values[-1] for values in zip(*labels, map(bytes, rows), strict=True))


def python2_batch(pixels: Pixels, labels: list[int], *, key: str = "labels") -> bytes:
    """A python batch as Python 2 pickled the published ones: byte strings, protocol 2."""
    rows = planes(pixels)
    shape = b"K\x01" + _integer(len(rows)) + _integer(3072) + b"\x86q\x0b"
    details = b"(K\x03U\x01|q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b"
    dtype = b"cnumpy\ndtype\nq\x0cU\x02u1q\rK\x00K\x01\x87Rq\x0e" + details
    values = b"T" + struct.pack("<i", rows.size) + rows.tobytes() + b"q\x11"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85q\x08U\x01bq\t\x87Rq\n("
        + shape + dtype + b"\x89" + values + b"tq\x12b"
    )  # fmt: skip
    listed = b"]q\x05(" + b"".join(map(_integer, labels)) + b"e"
    names = b"]q\x13(" + b"".join(b"U\x05a.png" for _ in labels) + b"e"
    entries = (
        (b"batch_label", b"U\x05firstq\x03"),
        (key.encode(), listed),
        (b"data", array),
        (b"filenames", names),
    )
    body = b"".join(b"U" + bytes((len(name),)) + name + value for name, value in entries)
    return b"\x80\x02}q\x01(" + body + b"u."


def python3_batch(pixels: Pixels, labels: Any, *, protocol: int, key: str = "labels") -> bytes:
    """The same as a newer Python and numpy save it."""
    return pickle.dumps({"data": planes(pixels), key: labels, "filenames": ["ä.png"] * len(pixels)}, protocol)


def picture(pixels: Pixels, kind: str = "PNG", **options: Any) -> bytes:
    """A PNG or JPEG file of pixels (H, W) or (H, W, C)."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def _integer(value: int) -> bytes:
    return b"K" + bytes((value,)) if value < 256 else b"M" + struct.pack("<H", value)
