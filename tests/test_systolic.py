"""Closed forms of systolic arrays: against an array stepped register by register, and SCALE-Sim's figures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program_builder import Builder
from program_strategies import programs

from bnhw.errors import BadInput
from bnhw.hardware.systolic import MatrixProduct, Stationary, SystolicLayer, matrix_product, systolic_cycles
from bnhw.hardware.systolic_array import step_product
from bnhw.ops import Window
from bnhw.program import Convolve, Program

SIZES, SEEDS = st.integers(1, 9), st.integers(0, 2**32 - 1)


@settings(max_examples=300, deadline=None)
@given(
    SIZES, SIZES, SIZES, st.integers(1, 6), st.integers(1, 6), st.sampled_from(Stationary), st.integers(0, 2**32 - 1)
)
def test_the_stepped_array_computes_the_product_in_the_cycles_of_the_closed_form(
    rows: int, depth: int, columns: int, array_rows: int, array_columns: int, stationary: Stationary, seed: int
) -> None:
    random = np.random.default_rng(seed)
    left = random.integers(-128, 128, (rows, depth))
    right = random.choice((-1, 1), (depth, columns))
    stepped = step_product(left, right, array_rows, array_columns, stationary)
    np.testing.assert_array_equal(stepped.product, left @ right)
    product = MatrixProduct(rows=rows, depth=depth, columns=columns)
    assert stepped.cycles == product.cycles(array_rows, array_columns, stationary)


@settings(max_examples=50, deadline=None)
@given(programs(), st.integers(1, 5), st.integers(1, 5), st.sampled_from(Stationary))
def test_every_convolution_of_a_program_takes_the_cycles_of_its_groups_one_by_one(
    program: Program, rows: int, columns: int, stationary: Stationary
) -> None:
    layers = systolic_cycles(program, rows, columns, stationary)
    convolutions = [i for i in program.instructions if isinstance(i, Convolve)]
    assert [layer.name for layer in layers] == [c.output for c in convolutions]
    for convolve, layer in zip(convolutions, layers, strict=True):
        pixels = program.tensor[convolve.output].shape[0] * program.tensor[convolve.output].shape[1]
        weights = program.weights_of(convolve).astype(np.int64)
        per_group = len(weights) // convolve.groups
        cycles = macs = 0
        for group in range(min(convolve.groups, 2)):  # all groups are alike
            matrix = weights[group * per_group : (group + 1) * per_group].reshape(per_group, -1).T
            small = min(pixels, 6)
            one = MatrixProduct(rows=small, depth=matrix.shape[0], columns=matrix.shape[1])
            stepped = step_product(np.ones((small, matrix.shape[0])), matrix, rows, columns, stationary)
            assert stepped.cycles == one.cycles(rows, columns, stationary)
        one = MatrixProduct(rows=pixels, depth=weights[0].size, columns=per_group)
        cycles = convolve.groups * one.cycles(rows, columns, stationary)
        macs = pixels * weights.size
        assert layer.cycles == cycles
        assert layer.product.macs == macs
        assert layer.utilisation == pytest.approx(macs / (cycles * rows * columns))
        assert layer.utilisation <= 1


def layer_of_scale_sim(rows: int, stationary: Stationary) -> SystolicLayer:
    """3x3, 64 to 64 channels on 34x34 pixels without padding, on an array of rows x rows."""
    builder = Builder(random=np.random.default_rng(0), shape=(34, 34, 64))
    sums = builder.convolve(builder.tensors["image"], Window(kernel=(3, 3)), groups=1, out_channels=64, bits=1)
    (layer,) = systolic_cycles(builder.program(sums), rows, rows, stationary)
    return layer


PUBLISHED = {
    (32, Stationary.OUTPUT): 40_831,
    (32, Stationary.WEIGHT): 40_247,
    (32, Stationary.INPUT): 91_007,
    (16, Stationary.OUTPUT): 155_135,
    (16, Stationary.WEIGHT): 154_079,
    (16, Stationary.INPUT): 253_439,
}


@pytest.mark.parametrize(("rows", "stationary"), PUBLISHED)
def test_a_layer_takes_the_cycles_that_scale_sim_reports(rows: int, stationary: Stationary) -> None:
    """SCALE-Sim 3.0.0, COMPUTE_REPORT.csv, "Total Cycles": the number of the last cycle, counted from 0."""
    assert layer_of_scale_sim(rows, stationary).last_cycle == PUBLISHED[rows, stationary]


@pytest.mark.parametrize("stationary", Stationary)
def test_a_depthwise_convolution_is_neither_dense_nor_free(stationary: Stationary) -> None:
    """Every group is a product of its own: sixteen of one input and one output channel, not one of sixteen."""
    builder = Builder(random=np.random.default_rng(0), shape=(8, 8, 16))
    sums = builder.convolve(
        builder.tensors["image"], Window(kernel=(3, 3), pads=(1, 1, 1, 1)), groups=16, out_channels=16, bits=1
    )
    program = builder.program(sums)
    (layer,) = systolic_cycles(program, 16, 16, stationary)
    assert layer.product == MatrixProduct(rows=64, depth=9, columns=1, groups=16)
    assert layer.product.macs == 64 * 9 * 16
    dense = MatrixProduct(rows=64, depth=144, columns=16)
    one_group = MatrixProduct(rows=64, depth=9, columns=1)
    assert layer.cycles == 16 * one_group.cycles(16, 16, stationary)
    assert layer.cycles != dense.cycles(16, 16, stationary)
    (convolve,) = (i for i in program.instructions if isinstance(i, Convolve))
    assert matrix_product(program, convolve) == layer.product


@pytest.mark.parametrize(("rows", "columns"), [(0, 4), (4, 0), (-1, 1)])
def test_an_array_without_elements_is_refused(rows: int, columns: int) -> None:
    builder = Builder(random=np.random.default_rng(0), shape=(2, 2, 1))
    program = builder.program(builder.sum_global(builder.tensors["image"]))
    with pytest.raises(BadInput, match=f"array of {rows} x {columns} has no processing elements; give at least 1 x 1"):
        systolic_cycles(program, rows, columns, Stationary.OUTPUT)
