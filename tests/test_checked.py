"""Checked mode: what the program declares holds for every partial sum, and a width one bit short is caught."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from kernel_strategies import BIPOLAR, Convolution, codings, convolutions
from model_strategies import Network, networks
from program_builder import Builder, one_of_each
from program_strategies import programs_with_images

from bnhw import checked
from bnhw.compiler import compile_model
from bnhw.dtypes import Array, IntegerType
from bnhw.errors import WidthExceeded
from bnhw.kernels import reference
from bnhw.kernels.partial_sums import convolution_sums, global_sums, pool_sums
from bnhw.kernels.types import Geometry
from bnhw.machine import Machine
from bnhw.ops import Window
from bnhw.program import Convolve, PoolSum, Program, Requantise, SumGlobal, Tensor
from bnhw.widths import RequantiseTypes, requantise_types

SLOW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
SUMMING = (Convolve, PoolSum, SumGlobal)


def run_checked(program: Program, images: Array) -> dict[str, Array]:
    return {step.instruction.output: step.value for step in Machine(program, "checked").steps(images)}


@SLOW
@given(programs_with_images(max_images=2))
def test_programs_of_the_narrowest_widths_hold_every_partial_sum(case: tuple[Program, Array]) -> None:
    """And checked mode gives the reference's integers."""
    program, images = case
    found = run_checked(program, images)
    for step in Machine(program, "reference").steps(images):
        np.testing.assert_array_equal(found[step.instruction.output], step.value)


def declared(program: Program, name: str, dtype: IntegerType) -> Program:
    """The program with another type of one tensor."""
    tensors = tuple(replace(one, dtype=dtype) if one.name == name else one for one in program.tensors)
    return replace(program, tensors=tensors)


def convolved(weights: list[list[int]], *, bits: int = 8) -> tuple[Program, str]:
    """Two colours, looked up as they are, and a 1x1 convolution with these weights (out, 2)."""
    builder = Builder(random=np.random.default_rng(0), shape=(1, 1, 2))
    coding = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=8, signed=False), scale=1.0)
    source = builder.look_up(builder.tensors["image"], coding, per_channel=False)
    builder.constants["t0/table"] = np.arange(256, dtype=np.int16)[np.newaxis]
    acc = builder.convolve(source, Window(kernel=(1, 1)), groups=1, out_channels=len(weights), bits=bits)
    builder.constants[f"{acc.name}/weights"] = np.array(weights, np.int8).reshape(len(weights), 1, 1, 2)
    return builder.program(acc), acc.name


def test_a_sum_that_leaves_its_type_on_the_way_is_caught_although_the_result_fits() -> None:
    program, acc = convolved([[1, -1]])
    white = np.full((1, 1, 1, 2), 255, np.uint8)
    fitting = declared(program, acc, IntegerType(bits=9, signed=True))
    assert run_checked(fitting, white)[acc].tolist() == [[[[0]]]]
    narrow = declared(program, acc, IntegerType(bits=8, signed=True))
    with pytest.raises(WidthExceeded, match=r"Convolve 't1' \(\): the partial sum 255 left its declared int8, -128 to"):
        run_checked(narrow, white)
    assert Machine(narrow, "reference").run(white).logits.tolist() == [[0]]


@SLOW
@given(st.data())
def test_accumulator_one_bit_too_narrow_is_caught_by_its_worst_codes(data: st.DataObject) -> None:
    """The declared width is attained: the codes that favour one channel's signs reach the end of the range."""
    rows = data.draw(st.lists(st.tuples(st.integers(-127, 127), st.integers(-127, 127)), min_size=1, max_size=4))
    program, acc = convolved([list(row) for row in rows])
    weights = np.array(rows)
    low, high = 255 * np.minimum(weights, 0).sum(axis=1), 255 * np.maximum(weights, 0).sum(axis=1)
    exact = IntegerType.containing(int(low.min()), int(high.max()))
    assume(exact.bits > 1)
    worst = np.concatenate([np.where(weights > 0, 255, 0), np.where(weights < 0, 255, 0)])
    images = worst.astype(np.uint8).reshape(-1, 1, 1, 2)
    sums = run_checked(declared(program, acc, exact), images)[acc]
    assert (sums.min(), sums.max()) == (low.min(), high.max())
    with pytest.raises(WidthExceeded, match="Convolve 't1'"):
        run_checked(declared(program, acc, IntegerType(bits=exact.bits - 1, signed=exact.signed)), images)


