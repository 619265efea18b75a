"""What trained networks say: loss and accuracy, averages over crops and over networks, batch-norm statistics.

A predictor maps raw pixels, float32 (N, C, H, W) with values 0 to 255, to one row of scores an image.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnhw.errors import BadInput
from bnhw.export.normalisation_layers import STATISTICS_LAYERS, MeanOnlyBatchNorm2d

Predictor = Callable[[Tensor], Tensor]

CROPS_PER_SIDE = 5
"""25 crops an image (paper 1, table III)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Mean cross-entropy loss and part (0 to 1) of images that got the right class."""

    loss: float
    accuracy: float


def predict_probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """Softmax of the logits of `model`, float32 (N, classes), without gradients."""
    with torch.no_grad():
        return functional.softmax(model(images).float(), dim=1)


def predict_crops(predict: Predictor, images: Tensor, *, crop: int, per_side: int = CROPS_PER_SIDE) -> Tensor:
    """The mean of `predict` over per_side x per_side crops of every image, on a regular grid.

    images: (N, C, H, W) of any size from `crop` x `crop`. The multi-crop test of paper 1, table III: 25 different
    crops, their predictions averaged before classifying. Neighbouring crops coincide where an image is hardly larger
    than a crop. Raises `BadInput` for smaller images.
    """
    height, width = images.shape[-2:]
    if crop > min(height, width) or crop < 1 or per_side < 1:
        raise BadInput(f"{per_side} x {per_side} crops of {crop} x {crop} pixels from images of {height} x {width}")
    tops, lefts = _starts(height - crop, per_side), _starts(width - crop, per_side)
    crops = [predict(images[:, :, top : top + crop, left : left + crop]) for top in tops for left in lefts]
    return torch.stack(crops).mean(dim=0)


def _starts(spare: int, count: int) -> list[int]:
    """`count` places from 0 to `spare` at equal distances; the middle if there is one place."""
    if count == 1:
        return [spare // 2]
    return [(2 * index * spare + count - 1) // (2 * (count - 1)) for index in range(count)]


def predict_ensemble(predictors: Sequence[Predictor], images: Tensor) -> Tensor:
    """The mean of several networks' predictions (paper 1, section IV and table III).

    Probabilities, not logits, are what the paper calls predictions: hand over networks wrapped by
    `predict_probabilities`. Raises `BadInput` where there is none.
    """
    if not predictors:
        raise BadInput("an ensemble of no networks; give at least one")
    return torch.stack([predict(images) for predict in predictors]).mean(dim=0)


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """Loss and accuracy in eval mode over batches of (images, labels); the mode of `model` is restored.

    Raises `BadInput` where there is no image.
    """
    training = model.training
    model.eval()
    loss, correct, count = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in batches:
            logits = model(images).float()
            loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
            correct += int((logits.argmax(dim=1) == labels).sum())
            count += len(labels)
    model.train(training)
    if not count:
        raise BadInput("no images to evaluate on; give at least one")
    return Score(loss=loss / count, accuracy=correct / count)


def layers_with_statistics(model: nn.Module) -> list[nn.BatchNorm2d | MeanOnlyBatchNorm2d]:
    """Every layer of `model` that keeps running statistics, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, STATISTICS_LAYERS)]


def reestimate_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the statistics of every batch norm to the mean over `batches`, with learning turned off, in place.

    Paper 1, section III-A: averages over all mini-batches of one epoch after the end of training. All other layers
    are in eval mode. The mode of `model` is restored; without batch norms nothing happens.
    """
    layers = layers_with_statistics(model)
    if not layers:
        return
    training, momenta = model.training, [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over all batches
        layer.train()
    with torch.no_grad():
        for images in batches:
            model(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.train(training)
