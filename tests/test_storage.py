"""Memory of activations: what is stored, when, and what is written over what."""

from collections.abc import Iterator

import numpy as np
from hypothesis import HealthCheck, given, settings
from program_builder import Builder
from program_strategies import programs

from bnhw.dtypes import IntegerType
from bnhw.ops import Window
from bnhw.program import AddSaturating, LookUp, Program, Requantise, SumGlobal, Tensor, Threshold
from bnhw.storage import Storage, tensor_bits

ANY = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
ELEMENTWISE = (Requantise, Threshold, AddSaturating, LookUp)


def units(program: Program) -> Iterator[list[int]]:
    """The instructions as hardware runs them: an instruction and what consumes its numbers as they are made."""
    unit: list[int] = []
    for position, instruction in enumerate(program.instructions):
        unit.append(position)
        readers = [n for n, other in enumerate(program.instructions) if instruction.output in other.inputs]
        follows = readers == list(range(position + 1, position + 1 + len(readers)))
        kinds = (Requantise, Threshold, AddSaturating, SumGlobal)
        consumers = [isinstance(program.instructions[n], kinds) for n in readers]
        if not (readers and follows and all(consumers)) or instruction.output == program.output:
            yield unit
            unit = []


@ANY
@given(programs())
def test_streamed_tensors_are_read_within_their_unit_only(program: Program) -> None:
    storage = Storage(program=program)
    for name in storage.streamed:
        (made,) = (n for n, i in enumerate(program.instructions) if i.output == name)
        readers = [n for n, i in enumerate(program.instructions) if name in i.inputs]
        assert readers == list(range(made + 1, made + 1 + len(readers)))
        assert name != program.output


@ANY
@given(programs())
def test_live_bits_hold_every_stored_operand_and_result(program: Program) -> None:
    storage = Storage(program=program)
    for position, instruction in enumerate(program.instructions):
        names = {*instruction.inputs, instruction.output} - storage.streamed
        if storage.overwritten(position) is not None:
            names.remove(instruction.output)
        assert storage.live_bits[position] >= sum(tensor_bits(program.tensor[name]) for name in names)
    assert storage.peak_bits == max(storage.live_bits)


@ANY
@given(programs())
def test_a_memory_written_in_this_order_never_loses_what_is_read_later(program: Program) -> None:
    """Run the storage plan: every operand is still in memory, and not half overwritten, when it is read."""
    storage = Storage(program=program)
    held = {program.input}
    for position, instruction in enumerate(program.instructions):
        for name in instruction.inputs:
            assert name in held or name in storage.streamed
        victim = storage.overwritten(position)
        if victim is not None:
            assert isinstance(instruction, ELEMENTWISE)
            held.remove(victim)
        if instruction.output not in storage.streamed:
            held.add(instruction.output)


@ANY
@given(programs())
def test_an_operand_is_overwritten_only_when_no_unfinished_instruction_reads_it(program: Program) -> None:
    storage = Storage(program=program)
    for unit in units(program):
        victims = {storage.overwritten(position): position for position in unit}
        for position in unit:
            for name in program.instructions[position].inputs:
                assert victims.get(name, position) == position


def two_residual_blocks(*, convolve_the_stream: bool) -> Program:
    """image -> stream; twice: the stream, or codes of it, -> convolution -> branch, added to the stream; global sum."""
    builder = Builder(random=np.random.default_rng(0), shape=(4, 4, 1))
    wide = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=16, signed=True), scale=1.0)
    code = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=3, signed=False), scale=1.0)
    stream = builder.look_up(builder.tensors["image"], wide, per_channel=False)
    for _ in range(2):
        codes = stream if convolve_the_stream else builder.requantise(stream, code, multiplier_bits=0)
        sums = builder.convolve(codes, Window(kernel=(3, 3), pads=(1, 1, 1, 1)), groups=1, out_channels=1, bits=1)
        branch = builder.requantise(sums, wide, multiplier_bits=0)
        stream = builder.add(stream, branch, -100, 100)
    return builder.program(builder.sum_global(stream))


def test_a_residual_stream_is_updated_in_place_while_the_branch_is_streamed() -> None:
    program = two_residual_blocks(convolve_the_stream=False)
    pixels, output = 16, tensor_bits(program.tensor[program.output])
    assert Storage(program=program).live_bits == (
        pixels * (8 + 16),  # image, stream
        pixels * (16 + 3),  # stream, codes
        pixels * (16 + 3),  # the accumulators are consumed on the spot,
        pixels * (16 + 3),  # so is the branch,
        pixels * (16 + 3),  # into the stream's own memory, while the convolution still reads the codes
        pixels * (16 + 3),  # stream, codes of the second block
        pixels * (16 + 3),
        pixels * (16 + 3),
        pixels * (16 + 3),  # the last addition goes into the global sum as it is made
        pixels * (16 + 3) + output,
    )


def test_a_stream_that_a_convolution_still_reads_is_not_overwritten() -> None:
    program = two_residual_blocks(convolve_the_stream=True)
    storage = Storage(program=program)
    position = next(n for n, i in enumerate(program.instructions) if isinstance(i, AddSaturating))
    assert storage.overwritten(position) is None
    assert storage.live_bits[position] == 16 * (16 + 16)
