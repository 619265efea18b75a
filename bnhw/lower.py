"""The quantised float graph becomes the integer program, node by node.

Exact operations (convolutions, additions, pools of codes) become instructions as they stand. Pointwise nodes
(Affine, Clamp, Sign) are kept pending until the Quantise behind them, and the whole chain becomes one
requantise step; a chain that starts at the image becomes one lookup. Accumulator widths come from the actual
weights and every partial sum, padding included.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bnhw.dtypes import Array, IntegerType, Quantisation
from bnhw.errors import PassFailed
from bnhw.graph import Graph, Node
from bnhw.kernels.packing import pack_bits
from bnhw.lowering_state import Lowering, Pending
from bnhw.ops import (
    Add,
    Affine,
    AveragePool,
    ChannelPad,
    Clamp,
    Concatenate,
    Convolution,
    GlobalAveragePool,
    MaxPool,
    Quantise,
    Sign,
    pool_divisors,
    quantise,
)
from bnhw.options import Requantisation, RequantiseMode
from bnhw.program import (
    AddSaturating,
    Convolve,
    Instruction,
    Join,
    LookUp,
    PadChannels,
    PoolMaximum,
    PoolSum,
    Program,
    Provenance,
    Requantise,
    SumGlobal,
    Tensor,
)
from bnhw.requantise_constants import (
    MAX_SUM,
    Constants,
    count_signed_digits,
    find_constants,
    find_sign_constants,
)
from bnhw.verify import check_graph

IMAGE_TYPE = IntegerType(bits=8, signed=False)


def lower(graph: Graph, requantisation: Requantisation, provenance: Provenance) -> Program:
    """The integer program of a quantised graph (every pass has run).

    Raises PassFailed with the node's name where a sum is too wide or a ratio cannot be expressed.
    """
    (entry,) = graph.inputs
    channels, height, width = entry.shape
    image = Tensor(name=entry.name, shape=(height, width, channels), dtype=IMAGE_TYPE, scale=1.0)
    state = Lowering(image=image, shapes=check_graph(graph), requantisation=requantisation)
    state.tensors[image.name] = image
    state.values[image.name] = image
    state.ranges[image.name] = (IMAGE_TYPE.low, IMAGE_TYPE.high)
    for node in graph.nodes:
        state.values[node.output] = _lower_node(state, node)
    output = _finish(state, graph.outputs[0])
    return Program(
        name=graph.name,
        instructions=tuple(state.instructions),
        tensors=tuple(state.tensors.values()),
        constants=state.constants,
        input=image.name,
        output=output.name,
        provenance=replace(provenance, notes=(*graph.notes, *_rounding_notes(state.errors, requantisation))),
    )


def _lower_node(state: Lowering, node: Node) -> Tensor | Pending:
    match node.attributes:
        case Affine(scale=scale, shift=shift):
            before = state.pending(node.inputs[0])
            return replace(before, scale=before.scale * scale, shift=before.shift * scale + shift)
        case Clamp(low=low, high=high):
            return replace(state.pending(node.inputs[0]), low=low, high=high)
        case Sign():
            return replace(state.pending(node.inputs[0]), sign=True)
        case Quantise(quantisation=quantisation):
            return _lower_quantise(state, node, quantisation)
        case Convolution() as convolution:
            return _lower_convolution(state, node, convolution)
        case AveragePool() | GlobalAveragePool():
            return _lower_average(state, node)
        case _:
            return _lower_same_coding(state, node)


def _lower_convolution(state: Lowering, node: Node, convolution: Convolution) -> Tensor:
    source = state.tensor(node.inputs[0])
    weights = np.ascontiguousarray(convolution.weights.transpose(0, 2, 3, 1))
    bits = convolution.weight_bits
    assert bits is not None
    low, high = state.value_range(source)
    rows = weights.reshape(weights.shape[0], -1).astype(np.int64)
    positive, negative = np.maximum(rows, 0).sum(axis=1), np.minimum(rows, 0).sum(axis=1)
    span = (int((positive * low + negative * high).min()), int((positive * high + negative * low).max()))
    stored = pack_bits((weights > 0).reshape(-1)) if bits == 1 else weights
    instruction = Convolve(
        inputs=(source.name,),
        output=node.output,
        source=node.source,
        weights=state.constant(f"{node.output}/weights", stored),
        weight_bits=bits,
        weight_shape=(weights.shape[0], weights.shape[1], weights.shape[2], weights.shape[3]),
        window=convolution.window,
        groups=convolution.groups,
    )
    return state.store(node, instruction, Quantisation(dtype=IntegerType.containing(*span), scale=source.scale), span)


def _lower_average(state: Lowering, node: Node) -> Tensor | Pending:
    source = state.tensor(node.inputs[0])
    if source.bipolar:
        raise PassFailed(f"{node.op} {node.place} averages 1-bit activations; put the average before the sign function")
    height, width, _ = source.shape
    match node.attributes:
        case AveragePool(window=window, count_padding=counts):
            divisors = pool_divisors(window, height, width, count_padding=counts)
            taps = window.kernel[0] * window.kernel[1]
            instruction: Instruction = PoolSum(
                inputs=(source.name,), output=node.output, source=node.source, window=window
            )
        case _:
            divisors, taps = np.full((1, 1), height * width), height * width
            instruction = SumGlobal(inputs=(source.name,), output=node.output, source=node.source)
    if (divisors == 0).any():
        raise PassFailed(f"{node.op} {node.place}: a window holds nothing but padding; use less padding")
    low, high = state.value_range(source)
    span = (low * taps, high * taps)
    uniform = bool((divisors == divisors[0, 0]).all())
    scale = source.scale / int(divisors[0, 0]) if uniform else source.scale
    total = state.store(node, instruction, Quantisation(dtype=IntegerType.containing(*span), scale=scale), span)
    if uniform:
        return total
    channels = total.shape[2]
    return Pending(base=total, scale=np.ones(channels), shift=np.zeros(channels), divisors=divisors)


def _lower_same_coding(state: Lowering, node: Node) -> Tensor:
    sources = [state.tensor(name) for name in node.inputs]
    first = sources[0]
    names = tuple(source.name for source in sources)
    quantisation = Quantisation(
        dtype=first.dtype, scale=first.scale, zero_point=first.zero_point, bipolar=first.bipolar
    )
    spans = [state.ranges[source.name] for source in sources]
    span = (min(low for low, _ in spans), max(high for _, high in spans))
    match node.attributes:
        case Add():
            span = (first.dtype.low, first.dtype.high)
            instruction: Instruction = AddSaturating(
                inputs=names, output=node.output, source=node.source, low=span[0], high=span[1]
            )
        case MaxPool(window=window):
            instruction = PoolMaximum(inputs=names, output=node.output, source=node.source, window=window)
        case ChannelPad(before=before, after=after):
            if first.bipolar:
                raise PassFailed(f"ChannelPad {node.place}: zero channels have no 1-bit code; pad before the sign")
            span = (min(span[0], first.zero_point), max(span[1], first.zero_point))
            instruction = PadChannels(inputs=names, output=node.output, source=node.source, before=before, after=after)
        case Concatenate():
            instruction = Join(inputs=names, output=node.output, source=node.source)
        case _:
            raise AssertionError(f"{node.op} has no lowering")
    return state.store(node, instruction, quantisation, span)


def _lower_quantise(state: Lowering, node: Node, quantisation: Quantisation) -> Tensor:
    chain = state.pending(node.inputs[0])
    if chain.base.name == state.image.name:
        return _lower_lookup(state, node, chain, quantisation)
    divisors, classes = chain.constants_shape()
    slope, intercept = _base_line(chain.base)
    ratio = chain.scale * slope / divisors
    offset = np.broadcast_to(chain.scale * intercept + chain.shift, ratio.shape)
    low, high = quantisation.dtype.low, quantisation.dtype.high
    try:
        if chain.sign:
            constants = find_sign_constants(ratio, offset, *state.ranges[chain.base.name])
        else:
            steps = offset / quantisation.scale + quantisation.zero_point + 0.5
            constants = find_constants(ratio / quantisation.scale, steps, state.requantisation)
            low, high = _clamp_codes(chain, quantisation)
            state.errors[node.output] = _visible_error(
                constants, ratio / quantisation.scale, state.ranges[chain.base.name]
            )
    except ValueError as error:
        raise PassFailed(f"requantise step of {node.place}: {error}") from error
    _require_narrow_sums(node, constants, state.ranges[chain.base.name])
    instruction = _requantise(state, node, chain, constants, classes, (low, high))
    return state.store(node, instruction, quantisation, (low, high))


def _visible_error(constants: Constants, ratio: Array, span: tuple[int, int]) -> float:
    """The largest relative error of a channel's ratio, of the channels where it can move a result by half a code."""
    found = constants.multiplier / np.exp2(constants.shift)
    moved = np.abs(found - ratio) * max(abs(span[0]), abs(span[1]))
    visible = (moved > 0.5) & (ratio != 0)
    return float(np.abs(found[visible] / ratio[visible] - 1).max(initial=0.0))


