"""What the names and options of a training job stand for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from bnhw.datasets import Dataset  # noqa: E402
from bnhw.errors import BadInput  # noqa: E402
from bnhw.export.networks import PRESETS  # noqa: E402
from bnhw.export.normalisations import SCALED_KINDS, Normalisation  # noqa: E402
from bnhw.export.training_job import TrainingJob, config_of_job, files_of, recipe_of  # noqa: E402

JOB = TrainingJob(recipe="paper-1", data=Path("set"), output=Path("net.safetensors"))


def dataset(channels: int, side: int = 32) -> Dataset:
    """Three images; channel k is 10 k, 10 k + 1 and 10 k + 2."""
    images = np.zeros((3, side, side, channels), np.uint8)
    images += np.arange(3, dtype=np.uint8)[:, None, None, None] + np.arange(channels, dtype=np.uint8) * 10
    return Dataset(images=images, labels=np.arange(3), classes=("a", "b", "c"), split="train")


WIDE_ONLY = (Normalisation.SHIFTED_RELU, Normalisation.ELU, Normalisation.FINAL_ONLY, Normalisation.MEAN_ONLY)


@pytest.mark.parametrize("norm", Normalisation)
@pytest.mark.parametrize("network", PRESETS)
def test_every_network_takes_every_normalisation_and_any_data_set(network: str, norm: Normalisation) -> None:
    gain = 0.1 if norm in SCALED_KINDS else None
    for weights, channels in (("1bit", 3), ("float", 1)):
        job = replace(JOB, network=network, norm=norm.value, weights=weights, gain=gain)
        if norm in WIDE_ONLY and not network.startswith("wrn"):
            with pytest.raises(BadInput, match="kind"):
                config_of_job(job, dataset(channels))
            continue
        config = config_of_job(job, dataset(channels))
        assert config.input_shape == (channels, 32, 32)
        assert (config.to_json()["classes"], config.to_json()["weights"]) == (3, weights)


def test_a_network_keeps_its_own_normalisation_and_weights() -> None:
    wide, deep = (config_of_job(replace(JOB, network=name), dataset(3)).to_json() for name in ("wrn-20-4", "resnet-18"))
    assert (wide["normalisation"], wide["weights"]) == ("shifted_relu", "1bit")
    assert (deep["normalisation"]["kind"], deep["weights"]) == ("batch_norm", "float")


def test_images_are_normalised_by_their_own_statistics() -> None:
    values = config_of_job(JOB, dataset(3)).to_json()
    assert values["input_mean"] == [1.0, 11.0, 21.0]
    assert values["input_std"] == [0.8165] * 3
    assert values["input_normalisation"] == "offline"


def test_paper_3_normalises_images_by_a_batch_norm_unless_told_otherwise() -> None:
    job = replace(JOB, recipe="paper-3", norm="scaled_batch_norm", gain=0.1)
    assert config_of_job(job, dataset(3)).to_json()["input_normalisation"] == "batch_norm"
    assert config_of_job(replace(job, input_norm="fixed"), dataset(3)).to_json()["input_normalisation"] == "fixed"


def test_options_change_what_they_name() -> None:
    job = replace(JOB, width=2.5, temperature=70.0, dropout=0.1, crop=24)
    values = config_of_job(job, dataset(3)).to_json()
    assert (values["width"], values["temperature"], values["dropout"]) == (2.5, 70.0, 0.1)
    assert values["image_size"] == [24, 24]
    recipe = recipe_of(replace(JOB, epochs=7, batch_size=9, rate=0.01))
    assert (recipe.epochs, recipe.batch_size, recipe.schedule.peak) == (7, 9, 0.01)
    assert recipe_of(JOB).epochs == 300


def test_width_belongs_to_wide_residual_networks() -> None:
    with pytest.raises(BadInput, match="network resnet-18 has no option width"):
        config_of_job(replace(JOB, network="resnet-18", width=2.0), dataset(3))


def test_files_stand_beside_the_checkpoint() -> None:
    files = files_of(replace(JOB, output=Path("a/net.pt")))
    names = [path.as_posix() for path in (files.checkpoint, files.state, files.csv, files.plot)]
    assert names == ["a/net.pt", "a/net.training.safetensors", "a/net.csv", "a/net.svg"]