@settings(max_examples=5, deadline=None)
@given(networks())
def test_compiled_networks_hold_their_widths(tmp_path_factory: pytest.TempPathFactory, network: Network) -> None:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(network.onnx.SerializeToString())
    run_checked(compile_model(path, network.pixels), network.pixels[:2])


@pytest.mark.parametrize("kind", SUMMING)
def test_sums_of_every_kind_are_looked_at(kind: type) -> None:
    program = one_of_each()
    name = next(one.output for one in program.instructions if isinstance(one, kind))
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 4, 2), np.uint8)
    run_checked(program, images)
    with pytest.raises(WidthExceeded, match=f"{kind.__name__} '{name}' .*: the partial sum -?[0-9]+ left its declared"):
        run_checked(declared(program, name, IntegerType(bits=2, signed=True)), images)


def test_results_of_other_instructions_are_looked_at() -> None:
    program = one_of_each()
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 4, 2), np.uint8)
    values = {program.input: images.astype(np.int64)}
    for step in Machine(program, "reference").steps(images):
        one = step.instruction
        values[one.output] = step.value
        if not isinstance(one, SUMMING):
            narrow = declared(program, one.output, IntegerType(bits=1, signed=True))
            with pytest.raises(WidthExceeded, match=f"{one.kind} '{one.output}' .*: the result "):
                checked.check_widths(narrow, one, [values[name] for name in one.inputs], step.value)


@pytest.mark.parametrize("field", ["product", "total"])
def test_products_and_sums_of_a_requantise_step_are_looked_at(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def narrowed(program: Program, requantise: Requantise) -> RequantiseTypes:
        types = requantise_types(program, requantise)
        return replace(types, **{field: IntegerType(bits=3, signed=True)})

    monkeypatch.setattr(checked, "requantise_types", narrowed)
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 4, 2), np.uint8)
    word = {"product": "product", "total": "sum"}[field]
    with pytest.raises(WidthExceeded, match=f"Requantise .*: the {word} -?[0-9]+ left its declared int3, -4 to 3; "):
        run_checked(one_of_each(), images)


@SLOW
@given(programs_with_images(max_images=1))
def test_types_of_requantise_steps_are_reached_by_the_ends_of_what_they_read(case: tuple[Program, Array]) -> None:
    """Differential: every M and B with both ends, one Python integer at a time."""
    program, _ = case
    for one in program.instructions:
        if not isinstance(one, Requantise):
            continue
        source, offset = program.tensor[one.inputs[0]].dtype, program.constants[one.offset]
        multiplier = program.constants[one.multiplier] if one.multiplier else np.ones_like(offset)
        pairs = [(int(m), int(b)) for m, b in zip(multiplier.flat, offset.flat, strict=True)]
        products = [m * end for m, _ in pairs for end in (source.low, source.high)]
        totals = [m * end + b for m, b in pairs for end in (source.low, source.high)]
        types = requantise_types(program, one)
        assert types.product == IntegerType.containing(min(products), max(products))
        assert types.total == IntegerType.containing(min(totals), max(totals))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_last_sums_are_those_of_the_reference(data: st.DataObject) -> None:
    case: Convolution = data.draw(
        convolutions(st.one_of(codings(), st.just(BIPOLAR)), binary=data.draw(st.booleans()), tiny=True)
    )
    weights, geometry, coding = case.weights.integers(), case.geometry, case.coding
    taps = weights[0].size
    states = [state.copy() for state in convolution_sums(case.codes, weights, geometry, coding)]
    assert len(states) == geometry.groups * taps
    expected = reference.convolution(case.codes, weights, geometry, coding)
    np.testing.assert_array_equal(np.concatenate(states[taps - 1 :: taps], axis=3), expected)


def test_sums_grow_tap_by_tap() -> None:
    codes = np.array([5, 7, 9, 2], np.int64).reshape(1, 2, 2, 1)
    whole = Geometry(kernel=(2, 2), stride=(1, 1), pads=(0, 0, 0, 0))
    expected = [4, 10, 18, 19]
    assert [int(state[0, 0, 0, 0]) for state in pool_sums(codes, whole, 1)] == expected
    assert [int(state[0, 0, 0, 0]) for state in global_sums(codes, 1)] == expected
