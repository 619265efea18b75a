"""Rows of the papers' tables, trained at a budget, scored, compiled and counted; everything done is kept.

The folder of a study holds `runs.csv` (one line for each score), `costs.csv` (one line for each compiled network),
`checkpoints/`, and `tables.csv` and `tables.md` made of them. A killed study continues from its last epoch.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnhw.compiler import compile_model
from bnhw.count import Action, ActionKind, count_program, total
from bnhw.datasets import Dataset
from bnhw.dtypes import Array
from bnhw.errors import BnhwError, TrainingDiverged
from bnhw.export.augmentation import centre_crop
from bnhw.export.checkpoints import load_checkpoint, read_metadata, save_checkpoint
from bnhw.export.networks import NetworkConfig
from bnhw.export.paper_cases import Case
from bnhw.export.predictions import Predictor, predict_crops, predict_ensemble, predict_probabilities
from bnhw.export.recipes import Recipe
from bnhw.export.reduction import reduce_network
from bnhw.export.to_onnx import to_onnx
from bnhw.export.training import TrainingData, TrainingOutcome, train
from bnhw.export.training_job import channel_statistics, initial_network
from bnhw.machine import Machine

PROGRESS_IMAGES = 500
"""Test images that are looked at after every epoch; scores are of all."""

SCORE_BATCH = 250
TOP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What is spent on each row. None leaves the paper's own number, or all images.

    train_images, test_images: taken at equal distances, so that files sorted by class give as many of each.
    width, units: see `reduce_network`. side: of the network's input where images are larger; None is the paper's.
    integer_images: test images that the compiled network of seed 1 classifies.
    """

    epochs: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    width: float = 1.0
    units: int | None = None
    side: int | None = None
    precision: str = "auto"
    device: str | None = None
    calibration_images: int = 64
    integer_images: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """The images of one data set at the study's budget."""

    train: Dataset
    test: Dataset

    @property
    def classes(self) -> int:
        """Their number."""
        return len(self.train.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One network with its recipe, for any seed. `key` names it in files: two jobs that differ have two keys."""

    key: str
    config: NetworkConfig
    recipe: Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A score: parts from 0 to 1 of test images whose class was the first, or among the first five.

    None where the training diverged. train_accuracy: of the last epoch, None for ensembles.
    """

    key: str
    seed: int
    ensemble: int
    crops: bool
    train_accuracy: float | None
    top_1: float | None
    top_5: float | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one image costs in the compiled network, storage in bits, and its accuracy beside the float network's.

    problem: why there is no compiled network; the numbers are 0 then.
    """

    key: str
    multiplications: int = 0
    additions: int = 0
    comparisons: int = 0
    multiplexers: int = 0
    constant_bits: int = 0
    weight_bits: int = 0
    images: int = 0
    float_top_1: float = 0.0
    integer_top_1: float = 0.0
    problem: str = ""


def take_evenly(images: Dataset, count: int | None) -> Dataset:
    """`count` images at equal distances; all where there are no more, or for None."""
    if count is None or count >= len(images):
        return images
    chosen = np.arange(count) * len(images) // count
    return replace(images, images=images.images[chosen], labels=images.labels[chosen])


def make_job(case: Case, images: Images, budget: Budget) -> Job:
    """The network and the recipe of a case on these images, made smaller and shorter by the budget."""
    height, width, channels = images.train.images.shape[1:]
    wanted = budget.side or case.side
    side = min(wanted, height, width)
    system = case.system
    if system.normalisation.input == "offline":
        mean, deviation = channel_statistics(images.train.images)
        system = replace(system, normalisation=replace(system.normalisation, input_mean=mean, input_std=deviation))
    config = system.config(side=side, classes=images.classes, channels=channels)
    config = reduce_network(config, width=budget.width, units=budget.units)
    recipe = case.recipe if budget.epochs is None else replace(case.recipe, epochs=budget.epochs)
    what = (
        config,
        recipe,
        case.dataset,
        len(images.train),
        len(images.test),
        images.train.images.shape,
        budget.precision,
    )
    return Job(key=hashlib.sha256(repr(what).encode()).hexdigest()[:12], config=config, recipe=recipe)


def checkpoint_path(folder: Path, key: str, seed: int) -> Path:
    """Where the trained network of a job and seed is kept."""
    return folder / "checkpoints" / f"{key}-{seed}.safetensors"


def train_job(
    job: Job, images: Images, seed: int, folder: Path, budget: Budget, say: Callable[[str], object]
) -> TrainingOutcome | None:
    """Train and keep the network, or continue; None where its checkpoint is already there.

    Raises `TrainingDiverged`.
    """
    path = checkpoint_path(folder, job.key, seed)
    if path.exists():
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = take_evenly(images.test, PROGRESS_IMAGES)
    data = TrainingData(
        train_images=images.train.images,
        train_labels=images.train.labels,
        test_images=shown.images,
        test_labels=shown.labels,
    )
    network = initial_network(job.config, seed)
    state = path.with_suffix(".training.safetensors")

    def tell(records: Sequence[Any]) -> None:
        last = records[-1]
        say(
            f"  seed {seed}, epoch {last.epoch}/{job.recipe.epochs}: loss {last.train_loss:.4f}, "
            f"{100 * last.test_accuracy:.1f} % of {len(shown)} test images, {last.seconds:.0f} s"
        )

    outcome = train(
        network,
        job.recipe,
        data,
        seed=seed,
        state=state,
        device=budget.device,
        precision=budget.precision,
        on_epoch=tell,
    )
    last = outcome.records[outcome.epoch - 1]
    seconds = sum(record.seconds for record in outcome.records)
    save_checkpoint(network, path, metadata={"train_accuracy": last.train_accuracy, "seconds": seconds})
    state.unlink(missing_ok=True)
    return outcome


def score(predictors: Sequence[Predictor], images: Dataset, *, side: int, crops: bool) -> tuple[float, float]:
    """Parts of images whose class comes first, and among the first five, of the mean of all predictions."""
    first = among = 0
    for start in range(0, len(images), SCORE_BATCH):
        batch = torch.tensor(images.images[start : start + SCORE_BATCH]).permute(0, 3, 1, 2)
        labels = torch.tensor(images.labels[start : start + SCORE_BATCH])
        if crops:
            members = [partial(predict_crops, predict, crop=side) for predict in predictors]
            values = predict_ensemble(members, batch.float())
        else:
            values = predict_ensemble(predictors, centre_crop(batch, (side, side)).float())
        order = values.topk(min(TOP, values.shape[1]), dim=1).indices
        first += int((order[:, 0] == labels).sum())
        among += int((order == labels[:, None]).any(dim=1).sum())
    return first / len(images), among / len(images)


def run_case(
    case: Case, job: Job, images: Images, seed: int, folder: Path, budget: Budget, say: Callable[[str], object]
) -> Run:
    """Train what is not trained yet and score it. Ensembles of n have the seeds n (seed - 1) + 1 to n seed."""
    members = range(case.ensemble * (seed - 1) + 1, case.ensemble * seed + 1)
    common: dict[str, Any] = {"key": job.key, "seed": seed, "ensemble": case.ensemble, "crops": case.crops}
    try:
        for member in members:
            train_job(job, images, member, folder, budget, say)
    except TrainingDiverged as error:
        say(f"  {error}")
        return Run(**common, train_accuracy=None, top_1=None, top_5=None, seconds=0.0)
    paths = [checkpoint_path(folder, job.key, member) for member in members]
    predictors = [partial(predict_probabilities, load_checkpoint(path)) for path in paths]
    told = [read_metadata(path) for path in paths]
    top_1, top_5 = score(predictors, images.test, side=job.config.input_shape[1], crops=case.crops)
    return Run(
        **common,
        train_accuracy=told[0]["train_accuracy"] if case.ensemble == 1 else None,
        top_1=top_1,
        top_5=top_5,
        seconds=sum(metadata["seconds"] for metadata in told),
    )


def measure_cost(job: Job, images: Images, folder: Path, budget: Budget) -> Cost:
    """Compile the network of seed 1 with the default options and count what an image costs."""
    network = load_checkpoint(checkpoint_path(folder, job.key, 1))
    path = folder / "checkpoints" / f"{job.key}.onnx"
    size = job.config.input_shape[1:]
    calibration = _cropped(take_evenly(images.train, budget.calibration_images), size)
    shown = take_evenly(images.test, budget.integer_images)
    try:
        to_onnx(network, path, input_shape=job.config.input_shape)
        program = compile_model(path, calibration)
        integer = Machine(program).run(_cropped(shown, size)).logits.argmax(axis=1)
    except BnhwError as error:
        return Cost(key=job.key, problem=str(error).splitlines()[0])
    finally:
        path.unlink(missing_ok=True)
    counts = total(count_program(program))
    top_1, _ = score([partial(predict_probabilities, network)], shown, side=size[0], crops=False)
    return Cost(
        key=job.key,
        multiplications=counts.multipliers,
        additions=_sum_of(counts.actions, ActionKind.ADD),
        comparisons=_sum_of(counts.actions, ActionKind.COMPARE),
        multiplexers=_sum_of(counts.actions, ActionKind.MUX),
        constant_bits=counts.constant_bits,
        weight_bits=counts.weight_bits,
        images=len(shown),
        float_top_1=top_1,
        integer_top_1=float((integer == shown.labels).mean()),
    )


def _cropped(images: Dataset, size: tuple[int, int]) -> Array:
    cropped: Tensor = centre_crop(torch.tensor(images.images).permute(0, 3, 1, 2), size)
    return np.ascontiguousarray(cropped.permute(0, 2, 3, 1).numpy())


def _sum_of(actions: Mapping[Action, int], kind: ActionKind) -> int:
    return sum(count for action, count in actions.items() if action.kind is kind)
