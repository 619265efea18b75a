"""Data sets for training: where their files are looked for, and what comes of them."""

import gzip
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from image_bytes import cifar_binary, idx, picture, python2_batch, random_pixels
from published_files import DATA, needs_data

from bnhw.datasets import DATASETS, Dataset, load_dataset, load_train_and_test
from bnhw.errors import BadInput
from bnhw.image_files import content
from bnhw.image_files.content import SPLITS
from bnhw.image_files.layouts import LAYOUTS
from bnhw.images import read_images

COLOUR = random_pixels(12, 32, 32, 3)
GREY = random_pixels(6, 5, 4, seed=1)
LABELS = [0, 9, 1, 8, 2, 7, 3, 6, 4, 5, 0, 1]


def cifar10_python(root: Path) -> Path:
    root.mkdir(parents=True)
    for number in range(5):
        part = slice(2 * number, 2 * number + 2)
        (root / f"data_batch_{number + 1}").write_bytes(python2_batch(COLOUR[part], LABELS[part]))
    (root / "test_batch").write_bytes(python2_batch(COLOUR[10:], LABELS[10:]))
    return root


def cifar10_binary(root: Path) -> Path:
    root.mkdir(parents=True)
    for number in range(5):
        part = slice(2 * number, 2 * number + 2)
        (root / f"data_batch_{number + 1}.bin").write_bytes(cifar_binary(COLOUR[part], LABELS[part]))
    (root / "test_batch.bin").write_bytes(cifar_binary(COLOUR[10:], LABELS[10:]))
    return root


def cifar100(root: Path, *, binary: bool) -> Path:
    root.mkdir(parents=True)
    for name, part in (("train", slice(10)), ("test", slice(10, 12))):
        if binary:
            data = cifar_binary(COLOUR[part], [0] * len(LABELS[part]), LABELS[part])
        else:
            data = python2_batch(COLOUR[part], LABELS[part], key="fine_labels")
        (root / (f"{name}.bin" if binary else name)).write_bytes(data)
    return root


def mnist(root: Path, *, ending: str = "", separator: str = "-") -> Path:
    root.mkdir(parents=True)
    labels = np.array(LABELS, np.uint8)
    for name, part in (("train", slice(4)), ("t10k", slice(4, 6))):
        for what, values, axes in (("images", GREY[part], 3), ("labels", labels[part], 1)):
            data = idx(values)
            path = root / f"{name}-{what}{separator}idx{axes}-ubyte{ending}"
            path.write_bytes(gzip.compress(data) if ending else data)
    return root


def check(found: Dataset, images: np.typing.NDArray[np.uint8], labels: list[int], classes: int) -> None:
    np.testing.assert_array_equal(found.images, images)
    assert found.labels.tolist() == labels
    assert found.labels.dtype == np.int64
    assert len(found) == len(images)
    assert len(found.classes) == classes
    assert found.images.flags.c_contiguous
    assert not found.images.flags.writeable
    assert not found.labels.flags.writeable


# Known data sets.


@pytest.mark.parametrize("inside", [".", "cifar-10-batches-py", "cifar-10-batches-bin", "cifar-10-binary"])
def test_cifar_10_batches(tmp_path: Path, inside: str) -> None:
    (cifar10_binary if "bin" in inside else cifar10_python)(tmp_path / "data" / inside)
    for name in (None, "cifar10"):
        train, test = load_train_and_test(tmp_path / "data", name=name)
        check(train, COLOUR[:10], LABELS[:10], 10)
        check(test, COLOUR[10:], LABELS[10:], 10)
        assert (train.split, test.split) == SPLITS
        assert train.classes[9] == "truck"
    np.testing.assert_array_equal(read_images(tmp_path / "data").pixels, COLOUR[10:])
    np.testing.assert_array_equal(read_images(tmp_path / "data", split="train", limit=3).pixels, COLOUR[:3])


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("inside", [".", "cifar-100-{}"])
def test_cifar_100(tmp_path: Path, binary: bool, inside: str) -> None:
    cifar100(tmp_path / "data" / inside.format("binary" if binary else "python"), binary=binary)
    train, test = load_train_and_test(tmp_path / "data", name="cifar100")
    check(train, COLOUR[:10], LABELS[:10], 100)
    check(test, COLOUR[10:], LABELS[10:], 100)
    assert train.classes[99] == "worm"