def _base_line(base: Tensor) -> tuple[float, float]:
    """a and b of real = a * code + b."""
    if base.bipolar:
        return 2 * base.scale, -base.scale
    return base.scale, -base.scale * base.zero_point


def _clamp_codes(chain: Pending, quantisation: Quantisation) -> tuple[int, int]:
    low, high = quantisation.dtype.low, quantisation.dtype.high
    if np.isfinite(chain.low):
        low = int(quantise(np.asarray(chain.low), quantisation))
    if np.isfinite(chain.high):
        high = int(quantise(np.asarray(chain.high), quantisation))
    return low, high


def _requantise(
    state: Lowering,
    node: Node,
    chain: Pending,
    constants: Constants,
    classes: Array,
    bounds: tuple[int, int],
) -> Requantise:
    columns = slice(0, 1) if constants.uniform else slice(None)
    plain = bool((constants.multiplier == 1).all())
    name = node.output
    bits = IntegerType.containing(int(min(constants.multiplier.min(), -1)), int(constants.multiplier.max())).bits
    return Requantise(
        inputs=(chain.base.name,),
        output=name,
        source=node.source,
        mode=constants.mode,
        multiplier="" if plain else state.constant(f"{name}/multiplier", constants.multiplier[:, columns]),
        offset=state.constant(f"{name}/offset", constants.offset[:, columns]),
        shift=state.constant(f"{name}/shift", constants.shift[:, columns]),
        position_classes="" if chain.divisors is None else state.constant(f"{name}/classes", classes),
        multiplier_bits=bits,
        digits=int(count_signed_digits(constants.multiplier).max()) if constants.mode is RequantiseMode.CSD else 0,
        low=bounds[0],
        high=bounds[1],
    )


