"""Networks as people write them in torch compile at 8 bits: block forms, activations, normalisations, one of each."""

from pathlib import Path

import numpy as np
import pytest

from bnhw.compare import measure_fidelity
from bnhw.compiler import check, compile_model
from bnhw.count import ActionKind, count_program, total
from bnhw.dtypes import Array
from bnhw.fidelity import DROP_DB, first_drop, measure_layers, reference_graph
from bnhw.float_model import float_logits
from bnhw.importer import read_onnx
from bnhw.machine import Machine
from bnhw.onnx_machine import checked_onnx
from bnhw.program import Multiply, Program

pytest.importorskip("torch", reason="the networks are built with torch")

import torch
from network_forms import FORMS, SIZE, WIDTH, randomise

from bnhw.export.to_onnx import to_onnx

SHAPE = (3, SIZE, SIZE)


def pixels(count: int, seed: int) -> Array:
    """Smooth images with noise (count, SIZE, SIZE, 3)."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 200, (count, 4, 4, 3)).repeat(SIZE // 4, 1).repeat(SIZE // 4, 2)
    return np.asarray(coarse + random.integers(0, 56, (count, SIZE, SIZE, 3)), np.uint8)


def compiled(form: str, path: Path) -> Program:
    torch.manual_seed(0)
    seen = pixels(64, 0)
    to_onnx(randomise(FORMS[form](), seen), path, input_shape=SHAPE)
    return compile_model(path, seen)


QUICK = {
    "resnet, basic, 1-bit",
    "resnext",
    "mobilenet",
    "repvgg",
    "elu, no normalisation",
    "no normalisation, 1-bit",
    "affine",
    "rbn, 1-bit",
    "iebn",
}
"""Forms that `make test` compiles; `make test-all` compiles all."""


@pytest.mark.parametrize("form", [pytest.param(f, marks=[] if f in QUICK else [pytest.mark.slow]) for f in FORMS])
def test_eight_bits_are_exact_integers_25_decibels_above_the_noise(form: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    program = compiled(form, path)
    images = pixels(16, 1)
    checked_onnx(program, images[:2])
    result = Machine(program).run(images)
    fidelity = measure_fidelity(result.logits, result.scale, float_logits(path, program, images))
    assert fidelity.signal_to_noise_db >= 25
    layers = measure_layers(program, reference_graph(read_onnx(path), program), images)
    # A mean near 0 has no signal, and one value beyond all that calibration has seen outweighs all rounding.
    whole = [layer for layer in layers if layer.kind != "SumGlobal" and not layer.clipped]
    drop = first_drop(whole)
    assert drop is None, f"{drop} drops by more than {DROP_DB} dB"


def test_relu6_saturates_in_its_codes_and_costs_nothing(tmp_path: Path) -> None:
    """max(0, min(6, x)) in front of a depthwise convolution is the clamp that codes have anyway."""
    clipped, plain = (compiled(form, tmp_path / "model.onnx") for form in ("mobilenet", "mobilenet, ReLU"))
    assert [i.kind for i in clipped.instructions] == [i.kind for i in plain.instructions]
    comparisons = [
        sum(n for action, n in total(count_program(program)).actions.items() if action.kind is ActionKind.COMPARE)
        for program in (clipped, plain)
    ]
    assert comparisons[0] == comparisons[1]


def test_a_data_dependent_scale_costs_one_multiplication_a_number(tmp_path: Path) -> None:
    program = compiled("rbn, 1-bit", tmp_path / "model.onnx")
    assert any("4 products of two computed values" in note for note in check(tmp_path / "model.onnx").notes)
    products = [layer for layer in count_program(program) if isinstance(layer.instruction, Multiply)]
    sizes = [program.tensor[layer.instruction.output].size for layer in products]
    assert sizes == [WIDTH * size * size for size in (32, 16, 16, 8)]
    assert [layer.counts.multipliers for layer in products] == sizes
    assert {action.name for layer in products for action in layer.counts.actions} == {"multiply_12x8"}
