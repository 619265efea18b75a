"""Training a network by a recipe: resumable, in mixed precision, on CUDA where there is a device.

The same call on the same machine with the same number of threads gives the same bits on a CPU, killed and continued
or not. On CUDA that holds as far as its kernels are deterministic.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from bnhw.errors import BadInput, TrainingDiverged
from bnhw.export.augmentation import augment, centre_crop
from bnhw.export.cuda_graphs import Replay
from bnhw.export.optimisers import build_optimiser, set_rate
from bnhw.export.predictions import Score, evaluate, reestimate_batch_norm
from bnhw.export.recipes import Recipe, spread_seed
from bnhw.export.schedules import clip_gradients
from bnhw.export.training_log import EpochRecord
from bnhw.export.training_state import Tensors, load_state, save_state

PRECISIONS = ("auto", "float32", "bfloat16")
TEST_BATCH = 500
LOSS_CHECK_STEPS = 20
"""A loss on CUDA is only looked at every so many batches: looking waits for the device."""
DEVICE_DATA_BYTES = 8 << 30
"""Larger data sets stay in the host's memory."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingData:
    """Images uint8 (N, H, W, C), labels integers (N,), for training and for the test after each epoch.

    Raises `BadInput` for other types and shapes.
    """

    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.integer]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.integer]

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            images, labels = getattr(self, f"{name}_images"), getattr(self, f"{name}_labels")
            if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
                raise BadInput(f"{name} images are {images.dtype} {images.shape}, expected uint8 (N, H, W, C), N > 0")
            if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
                raise BadInput(f"{name} labels are {labels.dtype} {labels.shape}, expected {len(images)} integers")
            if labels.min() < 0:
                raise BadInput(f"{name} labels go down to {labels.min()}, expected 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOutcome:
    """The records of all epochs, and the score of the finished network on the test images.

    epoch: the epoch whose weights it has, the last one unless the recipe chooses the best.
    """

    records: tuple[EpochRecord, ...]
    test: Score
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    """Images uint8 (N, C, H, W), int64 labels (N,), wherever they are kept."""

    images: Tensor
    labels: Tensor

    def part(self, index: Tensor) -> "_Set":
        return _Set(images=self.images[index], labels=self.labels[index])


def train(
    model: nn.Module,
    recipe: Recipe,
    data: TrainingData,
    *,
    seed: int,
    input_size: tuple[int, int] | None = None,
    state: Path | None = None,
    device: str | None = None,
    precision: str = "auto",
    progress: Callable[[int], object] = lambda done: None,
    on_epoch: Callable[[tuple[EpochRecord, ...]], object] = lambda records: None,
) -> TrainingOutcome:
    """Train `model` in place; it ends in eval mode on its old device.

    seed: of everything random but the initial weights, which are the caller's.
    input_size: height and width that the network takes; by default those of its configuration, or of the images.
    state: file to continue from if it exists, written after every epoch; the caller removes it in the end.
    device: "cuda" or "cpu"; by default CUDA where there is a device.
    precision: convolutions in "bfloat16" or "float32"; "auto" is bfloat16 on CUDA alone. Weights, gradients of weights
        and everything that is evaluated are float32.
    progress: called with the number of epochs' batches done, of `count_steps`.
    on_epoch: called with all records after every epoch.

    Raises `BadInput` where data, model and options do not fit, `TrainingDiverged` where the loss is no number.
    """
    run = _Run(model, recipe, data, seed, input_size or _input_size(model, data), device, precision)
    settings = {"recipe": repr(recipe), "seed": str(seed), "precision": run.precision, "network": _describe(model)}
    best: Tensors | None = None
    records: list[EpochRecord] = []
    home = next(model.parameters()).device
    model.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    if state is not None and state.exists():
        best, records = load_state(state, model, run.optimiser, settings)
    for epoch in range(len(records), recipe.epochs):
        record = run.train_epoch(epoch, progress)
        if recipe.choose_best and _is_best(record, records):
            best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        records.append(record)
        if state is not None:
            save_state(state, model, run.optimiser, best, records, settings)
        on_epoch(tuple(records))
    run.replay.forget()
    if best is not None:
        model.load_state_dict(best)
    if recipe.reestimate_batch_norm:
        reestimate_batch_norm(model, run.batches("re-estimation"))
    outcome = TrainingOutcome(records=tuple(records), test=run.score(run.test), epoch=_chosen(recipe, records))
    model.to(home).eval()
    return outcome


def count_steps(recipe: Recipe, data: TrainingData) -> int:
    """Batches of a whole training."""
    held_out = len(_held_out(data.train_labels, recipe.validation_part, 0)) if recipe.validation_part else 0
    return recipe.epochs * -(-(len(data.train_labels) - held_out) // recipe.batch_size)


class _Run:
    """What stays the same over the epochs of one training."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        data: TrainingData,
        seed: int,
        input_size: tuple[int, int],
        device: str | None,
        precision: str,
    ) -> None:
        self.model, self.recipe, self.seed, self.input_size = model, recipe, seed, input_size
        self.device = _find_device(device)
        self.precision = _find_precision(precision, self.device)
        self.optimiser = build_optimiser(model, recipe)
        self.replay = Replay(model, self.device, partial(_autocast, self.device.type, self.precision))
        self.train = self._set(data.train_images, data.train_labels)
        self.test = self._set(data.test_images, data.test_labels)
        self.validation: _Set | None = None
        if recipe.validation_part:
            held_out = _held_out(data.train_labels, recipe.validation_part, seed)
            kept = np.setdiff1d(np.arange(len(data.train_labels)), held_out)
            self.validation = self.train.part(torch.from_numpy(held_out).to(self.train.labels.device))
            self.train = self.train.part(torch.from_numpy(kept).to(self.train.labels.device))
        self.steps = -(-len(self.train.labels) // recipe.batch_size)

    def _set(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer]) -> _Set:
        place = self.device if images.nbytes <= DEVICE_DATA_BYTES else torch.device("cpu")
        return _Set(
            images=torch.tensor(images).permute(0, 3, 1, 2).to(place),
            labels=torch.tensor(labels.astype(np.int64)).to(place),
        )

    def labelled_batches(self, *purpose: object) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented batches of one epoch in random order; the purpose decides every random number."""
        order = torch.randperm(len(self.train.labels), generator=_generator(self.seed, *purpose, "order"))
        generator = _generator(self.seed, *purpose, "augmentation", device=self.device)
        for index in torch.split(order.to(self.train.labels.device), self.recipe.batch_size):
            images, labels = (t[index].to(self.device) for t in (self.train.images, self.train.labels))
            changed = augment(images, self.recipe.augmentation, generator, size=self.input_size)
            yield _as_float(changed), labels

    def batches(self, *purpose: object) -> Iterator[Tensor]:
        """As `labelled_batches`, images alone."""
        return (images for images, _ in self.labelled_batches(*purpose))

    def score(self, chosen: _Set) -> Score:
        """Loss and accuracy of the network as it is, in float32."""
        parts = zip(torch.split(chosen.images, TEST_BATCH), torch.split(chosen.labels, TEST_BATCH), strict=True)
        return evaluate(
            self.model,
            (
                (_as_float(centre_crop(images.to(self.device), self.input_size)), labels.to(self.device))
                for images, labels in parts
            ),
        )

    def train_epoch(self, epoch: int, progress: Callable[[int], object]) -> EpochRecord:
        start = time.perf_counter()
        self.model.train()
        loss_sum, correct = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        with torch.random.fork_rng():  # dropout draws from the global generators
            torch.manual_seed(spread_seed(self.seed, "epoch", epoch, "network"))
            for step, (images, labels) in enumerate(self.labelled_batches("epoch", epoch)):
                loss, right = self._step(images, labels, epoch, step)
                loss_sum += loss * len(labels)
                correct += right
                if step % LOSS_CHECK_STEPS == 0 or step + 1 == self.steps:
                    self._check(loss_sum, epoch, step)
                progress(epoch * self.steps + step + 1)
        validation = None if self.validation is None else self.score(self.validation)
        test = self.score(self.test)
        return EpochRecord(
            epoch=epoch + 1,
            learning_rate=self.recipe.schedule.rate(epoch / self.recipe.epochs),
            train_loss=float(loss_sum) / len(self.train.labels),
            train_accuracy=float(correct) / len(self.train.labels),
            test_loss=test.loss,
            test_accuracy=test.accuracy,
            validation_loss=validation.loss if validation else None,
            validation_accuracy=validation.accuracy if validation else None,
            seconds=time.perf_counter() - start,
        )

    def _step(self, images: Tensor, labels: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Learn from one batch; its mean loss and the number of images that had the right class before."""
        recipe = self.recipe
        set_rate(self.optimiser, recipe.schedule.rate((epoch * self.steps + step) / (recipe.epochs * self.steps)))
        logits = self.replay(images)
        loss = functional.cross_entropy(logits.float(), labels)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        if recipe.clipping is not None:
            clip_gradients(self.model.parameters(), recipe.clipping, epoch)
        self.optimiser.step()
        return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum()

    def _check(self, loss_sum: Tensor, epoch: int, step: int) -> None:
        if not bool(torch.isfinite(loss_sum)):
            rate = self.recipe.schedule.rate((epoch * self.steps + step) / (self.recipe.epochs * self.steps))
            raise TrainingDiverged(
                f"the loss is no longer a number in epoch {epoch + 1}, batch {step + 1} of {self.steps}, at the "
                f"learning rate {rate:.3g}; try a tenth of the learning rate, a temperature of 30 to 100 for a network "
                "without batch norm, a recipe with gradient clipping such as paper-2-monotone, or float32"
            )


def _autocast(device: str, precision: str, cached: bool) -> AbstractContextManager[object]:
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=cached)


def _as_float(images: Tensor) -> Tensor:
    return images.to(torch.float32, memory_format=torch.channels_last)


def _generator(seed: int, *purpose: object, device: torch.device | None = None) -> torch.Generator:
    return torch.Generator(device or "cpu").manual_seed(spread_seed(seed, *purpose))


def _held_out(labels: npt.NDArray[np.integer], part: float, seed: int) -> npt.NDArray[np.int64]:
    """Rising indices of the part of every class, rounded, that is held out (paper 3, section 4.1)."""
    generator = np.random.default_rng(spread_seed(seed, "validation"))
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    chosen = [generator.permutation(members)[: round(part * len(members))] for members in classes]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _is_best(record: EpochRecord, before: list[EpochRecord]) -> bool:
    """Whether no epoch before had this validation accuracy."""
    return all((record.validation_accuracy or 0) > (other.validation_accuracy or 0) for other in before)


def _chosen(recipe: Recipe, records: list[EpochRecord]) -> int:
    if not recipe.choose_best:
        return len(records)
    return max(records, key=lambda record: (record.validation_accuracy or 0, -record.epoch)).epoch


def _input_size(model: nn.Module, data: TrainingData) -> tuple[int, int]:
    """Height and width; checks channels and classes where the network has a configuration."""
    height, width, channels = data.train_images.shape[1:]
    config = getattr(model, "config", None)
    if config is None:
        return height, width
    if config.input_shape[0] != channels:
        raise BadInput(f"images have {channels} channels, the network takes {config.input_shape[0]}; build it for them")
    most = max(int(data.train_labels.max()), int(data.test_labels.max()))
    if most >= config.classes:
        raise BadInput(
            f"labels go up to {most}, the network has the classes 0 to {config.classes - 1}; build it for them"
        )
    return config.input_shape[1], config.input_shape[2]


def _describe(model: nn.Module) -> str:
    config = getattr(model, "config", None)
    return repr(config) if config is not None else type(model).__name__


def _find_device(device: str | None) -> torch.device:
    available = torch.cuda.is_available()
    if device not in (None, "cpu", "cuda"):
        raise BadInput(f"device {device!r} is unknown; choose cpu or cuda")
    if device == "cuda" and not available:
        raise BadInput("device cuda: torch sees no CUDA device; choose cpu, or install torch for CUDA")
    return torch.device(device or ("cuda" if available else "cpu"))


def _find_precision(precision: str, device: torch.device) -> str:
    if precision not in PRECISIONS:
        raise BadInput(f"precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return precision
