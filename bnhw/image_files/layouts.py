"""Where the files of known data sets lie, in one table, and how to find them in a folder."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bnhw.errors import BadInput
from bnhw.image_files import content
from bnhw.image_files.class_names import CIFAR10_CLASSES, CIFAR100_CLASSES, MNIST_CLASSES
from bnhw.image_files.content import Split, StoredImages, check_label_range
from bnhw.image_files.formats import read_image_file, read_label_file

CLASSES: Mapping[str, tuple[str, ...]] = {
    "cifar10": CIFAR10_CLASSES,
    "cifar100": CIFAR100_CLASSES,
    "mnist": MNIST_CLASSES,
}
"""The classes of every data set that can be asked for by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One form of a data set: its files, in any one of `folders` ("." is the folder itself).

    dataset: None for images and labels of one's own. labels: files of their own.
    """

    dataset: str | None
    folders: tuple[str, ...] = (".",)
    train: tuple[str, ...]
    test: tuple[str, ...]
    train_labels: str | None = None
    test_labels: str | None = None

    def files(self, split: Split) -> tuple[str, ...]:
        """All files of one part."""
        images, labels = (self.train, self.train_labels) if split == "train" else (self.test, self.test_labels)
        return images if labels is None else (*images, labels)

    def __str__(self) -> str:
        first = "" if self.folders[0] == "." else f"{self.folders[0]}/ with "
        return first + ", ".join(dict.fromkeys((*self.files("train"), *self.files("test"))))


BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


def _mnist(separator: str, ending: str) -> Layout:
    images, labels = f"images{separator}idx3-ubyte{ending}", f"labels{separator}idx1-ubyte{ending}"
    return Layout(
        dataset="mnist",
        folders=(".", "mnist", "MNIST/raw"),
        train=(f"train-{images}",),
        train_labels=f"train-{labels}",
        test=(f"t10k-{images}",),
        test_labels=f"t10k-{labels}",
    )


LAYOUTS = (
    Layout(dataset="cifar10", folders=("cifar-10-batches-py", "."), train=BATCHES, test=("test_batch",)),
    Layout(
        dataset="cifar10",
        folders=("cifar-10-batches-bin", "cifar-10-binary", "."),
        train=tuple(f"{name}.bin" for name in BATCHES),
        test=("test_batch.bin",),
    ),
    Layout(dataset="cifar10", train=("cifar10.npz",), test=("cifar10.npz",)),
    Layout(dataset="cifar10", train=("cifar10_train.npz",), test=("cifar10_test.npz",)),
    Layout(dataset="cifar10", train=("cifar10_train_jpegq75_bytes.npz",), test=("cifar10_test_jpegq75_decoded.npz",)),
    Layout(dataset="cifar100", folders=("cifar-100-python", "."), train=("train",), test=("test",)),
    Layout(dataset="cifar100", folders=("cifar-100-binary", "."), train=("train.bin",), test=("test.bin",)),
    Layout(dataset="cifar100", train=("cifar100.npz",), test=("cifar100.npz",)),
    _mnist("-", ""),
    _mnist("-", ".gz"),
    _mnist(".", ""),
    Layout(dataset="mnist", train=("mnist.npz",), test=("mnist.npz",)),
    Layout(dataset=None, train=("train.npz",), test=("test.npz",)),
)
"""Every form that is looked for; of several in a folder, the first that is complete is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A layout in one of its folders, and the files of one part that are missing there."""

    layout: Layout
    folder: Path
    missing: tuple[str, ...]


def read_layout(folder: Path, split: Split, dataset: str | None) -> StoredImages | None:
    """The images and labels of a known data set in `folder`; None where there is none of its files.

    dataset: a key of `CLASSES`, or None for whatever there is. Raises BadInput where files of a data set are missing,
    where the folder holds several data sets and none is asked for, and for labels that the data set has not.
    """
    places = list(_places(folder, split, dataset))
    complete = [place for place in places if not place.missing]
    found = list(dict.fromkeys(place.layout.dataset for place in complete))
    if len(found) > 1:
        names = ", ".join(str(name or "train.npz and test.npz") for name in found)
        raise BadInput(f"{folder}: holds several data sets ({names}); say which by its name, or hand over its own file")
    if complete:
        return _read(complete[0], split)
    if places:
        raise BadInput(
            f"{places[0].folder}: {', '.join(places[0].missing)} is missing; the {split} images of "
            f"{places[0].layout.dataset or 'a data set'} are {', '.join(places[0].layout.files(split))}"
        )
    return None


def looked_for(dataset: str | None) -> str:
    """The files of every known form of a data set, or of all, one form a line."""
    return "\n".join(
        f"  {layout.dataset or 'your own'}: {layout}" for layout in LAYOUTS if dataset in (None, layout.dataset)
    )


def _places(folder: Path, split: Split, dataset: str | None) -> Iterator[_Place]:
    for layout in LAYOUTS:
        if dataset is None or layout.dataset == dataset:
            files = layout.files(split)
            for name in layout.folders:
                missing = tuple(file for file in files if not (folder / name / file).is_file())
                if len(missing) < len(files):
                    yield _Place(layout=layout, folder=folder / name, missing=missing)


def _read(place: _Place, split: Split) -> StoredImages:
    layout = place.layout
    images, labels = (layout.train, layout.train_labels) if split == "train" else (layout.test, layout.test_labels)
    parts = [read_image_file(place.folder / name, split) for name in images]
    if layout.train == layout.test and parts[0].split is None:
        raise BadInput(
            f"{place.folder / images[0]}: does not tell training from test images; save it with the arrays "
            "train_images, train_labels, test_images, test_labels"
        )
    found = parts[0] if len(parts) == 1 else _join(place.folder, images, parts)
    if labels is not None:
        found = replace(found, labels=read_label_file(place.folder / labels, len(found.pixels)))
    classes = CLASSES.get(layout.dataset or "", found.classes)
    if classes is not None and found.labels is not None:
        check_label_range(place.folder / (labels or images[0]), found.labels, len(classes))
    return replace(found, classes=classes, split=split)


def _join(folder: Path, names: tuple[str, ...], parts: list[StoredImages]) -> StoredImages:
    """The images of several files in one array, written once."""
    arrays = [part.decode() for part in parts]
    labels = [part.labels for part in parts if part.labels is not None]
    for name, array, part in zip(names, arrays, parts, strict=True):
        if array.shape[1:] != arrays[0].shape[1:] or part.labels is None:
            shape = arrays[0].shape[1:]
            raise BadInput(f"{folder / name}: holds images {array.shape[1:]}; {shape} with labels are expected")
    count = sum(map(len, arrays))
    if count * arrays[0][:1].size > content.MAX_IMAGE_BYTES:
        raise BadInput(f"{folder}: {count} images are more than {content.MAX_IMAGE_BYTES} bytes, the most that is read")
    pixels = np.empty((count, *arrays[0].shape[1:]), np.uint8)
    np.concatenate(arrays, out=pixels)
    return StoredImages(pixels=pixels, labels=np.concatenate(labels), classes=parts[0].classes)