def _require_narrow_sums(node: Node, constants: Constants, span: tuple[int, int]) -> None:
    largest = max(abs(span[0]), abs(span[1])) * int(np.abs(constants.multiplier).max())
    if largest + int(np.abs(constants.offset).max()) >= MAX_SUM:
        raise PassFailed(f"requantise step of {node.place}: its sums exceed 63 bits; use a narrower multiply:M, or csd")


def _lower_lookup(state: Lowering, node: Node, chain: Pending, quantisation: Quantisation) -> Tensor:
    """Any function of a pixel: one table entry for each of its 256 codes."""
    base = chain.base
    slope, intercept = _base_line(base)
    pixels = np.arange(base.dtype.low, base.dtype.high + 1) * slope + intercept
    reals = np.clip(chain.scale[:, None] * pixels + chain.shift[:, None], chain.low, chain.high)
    table = quantise(np.where(reals >= 0, 1.0, -1.0) if chain.sign else reals, quantisation)
    if (table == table[:1]).all():
        table = table[:1]
    narrow = table.astype(np.int16 if quantisation.dtype.bits < 16 else np.int32)
    instruction = LookUp(
        inputs=(base.name,),
        output=node.output,
        source=node.source,
        table=state.constant(f"{node.output}/table", narrow),
    )
    span = (int(table.min()), int(table.max()))
    return state.store(node, instruction, quantisation, span)


def _finish(state: Lowering, name: str) -> Tensor:
    """The output tensor; one common factor of all logits goes into its scale."""
    value = state.values[name]
    if (value.base if isinstance(value, Pending) else value).name == state.image.name:
        raise PassFailed(f"the output {name!r} is the image but for a scale; the model has no layer to compile")
    if isinstance(value, Pending):
        assert value.divisors is None
        assert not value.shift.any()
        value = replace(value.base, scale=value.base.scale * float(value.scale[0]))
    if value.shape[:2] != (1, 1):
        raise PassFailed(
            f"the output {name!r} has {value.shape[0]}x{value.shape[1]} positions; expected one number a class: end "
            "the model with a global average or a dense layer"
        )
    state.tensors[value.name] = value
    return value


def _rounding_notes(errors: Mapping[str, float], requantisation: Requantisation) -> list[str]:
    """What the mode `shift` costs in precision, in words."""
    rounded = {name: error for name, error in errors.items() if error > 2.0**-7}
    if not rounded:
        return []
    worst = max(rounded, key=lambda name: rounded[name])
    return [
        f"{len(rounded)} of {len(errors)} requantise steps could not hold their ratio in mode {requantisation}; the "
        f"worst, {worst!r}, is off by {100 * rounded[worst]:.1f} %"
    ]
