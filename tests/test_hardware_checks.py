"""Figures of other tools and chips on the same work, and mistakes of theirs that must not be ours.

`docs/cross-checks.md` is the list: every figure and every mistake there names the tests that stand for it.
"""

import ast
import importlib.util
import itertools
import math
import re
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program_builder import BIT, Builder, one_of_each

from bnhw.compiler import compile_model
from bnhw.count import ActionKind, count_program, total
from bnhw.dtypes import Array, IntegerType, Quantisation
from bnhw.errors import BadInput
from bnhw.hardware.peers import (
    ConvolutionShape,
    Ne16Cycles,
    ZigZagCycles,
    ne16_cycles,
    ne16_subtile,
    zigzag_cycles,
)
from bnhw.hardware.streaming import fold, streaming_units
from bnhw.hardware.streaming_latency import streaming_latency
from bnhw.hardware.systolic import Stationary, systolic_cycles
from bnhw.kernels import reference
from bnhw.kernels.types import Coding, Geometry
from bnhw.machine import Machine
from bnhw.ops import Window
from bnhw.options import CompileOptions
from bnhw.program import Convolve, Program, Tensor
from bnhw.threshold_constants import Line, Rounding, find_thresholds

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))  # scripts import one another
CHECKS = (ROOT / "docs" / "cross-checks.md").read_text()
DATA = Path(__file__).parents[2] / "shared" / "data"
TFC, MNIST = DATA / "qonnx" / "TFC_1W1A.onnx", DATA / "mnist.npz"
needs_tfc = pytest.mark.skipif(not (TFC.is_file() and MNIST.is_file()), reason=f"no {TFC.name} or MNIST in {DATA}")


@pytest.fixture(scope="module")
def tfc() -> Program:
    """The published network of 784-64-64-64-10 signs."""
    return compile_model(TFC, np.load(MNIST)["test_images"][:50], CompileOptions(input_std=(255.0,)))


def tfc_shape() -> Program:
    """The same shape with random weights, where the published file is not at hand."""
    builder = Builder(random=np.random.default_rng(0), shape=(1, 1, 784))
    bit = Tensor(name="", shape=(1, 1, 1), dtype=BIT, scale=1.0, bipolar=True)
    current = builder.look_up(builder.tensors["image"], bit, per_channel=False)
    for size in (64, 64, 64, 10):
        sums = builder.convolve(current, Window(kernel=(1, 1)), groups=1, out_channels=size, bits=1)
        current = builder.requantise(sums, bit, multiplier_bits=0)
    return builder.program(current)


def expect_finn_cycles(program: Program) -> None:
    units = streaming_units(program)
    design = fold(units, [(1, 1)] * len(units))
    assert [u.cycles for u in design.units if u.unit.is_convolution] == [50_176, 4_096, 4_096, 640]
    assert design.interval == 50_176
    assert design.weight_words == 59_008
    # FINN's own latency estimate is the sum of all; ours overlaps what can overlap, and here almost nothing can:
    # a dense layer needs the whole vector in front of it
    assert 50_176 < streaming_latency(program, design).cycles <= sum(u.cycles for u in design.units)


@needs_tfc
def test_tfc_takes_finn_s_cycles_with_one_lane_a_layer(tfc: Program) -> None:
    expect_finn_cycles(tfc)


def test_a_network_of_the_shape_of_tfc_takes_finn_s_cycles() -> None:
    expect_finn_cycles(tfc_shape())


def test_sums_of_784_signs_take_11_bits_and_popcounts_10() -> None:
    """FINN's INT10 and INT7 hold popcounts up to 784 and 64, and no signed sums of as many signs."""
    signed = [IntegerType.containing(-count, count) for count in (784, 64)]
    popcounts = [IntegerType.containing(0, count) for count in (784, 64)]
    assert [dtype.bits for dtype in signed] == [11, 8]
    assert [dtype.bits for dtype in popcounts] == [10, 7]
    accumulators = [t.dtype for t in tfc_accumulators(tfc_shape())]
    assert accumulators == [IntegerType(bits=bits, signed=True) for bits in (11, 8, 8, 8)]


