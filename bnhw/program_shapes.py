"""The shape of every instruction's result."""

from collections.abc import Sequence

from bnhw.program import Convolve, Instruction, Join, PadChannels, PoolMaximum, PoolSum, SumGlobal, Tensor


def result_shape(instruction: Instruction, inputs: Sequence[Tensor]) -> tuple[int, int, int]:
    """(height, width, channels) of what an instruction makes of its inputs."""
    height, width, channels = inputs[0].shape
    match instruction:
        case Convolve(window=window, weight_shape=shape):
            return (*window.output_size(height, width), shape[0])
        case PoolSum(window=window) | PoolMaximum(window=window):
            return (*window.output_size(height, width), channels)
        case PadChannels(before=before, after=after):
            return height, width, channels + before + after
        case Join():
            return height, width, sum(tensor.shape[2] for tensor in inputs)
        case SumGlobal():
            return 1, 1, channels
        case _:
            return height, width, channels
