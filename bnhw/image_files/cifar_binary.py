"""Binary batches of CIFAR-10 and CIFAR-100: records of one length, without a header.

A record is the label (CIFAR-100: the coarse label, then the fine one) and 3072 pixels: 32 rows of 32, first all red,
then all green, then all blue. https://www.cs.toronto.edu/~kriz/cifar.html
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.image_files.class_names import CIFAR10_CLASSES, CIFAR100_CLASSES
from bnhw.image_files.content import Split, StoredImages

PIXELS = 3 * 32 * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the label bytes are: how many classes each has; the last is the label that is read."""

    label_classes: tuple[int, ...]
    classes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Length of a record."""
        return len(self.label_classes) + PIXELS


RECORDS = (
    Record(label_classes=(10,), classes=CIFAR10_CLASSES),
    Record(label_classes=(20, 100), classes=CIFAR100_CLASSES),
)


def is_cifar_binary(data: bytes) -> bool:
    """Whether this is a number of whole records with labels that exist."""
    return _record(data) is not None


def read_cifar_binary(path: Path, data: bytes, split: Split) -> StoredImages:
    """The images as a view of `data`, (N, 32, 32, 3), and the (fine) labels. Raises BadInput."""
    record = _record(data)
    if record is None:
        raise BadInput(f"{path}: not whole records of CIFAR-10 or CIFAR-100")
    table = np.frombuffer(data, np.uint8).reshape(-1, record.bytes)
    labels = table[:, len(record.label_classes) - 1].astype(np.int64)
    return StoredImages(
        pixels=planes_to_pixels(table[:, len(record.label_classes) :]), labels=labels, classes=record.classes
    )


def planes_to_pixels(planes: Array) -> Array:
    """Rows of 3072 pixels (N, 3072), plane by plane, as (N, 32, 32, 3); a view."""
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _record(data: bytes) -> Record | None:
    for record in RECORDS:
        if data and len(data) % record.bytes == 0:
            labels = np.frombuffer(data, np.uint8).reshape(-1, record.bytes)[:, : len(record.label_classes)]
            if (labels < np.array(record.label_classes)).all():
                return record
    return None
