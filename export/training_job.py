"""A whole training as `bnhw train` does it: data, network and recipe by name; checkpoint, CSV and plot beside it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from bnhw.datasets import Dataset, load_train_and_test
from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.export.checkpoints import save_checkpoint
from bnhw.export.networks import NetworkConfig, build_network, preset, with_normalisation
from bnhw.export.normalisations import InputKind, Normalisation, NormalisationConfig
from bnhw.export.recipes import Recipe, find_recipe, spread_seed
from bnhw.export.training import TrainingData, TrainingOutcome, count_steps, train
from bnhw.export.training_log import EpochRecord, as_csv, write_plot
from bnhw.files import write_atomically

CHECKPOINT_SUFFIXES = (".safetensors", ".pt")

ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
"""Called with a title and the number of steps; the context is called with the number of steps done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """What is trained, on what, and where the files go. None leaves the recipe's or network's own value.

    recipe, network: names in `RECIPES` and `PRESETS`. output: the checkpoint; the CSV, the plot and, while it is not
    finished, the state have its name and other endings.
    data, test_data, dataset: see `bnhw.datasets.load_train_and_test`.
    norm: a value of `Normalisation`; temperature, gain, dropout: see `NormalisationConfig`. weights: "1bit" or "float".
    input_norm: `NormalisationConfig.input`; None is "batch_norm" in the recipes of paper 3, and "offline" with the
        training images' statistics in all others.
    width: of wide residual networks. crop: side of the network's input where it is smaller than the images.
    rate: highest learning rate of the recipe's schedule.
    """

    recipe: str
    data: Path
    output: Path
    test_data: Path | None = None
    dataset: str | None = None
    network: str = "wrn-20-4"
    norm: str | None = None
    weights: str | None = None
    width: float | None = None
    crop: int | None = None
    temperature: float | None = None
    gain: float | None = None
    dropout: float | None = None
    input_norm: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    rate: float | None = None
    seed: int = 1
    device: str | None = None
    precision: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFiles:
    """Where a job writes; `state` is removed in the end."""

    checkpoint: Path
    state: Path
    csv: Path
    plot: Path


def files_of(job: TrainingJob) -> JobFiles:
    """The files of a job. Raises `BadInput` for another ending of the checkpoint."""
    path = job.output
    if path.suffix not in CHECKPOINT_SUFFIXES:
        raise BadInput(f"{path}: a checkpoint has the ending {' or '.join(CHECKPOINT_SUFFIXES)}")
    return JobFiles(
        checkpoint=path,
        state=path.with_suffix(".training.safetensors"),
        csv=path.with_suffix(".csv"),
        plot=path.with_suffix(".svg"),
    )


def run_job(job: TrainingJob, progress_bar: ProgressBar, say: Callable[[str], object]) -> TrainingOutcome:
    """Train and write the checkpoint; CSV and plot are written after every epoch, the plot where matplotlib is.

    Where a killed job left its state, this continues it. Raises `BadInput` for anything that does not fit, and where
    the checkpoint is already there; `TrainingDiverged`; `MissingDependency` for pictures without Pillow.
    """
    files = files_of(job)
    if files.checkpoint.exists():
        raise BadInput(f"{files.checkpoint}: is already there; remove it, or choose another name")
    recipe = recipe_of(job)
    train_set, test_set = load_train_and_test(job.data, job.test_data, name=job.dataset)
    config = config_of_job(job, train_set)
    data = TrainingData(
        train_images=train_set.images,
        train_labels=train_set.labels,
        test_images=test_set.images,
        test_labels=test_set.labels,
    )
    network = initial_network(config, job.seed)
    say(f"{config.weight_count:,} weights; {len(train_set):,} training and {len(test_set):,} test images")
    if files.state.exists():
        say(f"continuing from {files.state}")
    plotting = find_spec("matplotlib") is not None

    def on_epoch(records: tuple[EpochRecord, ...]) -> None:
        write_atomically(files.csv, as_csv(records).encode())
        if plotting:
            write_plot(records, files.plot, title=_title(job))
        say(_line(records[-1], recipe.epochs))

    with progress_bar("training", count_steps(recipe, data)) as progress:
        outcome = train(
            network,
            recipe,
            data,
            seed=job.seed,
            state=files.state,
            device=job.device,
            precision=job.precision,
            progress=progress,
            on_epoch=on_epoch,
        )
    save_checkpoint(network, files.checkpoint, metadata=_metadata(job, recipe, outcome, train_set))
    files.state.unlink(missing_ok=True)
    return outcome


