"""RepVGG's two forms: equal logits, equal published sizes, and refusals where the branches do not merge."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from small_networks import CONFIGS, as_tensor, build, smooth_images, with_normalisation  # noqa: E402 - after the skip
from torch import nn  # noqa: E402

from bnhw.errors import BadInput  # noqa: E402
from bnhw.export.image_networks import KINDS  # noqa: E402
from bnhw.export.normalisations import Normalisation  # noqa: E402
from bnhw.export.repvgg import DATA_DEPENDENT, RepVGG, RepVGGConfig, reparameterise  # noqa: E402
from bnhw.export.to_onnx import to_onnx  # noqa: E402

SMALL = CONFIGS["repvgg"]
MERGING = [kind for kind in KINDS if kind not in DATA_DEPENDENT]


def training_form(kind: Normalisation = Normalisation.BATCH_NORM, **fields: Any) -> RepVGG:
    model = build(replace(with_normalisation(SMALL, kind), **fields))
    assert isinstance(model, RepVGG)
    return model


@pytest.mark.parametrize("kind", MERGING)
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_both_forms_give_the_same_logits(kind: Normalisation, stem: Any) -> None:
    model = training_form(kind, stem=stem)
    merged = reparameterise(model)
    image = as_tensor(smooth_images(model.config, 4, seed=1))
    with torch.no_grad():
        torch.testing.assert_close(merged(image), model(image), rtol=1e-4, atol=1e-4)


def test_the_inference_form_is_one_convolution_a_block() -> None:
    model = training_form()
    before = copy.deepcopy(model.state_dict())
    merged = reparameterise(model.train())
    assert model.training and not merged.training
    assert merged.config == replace(model.config, form="inference")
    for block in merged.blocks:
        (layer,) = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
        assert layer.kernel_size == (3, 3) and layer.bias is not None
        assert not any(isinstance(module, nn.BatchNorm2d) for module in block.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_merging_draws_no_random_numbers() -> None:
    model = training_form()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    reparameterise(model)
    assert torch.equal(torch.rand(4), expected)


def test_the_exported_inference_form_gives_the_logits_of_the_training_form(tmp_path: Path) -> None:
    model = training_form()
    to_onnx(reparameterise(model), tmp_path / "merged.onnx", input_shape=model.config.input_shape)
    session = onnxruntime.InferenceSession(tmp_path / "merged.onnx", providers=["CPUExecutionProvider"])
    image = as_tensor(smooth_images(model.config, 3, seed=1))
    (logits,) = session.run(None, {"image": image.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(image).numpy(), rtol=1e-4, atol=1e-4)


def test_one_bit_branches_do_not_merge() -> None:
    with pytest.raises(BadInput, match=r"no inference form: weights is '1bit'.*compile the training form"):
        reparameterise(training_form(weights="1bit"))


@pytest.mark.parametrize("kind", DATA_DEPENDENT)
def test_gains_that_depend_on_the_image_do_not_merge(kind: Normalisation) -> None:
    with pytest.raises(BadInput, match=f"no inference form: normalisation is {kind}, whose gain depends on the image"):
        reparameterise(training_form(kind))


def test_the_inference_form_is_not_merged_again() -> None:
    with pytest.raises(BadInput, match="in its inference form already; reparameterise takes the training form"):
        reparameterise(reparameterise(training_form()))


def test_stages_have_the_channels_of_the_paper() -> None:
    assert RepVGGConfig().stage_channels == (48, 48, 96, 192, 1280)
    wide = RepVGGConfig(width_factor=2.5, last_width_factor=5.0)  # RepVGG-B2 of the same paper
    assert wide.stage_channels == (64, 160, 320, 640, 2560)
