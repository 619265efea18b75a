"""From a program to the steps of an engine: what runs on which unit, with which operands, constants and addresses."""

from collections.abc import Mapping

from bnhw.errors import ArchMismatch
from bnhw.hardware.arch import Arch, Datapath
from bnhw.hardware.fit import Needs
from bnhw.hardware.folding import (
    Filling,
    RawSums,
    block_words,
    phases,
    post_unit,
    raw_sums,
    required_words,
    signed_bits,
)
from bnhw.hardware.fusing import FusedStep, fuse
from bnhw.hardware.placement import place_tensors
from bnhw.hardware.steps import (
    AddUnit,
    ArithmeticUnit,
    ConvolveUnit,
    EngineProgram,
    LookUpUnit,
    MainKind,
    Operand,
    Place,
    PostKind,
    PostUnit,
    Step,
    ThresholdUnit,
)
from bnhw.hardware.trace import MemoryKind
from bnhw.ops import Window
from bnhw.program import (
    Convolve,
    Instruction,
    Join,
    LookUp,
    Multiply,
    PadChannels,
    PoolMaximum,
    PoolSum,
    Program,
    SumGlobal,
    Tensor,
)

ONE_PIXEL = Window(kernel=(1, 1))


def map_program(program: Program, arch: Arch) -> EngineProgram:
    """The steps that execute a program on an engine.

    Raises ArchMismatch with everything that the engine cannot do. Memories that are too small are no mismatch: see
    `EngineProgram.required_words`.
    """
    fused = fuse(program)
    places, tensor_words = place_tensors(program, arch, fused)
    filling = Filling(needs=Needs(arch=arch))
    steps = tuple(_step(program, arch, places, step, filling) for step in fused)
    if problems := filling.needs.problems:
        raise ArchMismatch(problems, model=program.name, arch=arch.name)
    filling.take(MemoryKind.DESCRIPTORS, sum(step.descriptor_words for step in steps))
    return EngineProgram(
        program=program,
        arch=arch,
        steps=steps,
        places=places,
        required_words=required_words(filling.words, tensor_words),
    )


