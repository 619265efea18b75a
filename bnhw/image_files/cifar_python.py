"""Python batches of CIFAR-10 and CIFAR-100: a pickled dict, read by `pickles.py`.

`data` is uint8 (N, 3072), plane by plane; `labels` (CIFAR-10) or `fine_labels` (CIFAR-100) lists N integers. Other
entries are passed over. https://www.cs.toronto.edu/~kriz/cifar.html
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.image_files.cifar_binary import PIXELS, planes_to_pixels
from bnhw.image_files.class_names import CIFAR10_CLASSES, CIFAR100_CLASSES
from bnhw.image_files.content import Split, StoredImages, check_label_range, check_labels
from bnhw.image_files.pickles import Refused, read_pickled_dict

MAX_BATCH_BYTES = 1 << 28
"""No larger batch is read; that of CIFAR-100 has 155 MB."""

LABELS = {"labels": CIFAR10_CLASSES, "fine_labels": CIFAR100_CLASSES}
"""The classes that each list of labels means."""


def is_pickle(data: bytes) -> bool:
    """Whether this begins as a pickle of protocol 2 to 5 does, and ends as all do."""
    return len(data) > 2 and data[0] == 0x80 and 2 <= data[1] <= 5 and data.endswith(b".")


def read_cifar_python(path: Path, data: bytes, split: Split) -> StoredImages:
    """The images as a view of `data`, (N, 32, 32, 3), and the (fine) labels. Raises BadInput."""
    if len(data) > MAX_BATCH_BYTES:
        raise BadInput(f"{path}: {len(data)} bytes, at most {MAX_BATCH_BYTES} are read of a pickled batch")
    try:
        batch = read_pickled_dict(data)
    except Refused as error:
        raise BadInput(f"{path}: not a python batch of CIFAR ({error})") from error
    planes = batch.get("data")
    if (
        not isinstance(planes, np.ndarray)
        or planes.dtype != np.uint8
        or planes.shape[1:] != (PIXELS,)
        or not len(planes)
    ):
        found = f"{planes.dtype} {planes.shape}" if isinstance(planes, np.ndarray) else type(planes).__name__
        raise BadInput(f"{path}: not a python batch of CIFAR (data is {found}; uint8 (N, {PIXELS}) is expected)")
    key = next((key for key in LABELS if key in batch), None)
    if key is None:
        return StoredImages(pixels=planes_to_pixels(planes), labels=None)
    labels = check_labels(path, _integers(path, batch[key]), len(planes))
    check_label_range(path, labels, len(LABELS[key]))
    return StoredImages(pixels=planes_to_pixels(planes), labels=labels, classes=LABELS[key])


def _integers(path: Path, labels: Any) -> Array:
    if isinstance(labels, np.ndarray):
        return labels
    if not isinstance(labels, Sequence) or not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise BadInput(f"{path}: not a python batch of CIFAR (its labels are no list of small integers)")
    return np.array(labels, np.int64)