def tfc_accumulators(program: Program) -> list[Tensor]:
    return [program.tensor[i.output] for i in program.instructions if isinstance(i, Convolve)]


# ZigZag and NE16.

LAYER = ConvolutionShape(height=32, width=32, inputs=64, outputs=64, kernel=3)


def test_zigzag_s_latencies_follow_from_its_parts() -> None:
    """ZigZag 3.9.1, tpu_like, K and C unrolled: latency_total0 36864, latency_total2 46176, 46114 and 156736."""
    big, small = zigzag_cycles(LAYER, side=32), zigzag_cycles(LAYER, side=16)
    assert big == ZigZagCycles(ideal=36_864, loading=9_248, fill=62)
    assert small.ideal == 147_456
    assert big.total == 46_176
    assert zigzag_cycles(LAYER, side=32, systolic=False).total == 46_114
    assert small.total == 156_736


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20), st.integers(1, 3), st.integers(1, 8)
)
def test_zigzag_s_ideal_cycles_are_the_loops_that_are_left(
    height: int, width: int, inputs: int, outputs: int, kernel: int, side: int
) -> None:
    shape = ConvolutionShape(height=height, width=width, inputs=inputs, outputs=outputs, kernel=kernel)
    loops = (range(height), range(width), range(kernel), range(kernel), range(0, inputs, side), range(0, outputs, side))
    assert zigzag_cycles(shape, side=side).ideal == sum(1 for _ in itertools.product(*loops))


NE16_STAGES = {"load": 31, "weight_offset": 6, "matrixvec": 262, "update_idx": 2, "normquant": 41, "streamout": 13}
"""DORY's performance model of NE16 with 8-bit weights, by subtile."""


def test_a_subtile_of_ne16_has_the_published_stages() -> None:
    assert ne16_subtile(3, 32, 8) == Ne16Cycles(**NE16_STAGES)
    assert ne16_subtile(3, 32, 1) == Ne16Cycles(**NE16_STAGES | {"matrixvec": 38})


@pytest.mark.parametrize(("bits", "cycles"), [(8, 304_436), (4, 180_532), (2, 118_580), (1, 87_604)])
def test_ne16_takes_the_published_cycles(bits: int, cycles: int) -> None:
    assert ne16_cycles(LAYER, bits).total == cycles