@pytest.mark.parametrize("inside", [".", "mnist", "MNIST/raw"])
@pytest.mark.parametrize(("separator", "ending"), [("-", ""), ("-", ".gz"), (".", "")])
def test_mnist(tmp_path: Path, inside: str, separator: str, ending: str) -> None:
    mnist(tmp_path / "data" / inside, ending=ending, separator=separator)
    for name in (None, "mnist"):
        train, test = load_train_and_test(tmp_path / "data", name=name)
        check(train, GREY[:4, ..., np.newaxis], LABELS[:4], 10)
        check(test, GREY[4:, ..., np.newaxis], LABELS[4:6], 10)


@pytest.mark.parametrize("name", DATASETS)
def test_data_sets_in_one_npz(tmp_path: Path, name: str) -> None:
    np.savez(
        tmp_path / f"{name}.npz",
        train_images=COLOUR[:4],
        train_labels=LABELS[:4],
        test_images=COLOUR[4:6],
        test_labels=LABELS[4:6],
    )
    for path in (tmp_path, tmp_path / f"{name}.npz"):
        train, test = load_train_and_test(path, name=name)
        check(train, COLOUR[:4], LABELS[:4], len(train.classes))
        check(test, COLOUR[4:6], LABELS[4:6], len(train.classes))
    (tmp_path / f"{name}.npz").unlink()
    np.savez(tmp_path / f"{name}.npz", images=COLOUR[:4], labels=LABELS[:4])
    with pytest.raises(BadInput, match=rf"{name}\.npz: does not tell training from test images; save it with"):
        load_dataset(tmp_path, "train", name=name)


def test_two_npz_files_of_one_s_own(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", images=GREY[:4], labels=[0, 1, 2, 0])
    np.savez(tmp_path / "test.npz", images=GREY[4:], labels=[1, 0])
    train, test = load_train_and_test(tmp_path)
    check(train, GREY[:4, ..., np.newaxis], [0, 1, 2, 0], 3)
    check(test, GREY[4:, ..., np.newaxis], [1, 0], 2)


def test_folders_of_pictures(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="pictures need Pillow")
    for split, first in (("train", 0), ("test", 4)):
        for index, name in enumerate(("cat", "dog")):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            (tmp_path / "set" / split / name / "x.png").write_bytes(picture(COLOUR[first + index]))
    train, test = load_train_and_test(tmp_path / "set")
    check(train, COLOUR[:2], [0, 1], 2)
    check(test, COLOUR[4:6], [0, 1], 2)
    assert train.classes == ("cat", "dog")
    train, test = load_train_and_test(tmp_path / "set" / "train", tmp_path / "set" / "test")
    check(test, COLOUR[4:6], [0, 1], 2)
    (tmp_path / "set" / "test" / "cat").rename(tmp_path / "set" / "test" / "bat")
    with pytest.raises(BadInput, match="its classes are others than those of"):
        load_train_and_test(tmp_path / "set" / "train", tmp_path / "set" / "test")


def test_flat_features_are_images_of_one_pixel(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=GREY.reshape(6, 20), labels=LABELS[:6])
    assert load_dataset(tmp_path / "x.npz", "train").images.shape == (6, 1, 1, 20)


# What is refused.


def test_training_images_are_never_taken_for_test_images(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, images=GREY, labels=LABELS[:6])
    for test_path in (None, path, tmp_path / "." / "x.npz"):
        with pytest.raises(BadInput, match=r"x\.npz: does not tell training from test images; hand over test images"):
            load_train_and_test(path, test_path)
    np.savez(tmp_path / "y.npz", images=GREY, labels=LABELS[:6])
    assert len(load_train_and_test(path, tmp_path / "y.npz")[1]) == 6
    np.savez(tmp_path / "y.npz", images=GREY[:, 1:], labels=LABELS[:6])
    with pytest.raises(BadInput, match=r"test images are \(4, 4, 1\), those of .* \(5, 4, 1\); \(H, W, C\) must be"):
        load_train_and_test(path, tmp_path / "y.npz")
    np.savez(tmp_path / "y.npz", images=GREY, labels=[10] * 6)
    with pytest.raises(BadInput, match="its classes are others"):
        load_train_and_test(path, tmp_path / "y.npz")


def test_nothing_found_says_what_was_looked_for_and_where(tmp_path: Path) -> None:
    for path, message in ((tmp_path, "holds no train images that are known"), (tmp_path / "no", "no such file or")):
        with pytest.raises(BadInput, match=message) as caught:
            load_dataset(path, "train", name="cifar10")
        assert "cifar10: cifar-10-batches-py/ with data_batch_1, data_batch_2," in str(caught.value)
        assert "cifar10: cifar-10-batches-bin/ with data_batch_1.bin," in str(caught.value)
        assert "put the unpacked files of one of these forms there" in str(caught.value)
        assert "mnist" not in str(caught.value)
        with pytest.raises(BadInput, match=message) as caught:
            load_dataset(path, "train")
        assert all(str(layout) in str(caught.value) for layout in LAYOUTS)


def test_missing_files_of_a_data_set_are_named(tmp_path: Path) -> None:
    root = cifar10_python(tmp_path / "data" / "cifar-10-batches-py")
    (root / "data_batch_3").unlink()
    with pytest.raises(
        BadInput, match=r"cifar-10-batches-py: data_batch_3 is missing; the train images of cifar10 are "
    ):
        load_dataset(tmp_path / "data", "train")
    assert len(load_dataset(tmp_path / "data", "test")) == 2
    root = mnist(tmp_path / "mnist")
    (root / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(BadInput, match="t10k-labels-idx1-ubyte is missing"):
        load_dataset(root, "test", name="mnist")


def test_the_first_complete_form_is_read(tmp_path: Path) -> None:
    cifar10_python(tmp_path / "cifar-10-batches-py")
    cifar10_binary(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    check(load_dataset(tmp_path, "train"), COLOUR[:10], LABELS[:10], 10)


def test_of_several_data_sets_one_must_be_named(tmp_path: Path) -> None:
    cifar10_python(tmp_path / "data" / "cifar-10-batches-py")
    mnist(tmp_path / "data" / "mnist")
    with pytest.raises(BadInput, match=r"holds several data sets \(cifar10, mnist\); say which by its name"):
        load_dataset(tmp_path / "data", "train")
    assert load_dataset(tmp_path / "data", "train", name="mnist").images.shape == (4, 5, 4, 1)


def test_names_and_splits_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="data set 'cifar' is not known; choose cifar10, cifar100, mnist, or"):
        load_dataset(tmp_path, "train", name="cifar")
    with pytest.raises(BadInput, match="split 'validation' is not known; choose train or test"):
        load_dataset(tmp_path, "validation")  # type: ignore[arg-type]  # what an untyped caller may do


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "has no labels; a data set needs them"),
        ([-1, 0], "labels are -1 to 0; 0 to 99999 are expected"),
        ([0, 10**12], "labels are 0 to 1000000000000; 0 to 99999 are expected"),
    ],
)
def test_labels_that_count_no_classes_are_refused(tmp_path: Path, labels: list[int] | None, message: str) -> None:
    arrays = {"images": GREY[:2]} | ({} if labels is None else {"labels": np.array(labels)})
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(BadInput, match=message):
        load_dataset(tmp_path / "x.npz", "train")


