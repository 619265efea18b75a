"""The temperature of the softmax decides whether a network without batch norm trains (paper 1, section III-D)."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

from bnhw.demo.digits import load_digits  # noqa: E402
from bnhw.errors import TrainingDiverged  # noqa: E402
from bnhw.export.augmentation import Augmentation  # noqa: E402
from bnhw.export.recipes import RECIPES  # noqa: E402
from bnhw.export.training import TrainingData, train  # noqa: E402
from bnhw.export.zoo import WideResNet, WideResNetConfig  # noqa: E402

RECIPE = replace(RECIPES["paper-1"], augmentation=Augmentation())
"""The learning rate starts at 0.1; digits are too small for crops and cutout."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small operations gain nothing from more, and lose much where processors are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    digits = load_digits()
    return TrainingData(
        train_images=digits.train_images,
        train_labels=digits.train_labels,
        test_images=digits.test_images,
        test_labels=digits.test_labels,
    )


def accuracy_after(data: TrainingData, temperature: float, epochs: int) -> float:
    """Of a float32 shifted-ReLU network of depth 14 after so many epochs."""
    torch.manual_seed(1)
    config = WideResNetConfig(
        depth=14,
        input_channels=1,
        image_size=(8, 8),
        input_mean=(4.9,),
        input_std=(6.0,),
        weights="float",
        temperature=temperature,
    )
    return train(WideResNet(config), replace(RECIPE, epochs=epochs), data, seed=1).test.accuracy


def test_without_temperature_a_shifted_relu_network_diverges_at_once(data: TrainingData) -> None:
    with pytest.raises(TrainingDiverged, match="in epoch 1"):
        accuracy_after(data, temperature=1.0, epochs=8)


@pytest.mark.parametrize(("temperature", "epochs"), [(30.0, 8), (50.0, 12), (100.0, 20)])
def test_with_temperature_it_trains_at_the_same_learning_rate(
    data: TrainingData, temperature: float, epochs: int
) -> None:
    assert accuracy_after(data, temperature=temperature, epochs=epochs) > 0.9