def _step(program: Program, arch: Arch, places: Mapping[str, Place], fused: FusedStep, filling: Filling) -> Step:
    first, source, result = fused.first, program.tensor[fused.source], places[fused.output]
    made = program.tensor[first.output]
    convolve = raw = None
    if isinstance(first, Convolve):
        convolve, raw = _convolve(program, arch, first, places[fused.source], filling)
    post = post_unit(program, arch, fused.post_instruction, raw, filling)
    first_block, channels = _result_blocks(program, arch, fused, filling)
    _check_accumulators(program, arch, fused, filling)
    if result.bits >= arch.result_bits:  # with a sign
        filling.needs.at_least("residual_bits", result.bits - 1, f"{fused.output!r} (its result)")
    return Step(
        name=fused.output,
        instructions=tuple(instruction.output for instruction in fused.instructions),
        main=_main_kind(fused),
        post_kind=_post_kind(post),
        source=_source(arch, fused, source, places[fused.source], first_block),
        second=_second(program, fused, places),
        window=_window(fused, source),
        convolve=convolve,
        post=post,
        add=_add(fused),
        result=result,
        write_offset=result.low - (source.zero_point if isinstance(first, PadChannels | Join) else 0),
        first_block=first_block if isinstance(first, Join) else 0,
        blocks=-(-channels // arch.pe),
        channels=channels,
        rows=made.shape[0],
        columns=made.shape[1],
    )


def _convolve(
    program: Program, arch: Arch, convolve: Convolve, place: Place, filling: Filling
) -> tuple[ConvolveUnit, RawSums]:
    source = program.tensor[convolve.inputs[0]]
    _check_weights(arch, convolve, filling.needs)
    blocks = block_words(arch, convolve)
    phase_count = phases(arch, convolve, source, blocks)
    raw = raw_sums(program, arch, convolve, phase_count, place.planes)
    filling.needs.at_least("acc_bits", raw.bits, _where(convolve))
    taps = convolve.window.kernel[0] * convolve.window.kernel[1]
    unit = ConvolveUnit(
        instruction=convolve.output,
        groups=convolve.groups,
        blocks=blocks,
        phases=phase_count,
        padding=source.zero_point - source.dtype.low,
        doubled=source.bipolar and arch.datapath is not Datapath.XNOR,
        zero_padding=source.bipolar and arch.datapath is Datapath.XNOR,
        base=filling.take(MemoryKind.WEIGHTS, phase_count * taps * sum(block.words for block in blocks)),
    )
    return unit, raw


def _check_weights(arch: Arch, convolve: Convolve, needs: Needs) -> None:
    if convolve.weight_bits == 1:
        return
    if arch.datapath is Datapath.MUL:
        needs.at_least("weight_bits", convolve.weight_bits, _where(convolve))
    else:
        needs.refuse(
            f"datapath = {arch.datapath.value!r} takes 1-bit weights, there are {convolve.weight_bits} bits",
            "choose datapath = 'mul', or train with 1-bit weights",
            _where(convolve),
        )


def _where(instruction: Instruction) -> str:
    """How a message names a step."""
    return f"{instruction.output!r} ({instruction.kind})"


def _main_kind(fused: FusedStep) -> MainKind:
    match fused.first:
        case Convolve():
            return MainKind.CONVOLVE
        case PoolMaximum():
            return MainKind.MAXIMUM
        case Multiply():
            return MainKind.MULTIPLY
        case _:
            return MainKind.SUM


def _post_kind(post: PostUnit) -> PostKind:
    match post:
        case ArithmeticUnit():
            return PostKind.ARITHMETIC
        case ThresholdUnit():
            return PostKind.THRESHOLD
        case LookUpUnit():
            return PostKind.LOOKUP
        case None:
            return PostKind.NONE


def _window(fused: FusedStep, source: Tensor) -> Window:
    match fused.first:
        case Convolve(window=window) | PoolSum(window=window) | PoolMaximum(window=window):
            return window
        case SumGlobal():
            return Window(kernel=source.shape[:2])
        case _:
            return ONE_PIXEL


def _source(arch: Arch, fused: FusedStep, source: Tensor, place: Place, first_block: int) -> Operand:
    """Operand a: the code minus the zero point where that is what is summed, u for a table, else the code itself."""
    match fused.first:
        case Convolve() | LookUp():
            return Operand(place=place)
        case PadChannels():
            return Operand(place=place, offset=source.zero_point - place.low, first_block=first_block)
        case PoolSum() | SumGlobal() | Multiply() | Join():
            return Operand(place=place, offset=source.zero_point - place.low)
        case _:
            return Operand(place=place, offset=-place.low)


def _second(program: Program, fused: FusedStep, places: Mapping[str, Place]) -> Operand | None:
    if not fused.second:
        return None
    place = places[fused.second]
    if not isinstance(fused.first, Multiply):
        return Operand(place=place, offset=-place.low)
    tensor, result = program.tensor[fused.second], program.tensor[fused.first.output]
    return Operand(
        place=place, offset=tensor.zero_point - place.low, one_pixel=tensor.shape[:2] == (1, 1) != result.shape[:2]
    )


def _add(fused: FusedStep) -> AddUnit | None:
    add = fused.addition
    return AddUnit(instruction=add.output, low=add.low, high=add.high) if add is not None else None


def _result_blocks(program: Program, arch: Arch, fused: FusedStep, filling: Filling) -> tuple[int, int]:
    """The shift of blocks that PadChannels and Join ask for, and the channels that the step writes."""
    first, channels = fused.first, program.tensor[fused.output].shape[2]
    if isinstance(first, PadChannels):
        if first.before % arch.pe:
            filling.needs.refuse(
                f"pe = {arch.pe} does not divide the {first.before} channels padded in front",
                "choose a pe that divides them",
                _where(first),
            )
        return first.before // arch.pe, channels
    if isinstance(first, Join):
        parts = [program.tensor[name].shape[2] for name in first.inputs]
        before = sum(parts[: fused.part])
        if before % arch.pe:
            filling.needs.refuse(
                f"pe = {arch.pe} does not divide all but the last of the {', '.join(map(str, parts))} channels joined",
                "choose a pe that divides them",
                _where(first),
            )
        return before // arch.pe, parts[fused.part]
    return 0, channels


def _check_accumulators(program: Program, arch: Arch, fused: FusedStep, filling: Filling) -> None:
    """What lanes sum, compare and multiply must fit; convolutions are checked in `_convolve`."""
    first, source = fused.first, program.tensor[fused.source]
    if isinstance(first, Convolve):
        return
    sums = isinstance(first, PoolSum | SumGlobal | Multiply)
    dtype = program.tensor[first.output].dtype if sums else source.dtype
    low, high = dtype.low, dtype.high
    if isinstance(first, PadChannels | Join):
        low, high = low - source.zero_point, high - source.zero_point
    filling.needs.at_least("acc_bits", signed_bits(low, high), _where(first))
    if isinstance(first, Multiply):
        factors = (program.tensor[name] for name in first.inputs)
        widest = max(signed_bits(t.dtype.low - t.zero_point, t.dtype.high - t.zero_point) for t in factors)
        filling.needs.at_least("product_bits", widest, _where(first))