@pytest.mark.parametrize(("bits", "per_cent"), [(8, 3.3), (1, 11.3)])
def test_batch_norm_is_a_larger_share_the_fewer_bits_weights_have(bits: int, per_cent: float) -> None:
    found = ne16_cycles(LAYER, bits)
    assert 100 * found.normquant / found.total == pytest.approx(per_cent, abs=0.05)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 10),
    st.integers(1, 10),
    st.integers(1, 50),
    st.integers(1, 80),
    st.sampled_from((1, 3)),
    st.integers(1, 8),
)
def test_ne16_s_cycles_are_those_of_its_loops(
    height: int, width: int, inputs: int, outputs: int, kernel: int, bits: int
) -> None:
    cycles = 0
    for _row, _column in itertools.product(range(0, height, 3), range(0, width, 3)):
        for first in range(0, outputs, 32):
            used = min(32, outputs - first)
            for _ in range(0, inputs, 16):
                cycles += (6 + 25 if kernel == 3 else 10 + 9) + 6 + 2
                cycles += 6 + sum(bits if kernel == 3 else 1 for _ in range(used))
            cycles += 9 + used + 13
    shape = ConvolutionShape(height=height, width=width, inputs=inputs, outputs=outputs, kernel=kernel)
    assert ne16_cycles(shape, bits).total == cycles


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ne16_cycles(ConvolutionShape(height=1, width=1, inputs=1, outputs=1, kernel=5), 8),
            "no convolution of 5 x 5",
        ),
        (lambda: ne16_cycles(LAYER, 9), "9 bits, 32 channels; NE16 takes 1 to 8 and 1 to 32"),
        (lambda: zigzag_cycles(LAYER, side=0), "an array of side 0; at least 1 is expected"),
        (
            lambda: ConvolutionShape(height=0, width=1, inputs=0, outputs=1, kernel=1),
            "no convolution: height is 0, inputs is 0; at least 1 is expected",
        ),
    ],
)
def test_what_a_peer_does_not_have_is_refused(call: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        call()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from((-1, 1)), st.sampled_from((-1, 1))), min_size=1, max_size=300))
def test_popcount_is_half_of_dot_and_length(pairs: list[tuple[int, int]]) -> None:
    """popcount(xnor) = (dot + K) / 2, with the dot product of the reference kernel."""
    weights, signs = (np.array(side, np.int8) for side in zip(*pairs, strict=True))
    point = Geometry(kernel=(1, 1), stride=(1, 1), pads=(0, 0, 0, 0))
    coding = Coding(bits=1, signed=False, zero_point=0, bipolar=True)
    codes = ((signs + 1) // 2).astype(np.int32).reshape(1, 1, 1, -1)
    dot = int(reference.convolution(codes, weights.reshape(1, 1, 1, -1), point, coding).item())
    agreeing = sum(weight == sign for weight, sign in pairs)
    assert 2 * agreeing == dot + len(pairs)


# Mistakes of others.


def float32_code(line: Line, acc: int, quantisation: Quantisation) -> int:
    """The code as a float32 implementation computes it: real value, division by the scale, rounding half up."""
    real = np.float32(float(line.slope)) * np.float32(acc) + np.float32(float(line.intercept))
    code = math.floor(real / np.float32(quantisation.scale) + np.float32(0.5))
    return min(max(code, quantisation.dtype.low), quantisation.dtype.high)


def test_thresholds_are_right_just_below_a_boundary_where_float32_is_one_off() -> None:
    """Slopes of sevenths: the boundaries lie between floats, and a float32 sum lands on the wrong side of some."""
    quantisation = Quantisation(dtype=IntegerType(bits=8, signed=False), scale=0.125)
    span = (0, 1 << 22)
    wrong = 0
    for numerator in range(1, 40):
        line = Line(slope=Fraction(numerator, 7 * 2**20), intercept=Fraction(1, 3))
        found = find_thresholds([[line]], Rounding(quantisation=quantisation), span)
        for level, threshold in enumerate(found.values[0, 0].tolist(), start=found.low + 1):
            for acc in (threshold - 1, threshold):
                if not span[0] <= acc <= span[1]:
                    continue
                exact = math.floor((line.slope * acc + line.intercept) / Fraction(0.125) + Fraction(1, 2))
                ours = level if acc >= threshold else level - 1
                assert min(exact, 255) == ours
                wrong += float32_code(line, acc, quantisation) != ours
    assert wrong > 0


def test_a_global_pool_is_counted_and_one_bit_weights_are_no_multiplications() -> None:
    """qonnx counts no pool of the whole image; larq books 1-bit weights on float inputs as 32-bit MACs."""
    builder = Builder(random=np.random.default_rng(0), shape=(6, 5, 3))
    sums = builder.convolve(builder.tensors["image"], Window(kernel=(3, 3)), groups=1, out_channels=4, bits=1)
    layers = count_program(builder.program(builder.sum_global(sums)))
    additions = [sum(n for a, n in one.counts.actions.items() if a.kind is ActionKind.ADD) for one in layers]
    assert additions == [4 * 3 * 27 * 4, 4 * (4 * 3 - 1)]
    assert total(layers).multipliers == 0


def grouped(groups: int) -> Program:
    builder = Builder(random=np.random.default_rng(0), shape=(6, 6, 8))
    window = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
    sums = builder.convolve(builder.tensors["image"], window, groups=groups, out_channels=8, bits=1)
    return builder.program(builder.sum_global(sums))


def weights_as_dense(program: Program) -> Array:
    """The only convolution's weights (out, height, width, in), 0 outside a channel's group."""
    (convolve,) = (i for i in program.instructions if isinstance(i, Convolve))
    own = program.weights_of(convolve).astype(np.int64)
    outputs, _, _, per_group = own.shape
    dense = np.zeros((*own.shape[:3], per_group * convolve.groups), np.int64)
    for channel in range(outputs):
        first = channel // (outputs // convolve.groups) * per_group
        dense[channel, :, :, first : first + per_group] = own[channel]
    return dense


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_counts_pipelines_and_arrays_take_a_grouped_convolution_for_what_it_is(groups: int) -> None:
    program = grouped(groups)
    macs = 36 * 9 * 8 * (8 // groups)
    counts = total(count_program(program))
    (unit,) = (unit for unit in streaming_units(program) if unit.is_convolution)
    (layer,) = systolic_cycles(program, 4, 4, Stationary.OUTPUT)
    assert counts.macs_full == unit.pixels * unit.matrix_height * unit.matrix_width == layer.product.macs == macs
    assert counts.weight_bits == unit.weight_count == 9 * 8 * (8 // groups)
    image = np.random.default_rng(1).integers(0, 256, (1, 6, 6, 8)).astype(np.uint8)
    weights = weights_as_dense(program)
    padded = np.pad(image[0].astype(np.int64), ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    expected = np.einsum("yxikl,okli->o", windows, weights)
    np.testing.assert_array_equal(Machine(program).run(image).logits[0], expected)


def benchmark(name: str) -> Any:
    """A script of the folder, under a name that no package has."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_benchmark_of_kernels_refuses_a_wrong_output(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = benchmark("kernels")
    right = kernels.PREPARE["multiplexer"]

    def prepare(*arguments: Any) -> Any:
        kernel = right(*arguments)

        def run(codes: Array) -> Array:
            result: Array = kernel(codes).copy()
            result.flat[-1] += 1
            return result

        return run

    layer = kernels.Layer(channels=3, size=5, bits=4)
    peaks = {"words": 1.0}
    assert kernels.measure(layer, 1, peaks)
    monkeypatch.setattr(kernels, "PREPARE", {**kernels.PREPARE, "multiplexer": prepare})
    with pytest.raises(AssertionError, match="multiplexer is not exact on 3@5 4-bit"):
        kernels.measure(layer, 1, peaks)


def test_a_benchmark_of_networks_refuses_a_wrong_output(monkeypatch: pytest.MonkeyPatch) -> None:
    network = benchmark("network")
    program = one_of_each()
    images = np.random.default_rng(0).integers(0, 256, (2, *program.tensor["image"].shape)).astype(np.uint8)
    machine = Machine(program)
    network.check_exact(machine, images)
    right = machine.run(images)
    wrong = replace(right, logits=right.logits + np.eye(*right.logits.shape, dtype=np.int64))
    monkeypatch.setattr(machine, "run", lambda _: wrong)
    with pytest.raises(AssertionError, match="bnhw is not exact"):
        network.check_exact(machine, images)


# The list itself.


def named_tests(text: str) -> list[tuple[str, str]]:
    """(file, function) of every `tests/file.py::test_name` in a text."""
    return re.findall(r"`(tests/\w+\.py)::(test_\w+)`", text)


def table_rows(title: str) -> list[list[str]]:
    """The rows of the table below a heading, without its head."""
    lines = CHECKS.split(f"## {title}\n")[1].split("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]


def test_every_test_that_the_list_names_exists() -> None:
    named = named_tests(CHECKS)
    assert len(named) > 40
    defined: dict[str, set[str]] = {}
    for file in {file for file, _ in named}:
        tree = ast.parse((ROOT / file).read_text())
        defined[file] = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert [f"{file}::{test}" for file, test in named if test not in defined[file]] == []


@pytest.mark.parametrize("title", ["Figures", "Differences", "Mistakes"])
def test_every_row_of_the_list_names_a_test(title: str) -> None:
    rows = table_rows(title)
    assert rows
    assert [row[0] for row in rows if not named_tests(row[-1])] == []


def test_all_ten_figures_are_in_the_list() -> None:
    assert [row[0] for row in table_rows("Figures")] == [str(number) for number in range(1, 11)]
