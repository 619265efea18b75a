"""Scores, averages over crops and networks, batch-norm statistics."""

import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from torch import Tensor, nn  # noqa: E402

from bnhw.errors import BadInput  # noqa: E402
from bnhw.export.normalisation_layers import MeanOnlyBatchNorm2d  # noqa: E402
from bnhw.export.predictions import (  # noqa: E402
    evaluate,
    predict_crops,
    predict_ensemble,
    predict_probabilities,
    reestimate_batch_norm,
)


class FirstPixels(nn.Module):
    """The upper left pixel of each channel as logits."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, 0, 0]


def test_score_is_that_of_all_images_together() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(23, 4, 2, 2), torch.randint(4, (23,))
    model = FirstPixels().train()
    score = evaluate(model, zip(images.split(5), labels.split(5), strict=True))
    logits = images[:, :, 0, 0]
    assert score.loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)))
    assert score.accuracy == float((logits.argmax(1) == labels).double().mean())
    assert model.training


def test_twenty_five_crops_are_a_grid_from_corner_to_corner() -> None:
    images = torch.arange(2 * 40 * 48, dtype=torch.float32).reshape(2, 1, 40, 48)
    seen: list[Tensor] = []

    def predict(crops: Tensor) -> Tensor:
        assert crops.shape == (2, 1, 32, 32)
        seen.append(crops[:, :, 0, 0])
        return crops[:, :, 0, 0]

    mean = predict_crops(predict, images, crop=32)
    corners = [images[:, :, top, left] for top in (0, 2, 4, 6, 8) for left in (0, 4, 8, 12, 16)]
    assert len(seen) == 25
    assert all(torch.equal(a, b) for a, b in zip(seen, corners, strict=True))
    assert torch.allclose(mean, torch.stack(corners).mean(0))


def test_one_crop_is_the_centre_crop() -> None:
    images = torch.rand(3, 2, 9, 7)
    predict = FirstPixels()
    assert torch.equal(predict_crops(predict, images, crop=5, per_side=1), images[:, :, 2, 1])


def test_crops_of_an_image_of_the_crop_s_size_are_that_image() -> None:
    images = torch.rand(3, 2, 5, 5)
    assert torch.allclose(predict_crops(FirstPixels(), images, crop=5), images[:, :, 0, 0])


def test_crops_larger_than_the_image_are_refused() -> None:
    with pytest.raises(BadInput, match="5 x 5 crops of 6 x 6 pixels from images of 5 x 7"):
        predict_crops(FirstPixels(), torch.rand(1, 1, 5, 7), crop=6)


def test_an_ensemble_averages_probabilities_and_may_so_overrule_its_logits() -> None:
    """One network is sure of class 0 beyond all measure; two lean to class 1."""
    logits = [torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 3.0]]), torch.tensor([[0.0, 3.0]])]
    networks = [nn.Identity() for _ in logits]
    predictors = [lambda _, n=n, x=x: predict_probabilities(n, x) for n, x in zip(networks, logits, strict=True)]
    mean = predict_ensemble(predictors, torch.zeros(1, 2))
    assert int(mean.argmax()) == 1
    assert int(torch.stack(logits).mean(0).argmax()) == 0
    assert float(mean.sum()) == pytest.approx(1)


def test_an_ensemble_of_none_is_refused() -> None:
    with pytest.raises(BadInput, match="an ensemble of no networks"):
        predict_ensemble([], torch.zeros(1))


def test_a_score_of_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="no images to evaluate on"):
        evaluate(FirstPixels(), [])


def test_batch_norm_statistics_are_the_means_over_the_batches() -> None:
    torch.manual_seed(0)
    batches = [torch.randn(6, 3, 2, 2) * 5 + k for k in range(4)]
    norm, dropout, mean_only = nn.BatchNorm2d(3), nn.Dropout(0.5), MeanOnlyBatchNorm2d(3)
    model = nn.Sequential(norm, dropout, mean_only)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.fill_(99.0)
    reestimate_batch_norm(model.train(), batches)
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    variances = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    assert torch.allclose(norm.running_mean, means, atol=1e-5)
    assert torch.allclose(norm.running_var, variances, atol=1e-4)
    assert torch.allclose(mean_only.running_mean, torch.zeros(3), atol=1e-5)  # dropout is turned off
    assert model.training
    assert dropout.training
    assert (norm.momentum, mean_only.momentum) == (0.1, 0.1)


def test_a_network_without_statistics_is_left_alone() -> None:
    batches = iter([object()])
    reestimate_batch_norm(nn.Conv2d(1, 1, 1), batches)  # type: ignore[arg-type]  # never looked at
    assert len(list(batches)) == 1, "a batch was taken although there is nothing to measure"
