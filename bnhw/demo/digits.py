"""Handwritten digits of scikit-learn (8 x 8 pixels, values 0 to 16) and the network trained on them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bnhw.errors import MissingDependency

CHECKPOINT = Path(__file__).with_name("digits.safetensors")
ONNX = Path(__file__).with_name("digits.onnx")

TEST_STEP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """Images uint8 (N, 8, 8, 1) with values 0 to 16, labels uint8 (N,) from 0 to 9; all arrays read-only."""

    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.uint8]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.uint8]


def load_digits() -> Digits:
    """The 1797 images of `sklearn.datasets.load_digits`, split into training and test images.

    Of every digit, the images number 0, 5, 10, ... in the original order are test images (`is_test`). Both
    parts hold digits by the same writers. Raises `MissingDependency` where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load_sklearn_digits  # noqa: PLC0415 - needed only here
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "the images of the demo come with scikit-learn, which is not installed; "
            "install it with: pip install 'bnhw[demo]'"
        ) from error
    data = load_sklearn_digits()
    images = data.images.astype(np.uint8)[..., np.newaxis]
    labels = data.target.astype(np.uint8)
    test = is_test(labels)
    parts = (images[~test], labels[~test], images[test], labels[test])
    for part in parts:
        part.flags.writeable = False
    return Digits(train_images=parts[0], train_labels=parts[1], test_images=parts[2], test_labels=parts[3])


def is_test(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """True for every `TEST_STEP`-th image of each label, counted from that label's first; shape (N,)."""
    test = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        test[np.flatnonzero(labels == label)[::TEST_STEP]] = True
    return test
