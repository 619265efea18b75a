"""The words of the weight memory, in the order in which the array reads them."""

import numpy as np

from bnhw.dtypes import Array
from bnhw.hardware.arch import Arch, Datapath
from bnhw.hardware.folding import weights_inside
from bnhw.hardware.steps import ConvolveUnit
from bnhw.program import Convolve, Program


def weight_words(program: Program, arch: Arch, unit: ConvolveUnit) -> Array:
    """The weights of one convolution as its step reads them, int8 (words, pe, simd).

    Order: block, phase, kernel row, kernel column, word. Lane l of word w of a block is input channel
    (block's first word + w) * simd + l. What is no weight of the program is 0 with `mul`, else +1 in the first phase
    and -1 in the second.
    """
    convolve = next(i for i in program.instructions if i.output == unit.instruction)
    assert isinstance(convolve, Convolve)
    source = program.tensor[convolve.inputs[0]]
    weights = program.weights_of(convolve)
    channels, rows, columns, _ = weights.shape
    words = []
    for block, span in enumerate(unit.blocks):
        inside = weights_inside(arch, convolve, source, block, span)
        own = np.zeros((arch.pe, rows, columns, span.words * arch.simd), np.int8)
        for pe in range(min(arch.pe, channels - block * arch.pe)):
            own[pe][:, :, inside[pe]] = weights[block * arch.pe + pe]
        for phase in range(unit.phases):
            outside = 0 if arch.datapath is Datapath.MUL else 1 - 2 * phase
            filled = np.where(inside[:, None, None, :], own, np.int8(outside))
            by_word = filled.reshape(arch.pe, rows, columns, span.words, arch.simd)
            words.append(by_word.transpose(1, 2, 3, 0, 4).reshape(-1, arch.pe, arch.simd))
    return np.concatenate(words)
