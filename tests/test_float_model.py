"""The float model that `bnhw verify --float` compares with: what it returns, and which files it can be."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from model_builder import ModelBuilder, Tensor, as_nhwc, random_pixels

from bnhw.compare import measure_fidelity
from bnhw.compiler import compile_model
from bnhw.float_model import float_logits
from bnhw.machine import Machine


def written(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def classifier(builder: ModelBuilder) -> Tensor:
    """One layer of 1-bit weights, and the means of its channels."""
    return builder.reduce_mean(builder.convolution(builder.image, builder.signs((5, 3, 3, 3))), keep=False)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("behind", [(), ("Identity",), ("Dropout", "Cast")])
def test_logits_are_taken_in_front_of_a_final_softmax(tmp_path: Path, op: str, behind: tuple[str, ...]) -> None:
    builder = ModelBuilder()
    logits = classifier(builder)
    plain = written(builder.model(logits), tmp_path / "plain.onnx")
    value = builder.apply(logits, op, axis=1)
    for name in behind:
        attributes: dict[str, Any] = {"to": onnx.TensorProto.FLOAT} if name == "Cast" else {}
        value = builder.apply(value, name, **attributes)
    path = written(builder.model(value), tmp_path / "model.onnx")
    pixels = as_nhwc(random_pixels(builder, 12))
    program = compile_model(path, pixels)
    reals = float_logits(path, program, pixels)
    np.testing.assert_array_equal(reals, float_logits(plain, program, pixels))
    result = Machine(program).run(pixels)
    assert measure_fidelity(result.logits, result.scale, reals).signal_to_noise_db > 30