def set_threads(threads: int | None) -> None:
    """Threads of one operation of torch in this process; None leaves torch's own number."""
    if threads is not None:
        torch.set_num_threads(threads)


def recipe_of(job: TrainingJob) -> Recipe:
    """The recipe with the job's own values. Raises `BadInput` for those that cannot be."""
    recipe = find_recipe(job.recipe)
    changes: dict[str, Any] = {"epochs": job.epochs, "batch_size": job.batch_size}
    if job.rate is not None:
        changes["schedule"] = recipe.schedule.with_peak(job.rate)
    return replace(recipe, **{name: value for name, value in changes.items() if value is not None})


def config_of_job(job: TrainingJob, images: Dataset) -> NetworkConfig:
    """The network's configuration for these images. Raises `BadInput` for options that it does not have."""
    height, width, channels = images.images.shape[1:]
    config = preset(job.network)
    wanted: dict[str, Any] = {
        "classes": len(images.classes),
        "input_channels": channels,
        "image_size": (job.crop, job.crop) if job.crop is not None else (height, width),
    }
    wanted |= {key: value for key, value in (("weights", job.weights), ("width", job.width)) if value is not None}
    known = {field.name for field in fields(config)}  # type: ignore[arg-type]  # every configuration is a dataclass
    if unknown := [name for name in wanted if name not in known]:
        raise BadInput(
            f"network {job.network} has no option {', '.join(unknown)}; leave it out, or choose a wrn network"
        )
    normalisation = _normalisation(job, config, images.images)
    if "input_mean" in known:  # one number a channel, whether it is used or not
        wanted |= dict(zip(("input_mean", "input_std"), channel_statistics(images.images), strict=True))
    return with_normalisation(replace(config, **wanted), normalisation)  # type: ignore[type-var]  # a dataclass


def _normalisation(job: TrainingJob, config: NetworkConfig, images: Array) -> NormalisationConfig:
    norm = job.norm or _own_normalisation(config)
    if norm not in list(Normalisation):
        raise BadInput(f"normalisation {norm!r} is unknown; choose one of {', '.join(Normalisation)}")
    kind = job.input_norm or ("batch_norm" if job.recipe.startswith("paper-3") else "offline")
    if kind not in get_args(InputKind):
        raise BadInput(f"input normalisation {kind!r} is unknown; choose one of {', '.join(get_args(InputKind))}")
    values: dict[str, Any] = {"temperature": job.temperature, "gain": job.gain, "dropout": job.dropout}
    values = {name: value for name, value in values.items() if value is not None}
    if kind == "offline":
        values["input_mean"], values["input_std"] = channel_statistics(images)
    return NormalisationConfig(kind=Normalisation(norm), input=kind, **values)  # type: ignore[arg-type]  # checked above


def _own_normalisation(config: NetworkConfig) -> str:
    """The value of `Normalisation` that a configuration has, by itself or in a `NormalisationConfig`."""
    own = config.to_json()["normalisation"]
    return str(own["kind"] if isinstance(own, dict) else own)


def _title(job: TrainingJob) -> str:
    return " ".join(filter(None, (job.network, job.norm, job.weights, job.recipe)))


def channel_statistics(images: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel, to four digits; a channel that never changes has deviation 1."""
    counts = [np.bincount(images[..., channel].reshape(-1), minlength=256) for channel in range(images.shape[-1])]
    values = np.arange(256)
    means = [float(count @ values / count.sum()) for count in counts]
    deviations = [float(np.sqrt(n @ (values - m) ** 2 / n.sum())) for n, m in zip(counts, means, strict=True)]
    return tuple(round(mean, 4) for mean in means), tuple(round(deviation, 4) or 1.0 for deviation in deviations)


def initial_network(config: NetworkConfig, seed: int) -> nn.Module:
    """A network with the initial weights of a seed; torch's global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(spread_seed(seed, "weights"))
        return build_network(config)


def _line(record: EpochRecord, epochs: int) -> str:
    return (
        f"epoch {record.epoch}/{epochs}: loss {record.train_loss:.4f}, test {100 * record.test_accuracy:.2f} %, "
        f"{record.seconds:.0f} s"
    )


def _metadata(job: TrainingJob, recipe: Recipe, outcome: TrainingOutcome, images: Dataset) -> dict[str, Any]:
    return {
        "recipe": job.recipe,
        "epochs": recipe.epochs,
        "epoch": outcome.epoch,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.schedule.peak,
        "seed": job.seed,
        "train_images": len(images),
        "test_loss": outcome.test.loss,
        "test_accuracy": outcome.test.accuracy,
        "classes": list(images.classes),
    }
