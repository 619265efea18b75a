"""Folders of pictures: one sub-folder a class, or pictures alone without labels.

Only regular files inside the folder are read: a link that leads out of it is an error. Names that begin with a dot and
files of `PASSED_OVER` are passed over; any other file is an error, so that no picture is left out unnoticed.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from bnhw.errors import BadInput
from bnhw.image_files.content import MAX_CLASSES, Split, StoredImages
from bnhw.image_files.pictures import Picture, Pictures

ENDINGS = (".png", ".jpg", ".jpeg")
PASSED_OVER = (".txt", ".md", ".csv", ".json", ".db")

SPLIT_FOLDERS: tuple[Mapping[Split, str], ...] = (
    {"train": "train", "test": "test"},
    {"train": "train", "test": "val"},
)
"""Sub-folders that are parts of a data set, not classes."""

MAX_PICTURES = 4_000_000
"""No folder of more files is read."""


def read_picture_folder(folder: Path, split: Split) -> StoredImages | None:
    """The pictures of a folder; of one with the sub-folders of `SPLIT_FOLDERS`, those of `split`.

    Classes are the names of sub-folders, sorted, and labels count them; where all names are numbers, these are the
    labels. Pictures come class by class in turn, each class
    sorted by name: the first of every class, the second of every class, and so on, so that the first pictures show
    all classes. None where the folder holds no picture. Raises BadInput for links that lead out of the folder, other
    files, pictures beside sub-folders, sub-folders in sub-folders, and classes without a picture.
    """
    root = folder.resolve()
    names = {entry.name for entry in _entries(folder, root) if entry.is_dir()}
    splits = next((splits for splits in SPLIT_FOLDERS if names == set(splits.values())), None)
    return _read_classes(folder, root) if splits is None else _read_split(folder, root, splits, split)


def _read_split(folder: Path, root: Path, splits: Mapping[Split, str], split: Split) -> StoredImages | None:
    parts = {name: _read_classes(folder / subfolder, root) for name, subfolder in splits.items()}
    chosen = parts[split]
    if chosen is None:
        raise BadInput(f"{folder / splits[split]}: holds no PNG or JPEG picture")
    if len({part.classes for part in parts.values() if part is not None}) > 1:
        raise BadInput(f"{folder}: {' and '.join(splits.values())} have other sub-folders; give both the same classes")
    return StoredImages(pixels=chosen.pixels, labels=chosen.labels, classes=chosen.classes, split=split)


def _read_classes(folder: Path, root: Path) -> StoredImages | None:
    entries = _entries(folder, root)
    folders = [entry for entry in entries if entry.is_dir()]
    files = _pictures(entries, folder)
    if not folders:
        return StoredImages(pixels=Pictures(origin=str(folder), items=files), labels=None) if files else None
    groups = [_class_pictures(Path(entry), root) for entry in folders]
    if not any(groups):
        return None
    if files:
        raise BadInput(f"{files[0].name}: is a picture beside sub-folders; put it into the sub-folder of its class")
    empty = next((entry.path for entry, group in zip(folders, groups, strict=True) if not group), None)
    if empty is not None:
        raise BadInput(f"{empty}: holds no PNG or JPEG picture; every sub-folder is a class, remove this one")
    if len(groups) > MAX_CLASSES:
        raise BadInput(f"{folder}: {len(groups)} sub-folders, at most {MAX_CLASSES} classes are read")
    labels, classes = _labels(folder, [entry.name for entry in folders])
    turns = (zip(row, labels, strict=True) for row in zip_longest(*groups))
    order = [(item, label) for turn in turns for item, label in turn if item is not None]
    return StoredImages(
        pixels=Pictures(origin=str(folder), items=[item for item, _ in order]),
        labels=np.array([label for _, label in order], np.int64),
        classes=classes,
    )


def _labels(folder: Path, names: Sequence[str]) -> tuple[Sequence[int], tuple[str, ...]]:
    """The label of each sub-folder, and the names of all classes."""
    if not all(name.isascii() and name.isdecimal() for name in names):
        return range(len(names)), tuple(names)
    longest = max(names, key=len)
    if len(longest) > len(str(MAX_CLASSES)):
        raise BadInput(f"{folder / longest}: as a label it is too large; labels are smaller than {MAX_CLASSES}")
    labels = [int(name) for name in names]
    if max(labels) >= MAX_CLASSES or len(set(labels)) < len(labels):
        raise BadInput(f"{folder}: sub-folders {', '.join(names[:20])} are no labels; each once, below {MAX_CLASSES}")
    return labels, tuple(map(str, range(max(labels) + 1)))


def _class_pictures(folder: Path, root: Path) -> Sequence[Picture]:
    entries = _entries(folder, root)
    pictures = _pictures(entries, folder)
    inner = next((entry.path for entry in entries if entry.is_dir()), None)
    if inner is not None and pictures:
        raise BadInput(f"{inner}: is a folder inside the folder of a class; pictures are expected there")
    return pictures


def _entries(folder: Path, root: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted by name, without what is passed over."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(_limited(folder, found), key=lambda entry: entry.name)
        for entry in entries:
            if entry.is_symlink() and not Path(entry).resolve().is_relative_to(root):
                raise BadInput(f"{entry.path}: is a link that leads out of {root}; put the files themselves there")
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        raise BadInput(f"{folder}: cannot be read ({error}); check its name and permissions") from error
    return entries


def _limited(folder: Path, entries: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    for count, entry in enumerate(entries):
        if count >= MAX_PICTURES:
            raise BadInput(f"{folder}: holds more than {MAX_PICTURES} files, which is the most that is read")
        if not entry.name.startswith(".") and not entry.name.lower().endswith(PASSED_OVER):
            yield entry


def _pictures(entries: Sequence[os.DirEntry[str]], folder: Path) -> list[Picture]:
    files = [entry for entry in entries if not entry.is_dir()]
    known = [entry for entry in files if entry.name.lower().endswith(ENDINGS)]
    other = next((entry for entry in files if not entry.name.lower().endswith(ENDINGS)), None)
    if known and other is not None:
        raise BadInput(f"{other.path}: is neither a PNG nor a JPEG file by its name; move it out of {folder}")
    return [Picture(name=entry.path, open=_opener(entry)) for entry in known]


def _opener(entry: os.DirEntry[str]) -> Callable[[], BinaryIO]:
    if not entry.is_file():
        raise BadInput(f"{entry.path}: is no regular file; remove it")
    return cast("Callable[[], BinaryIO]", partial(Path(entry).open, "rb"))
