"""What a program does without, against the same network with 8-bit weights and a batch norm."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bnhw.count import ActionKind, LayerCounts
from bnhw.program import Convolve, Multiply, Program, Requantise, Threshold

BASELINE_WEIGHT_BITS = 8

TAPS = (ActionKind.MUX, ActionKind.XNOR, ActionKind.MULTIPLY)
"""The operation that a convolution executes once for each product with a weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headlines:
    """The program against its baseline.

    multiplications: of the program for an image. multiplications_baseline: one a product with a weight, one a number of
    each requantise or threshold step (a batch norm's gain), one a product of two tensors. weight_bits: of the program;
    weight_bits_baseline: the same weights with 8 bits each.
    """

    multiplications: int
    multiplications_baseline: int
    weight_bits: int
    weight_bits_baseline: int

    @property
    def multiplications_avoided(self) -> float:
        """The share of the baseline's multiplications that is not there; 0 where there is nothing to avoid."""
        baseline = self.multiplications_baseline
        return 1 - self.multiplications / baseline if baseline else 0.0

    @property
    def weight_memory_ratio(self) -> float | None:
        """How many times less memory the weights take; None without weights."""
        return self.weight_bits_baseline / self.weight_bits if self.weight_bits else None


def headlines(program: Program, layers: Sequence[LayerCounts]) -> Headlines:
    """Both sides, from the counts of a program's layers."""
    baseline = weights = 0
    for layer in layers:
        match layer.instruction:
            case Convolve(weight_shape=shape):
                baseline += sum(count for action, count in layer.counts.actions.items() if action.kind in TAPS)
                weights += int(np.prod(shape))
            case Requantise() | Threshold() | Multiply():
                baseline += program.tensor[layer.instruction.output].size
    return Headlines(
        multiplications=sum(layer.counts.multipliers for layer in layers),
        multiplications_baseline=baseline,
        weight_bits=sum(layer.counts.weight_bits for layer in layers),
        weight_bits_baseline=weights * BASELINE_WEIGHT_BITS,
    )
