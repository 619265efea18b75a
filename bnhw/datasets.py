"""Data sets for training: images, labels and the names of classes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.image_files.content import MAX_CLASSES, SPLITS, Split, StoredImages, check_label_range
from bnhw.image_files.layouts import CLASSES, looked_for
from bnhw.image_files.source import read_stored

DATASETS = tuple(CLASSES)
"""Data sets that can be asked for by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Labelled images; all arrays read-only.

    images: uint8 (N, H, W, C), contiguous, raw pixels. labels: int64 (N,), from 0 to len(classes) - 1. classes: their
    names; numbers where the source has none. split: `train` or `test`, None where the source does not tell them apart.
    """

    images: Array
    labels: Array
    classes: tuple[str, ...]
    split: Split | None

    def __len__(self) -> int:
        return len(self.images)


def load_dataset(path: Path, split: Split, *, name: str | None = None) -> Dataset:
    """The training or test images of a file or folder.

    path: one file (see `bnhw/image_files/formats.py`), a folder with the files of a known data set, or a folder with
    one sub-folder of pictures for each class. A source that does not tell training from test images gives all of them,
    whichever is asked for. name: one of `DATASETS`, to be found in the folder.

    Raises BadInput where nothing is found (it says which files were looked for and where), for damaged files and where
    there are no labels; MissingDependency for pictures without Pillow.
    """
    if split not in SPLITS:
        raise BadInput(f"split {split!r} is not known; choose {' or '.join(SPLITS)}")
    if not path.exists():
        raise BadInput(
            f"{path}: no such file or folder; put the unpacked files of one of these forms there:\n{looked_for(name)}"
        )
    stored = read_stored(path, split, name)
    if stored.labels is None:
        raise BadInput(f"{path}: has no labels; a data set needs them, from 0, one an image")
    classes = _classes(path, stored, stored.labels, name)
    images = np.ascontiguousarray(_four_axes(stored.decode()))
    for array in (images, stored.labels):
        array.flags.writeable = False
    return Dataset(images=images, labels=stored.labels, classes=classes, split=stored.split)


def load_train_and_test(
    path: Path, test_path: Path | None = None, *, name: str | None = None
) -> tuple[Dataset, Dataset]:
    """Training and test images, never the same ones: of one source that tells them apart, or of two.

    Raises BadInput as `load_dataset` does, where `path` alone does not tell them apart, and where sizes or classes
    differ.
    """
    train = load_dataset(path, "train", name=name)
    if train.split is None and (test_path is None or test_path.resolve() == path.resolve()):
        raise BadInput(f"{path}: does not tell training from test images; hand over test images of their own as well")
    test = load_dataset(test_path or path, "test", name=name)
    if test.images.shape[1:] != train.images.shape[1:]:
        raise BadInput(
            f"{test_path or path}: test images are {test.images.shape[1:]}, those of {path} {train.images.shape[1:]}; "
            "(H, W, C) must be the same"
        )
    if test.classes != train.classes[: len(test.classes)]:
        raise BadInput(f"{test_path or path}: its classes are others than those of {path}; give both the same")
    return train, test


def _classes(path: Path, stored: StoredImages, labels: Array, name: str | None) -> tuple[str, ...]:
    classes = CLASSES[name] if name is not None else stored.classes
    if classes is None:
        check_label_range(path, labels, MAX_CLASSES)
        return tuple(map(str, range(int(labels.max()) + 1)))
    check_label_range(path, labels, len(classes))
    return classes


def _four_axes(pixels: Array) -> Array:
    """uint8 (N, H, W, C); flat features are (1, 1, features), images without an axis of channels have one."""
    if pixels.ndim == 2:
        return pixels[:, np.newaxis, np.newaxis, :]
    return pixels[..., np.newaxis] if pixels.ndim == 3 else pixels
