"""The quantised float graph becomes the integer program, node by node.

Exact operations (convolutions, additions, pools of codes) become instructions as they stand. Pointwise nodes
(Affine, Activation, Clamp, Sign) are kept pending until the Quantise behind them, see `bnhw.lower_quantise`.
Accumulator widths come from the actual weights and every partial sum, padding included.
"""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np

from bnhw.dtypes import IntegerType, Quantisation
from bnhw.errors import PassFailed
from bnhw.graph import Graph, Node
from bnhw.kernels.packing import pack_bits
from bnhw.lower_quantise import lower_quantise
from bnhw.lowering_state import Lowering, Pending, RatioError
from bnhw.ops import (
    Activation,
    Add,
    Affine,
    AveragePool,
    ChannelPad,
    Clamp,
    Concatenate,
    Convolution,
    GlobalAveragePool,
    MaxPool,
    Product,
    Quantise,
    Sign,
    pool_divisors,
)
from bnhw.program import (
    AddSaturating,
    Convolve,
    Instruction,
    Join,
    Multiply,
    PadChannels,
    PoolMaximum,
    PoolSum,
    Program,
    Provenance,
    SumGlobal,
    Tensor,
)
from bnhw.verify import check_graph

IMAGE_TYPE = IntegerType(bits=8, signed=False)


def lower(graph: Graph, provenance: Provenance) -> Program:
    """The integer program of a quantised graph (every pass has run).

    Raises PassFailed with the node's name where a sum is too wide or a ratio cannot be expressed.
    """
    (entry,) = graph.inputs
    channels, height, width = entry.shape
    image = Tensor(name=entry.name, shape=(height, width, channels), dtype=IMAGE_TYPE, scale=1.0)
    state = Lowering(image=image, shapes=check_graph(graph))
    state.tensors[image.name] = image
    state.values[image.name] = image
    state.units[image.name] = Fraction(1)
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
        provenance=replace(provenance, notes=(*graph.notes, *_rounding_notes(state.errors))),
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
        case Activation() as activation:
            return replace(state.pending(node.inputs[0]), activation=activation)
        case Quantise() as wanted:
            return lower_quantise(state, node, wanted)
        case Convolution() as convolution:
            return _lower_convolution(state, node, convolution)
        case AveragePool() | GlobalAveragePool():
            return _lower_average(state, node)
        case Product():
            return _lower_product(state, node)
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
    quantisation = Quantisation(dtype=IntegerType.containing(*span), scale=source.scale)
    return state.store(node, instruction, quantisation, span, unit=state.units[source.name])


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
    divisor = int(divisors[0, 0]) if uniform else 1
    quantisation = Quantisation(dtype=IntegerType.containing(*span), scale=source.scale / divisor)
    total = state.store(node, instruction, quantisation, span, unit=state.units[source.name] / divisor)
    if uniform:
        return total
    channels = total.shape[2]
    return Pending(base=total, scale=np.ones(channels), shift=np.zeros(channels), divisors=divisors)


def _lower_product(state: Lowering, node: Node) -> Tensor:
    first, second = (state.tensor(name) for name in node.inputs)
    if first.bipolar or second.bipolar:
        raise PassFailed(f"Product {node.place} reads 1-bit activations; put the product before the sign function")
    (a, b), (c, d) = (
        tuple(code - factor.zero_point for code in state.ranges[factor.name]) for factor in (first, second)
    )
    products = (a * c, a * d, b * c, b * d)
    span = (min(products), max(products))
    instruction = Multiply(inputs=(first.name, second.name), output=node.output, source=node.source)
    quantisation = Quantisation(dtype=IntegerType.containing(*span), scale=first.scale * second.scale)
    unit = state.units[first.name] * state.units[second.name]
    return state.store(node, instruction, quantisation, span, unit=unit)


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
    return state.store(node, instruction, quantisation, span, unit=state.units[first.name])


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


def _rounding_notes(errors: Mapping[str, RatioError]) -> list[str]:
    """What modes that cannot hold every ratio cost in precision, in words."""
    rounded = {name: error for name, error in errors.items() if error.relative > 2.0**-7}
    if not rounded:
        return []
    worst = max(rounded, key=lambda name: rounded[name].relative)
    modes = sorted({str(error.requantisation) for error in rounded.values()})
    where = f"mode{'s' * (len(modes) > 1)} {', '.join(modes)}"
    return [
        f"{len(rounded)} of {len(errors)} requantise steps could not hold their ratio in {where}; the worst, "
        f"{worst!r}, is off by {100 * rounded[worst].relative:.1f} %"
    ]