def test_labels_that_a_data_set_has_not_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10.npz", train_images=COLOUR[:1], train_labels=[10])
    with pytest.raises(BadInput, match=r"cifar10\.npz: labels are 10 to 10; 0 to 9 are expected \(10 classes\)"):
        load_dataset(tmp_path, "train", name="cifar10")


def test_batches_that_do_not_fit_each_other_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = cifar10_python(tmp_path / "data")
    np.savez(tmp_path / "other.npz", images=GREY, labels=LABELS[:6])
    monkeypatch.setattr(content, "MAX_IMAGE_BYTES", 25_000)
    with pytest.raises(BadInput, match="10 images are more than 25000 bytes, the most that is read"):
        load_dataset(root, "train")
    shutil.move(tmp_path / "other.npz", root / "data_batch_2")
    with pytest.raises(BadInput, match=r"data_batch_2: holds images \(5, 4\); \(32, 32, 3\) with labels are expected"):
        load_dataset(root, "train")


# Real ones.


@needs_data
def test_mnist_at_hand() -> None:
    train, test = load_train_and_test(DATA, name="mnist")
    assert train.images.shape == (60_000, 28, 28, 1)
    assert test.images.shape == (10_000, 28, 28, 1)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert abs(train.images.mean() - 33.318) < 0.001
    assert abs(test.images.mean() - 33.791) < 0.001


@needs_data
def test_cifar_10_at_hand_is_decoded_within_a_minute() -> None:
    pytest.importorskip("PIL", reason="pictures need Pillow")
    start = time.perf_counter()
    train, test = load_train_and_test(DATA, name="cifar10")
    assert time.perf_counter() - start < 60
    assert train.images.shape == (50_000, 32, 32, 3)
    assert test.images.shape == (10_000, 32, 32, 3)
    assert np.bincount(train.labels).tolist() == [5000] * 10
    with np.load(DATA / "cifar10_train_first4000_lossless.npz") as lossless:
        place = lossless["jpeg_train_index"]
        np.testing.assert_array_equal(train.labels[place], lossless["labels"])
        difference = train.images[place].astype(int) - lossless["images"]
    assert np.abs(difference).mean() < 6
