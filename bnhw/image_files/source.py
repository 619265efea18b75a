"""One entry for every file and folder of images."""

from pathlib import Path

from bnhw.errors import BadInput
from bnhw.image_files.content import Split, StoredImages
from bnhw.image_files.folders import read_picture_folder
from bnhw.image_files.formats import read_image_file
from bnhw.image_files.layouts import CLASSES, looked_for, read_layout


def read_stored(path: Path, split: Split, dataset: str | None = None) -> StoredImages:
    """The images of a file, a data set's folder or a folder of pictures; nothing is decoded yet.

    split: which images of a source that holds training and test images; a source that does not tell them apart gives
    all. dataset: `cifar10`, `cifar100` or `mnist`, to be found in a folder. Raises BadInput where nothing is found,
    saying what was looked for, and for damaged files.
    """
    if dataset is not None and dataset not in CLASSES:
        raise BadInput(
            f"data set {dataset!r} is not known; choose {', '.join(CLASSES)}, or hand over images of your own"
        )
    if not _is_folder(path):
        return read_image_file(path, split)
    found = read_layout(path, split, dataset)
    if found is None and dataset is None:
        found = read_picture_folder(path, split)
    if found is None:
        pictures = "" if dataset else "\n  pictures: PNG or JPEG files, or one sub-folder of them for each class"
        raise BadInput(
            f"{path}: holds no {split} images that are known; put the unpacked files of one of these forms there:\n"
            f"{looked_for(dataset)}{pictures}"
        )
    return found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); check its name and permissions") from error
