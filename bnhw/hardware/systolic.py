"""The same convolutions on a plain systolic array, in the closed forms of SCALE-Sim: a second opinion on cycles.

Not the engine of `docs/engine.md`, but the array that published simulators speak of. A convolution is a matrix product:
`rows` output pixels, each of `depth` = kernel height * kernel width * input channels numbers (padded taps too), times
`columns` output channels. One operand or the sums stay in the R x C processing elements, and the array is filled again
in *folds* until all of it is done; a fold takes as long when it fills the array in part.

`bnhw.hardware.systolic_array` steps through the same array register by register and must need as many cycles.
Source of the forms: SCALE-Sim 3.0.0 (Samajdar et al., "A systematic methodology for characterizing scalability of DNN
accelerators using SCALE-Sim", ISPASS 2020).
"""

from dataclasses import dataclass
from enum import Enum

from bnhw.errors import BadInput
from bnhw.program import Convolve, Program


class Stationary(Enum):
    """What stays in the processing elements during a fold."""

    OUTPUT = "output"
    """Sums: rows of the array are output pixels, columns are output channels; both operands move."""
    WEIGHT = "weight"
    """Weights: rows are the depth, columns are output channels; pixels move right, partial sums move down."""
    INPUT = "input"
    """Pixels: rows are the depth, columns are output pixels; weights move right, partial sums move down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixProduct:
    """(rows, depth) times (depth, columns), done `groups` times, one behind the other.

    A grouped convolution is one product for each group, with its own channels alone: the array shares no operand
    between groups, and a depthwise convolution fills one column of it.
    """

    rows: int
    depth: int
    columns: int
    groups: int = 1

    @property
    def macs(self) -> int:
        """Multiplications and additions, padded taps counted."""
        return self.rows * self.depth * self.columns * self.groups

    def folds(self, rows: int, columns: int, stationary: Stationary) -> int:
        """How often an array of rows x columns is filled for one group."""
        vertical, horizontal, _ = self._sides(stationary)
        return -(-vertical // rows) * -(-horizontal // columns)

    def cycles(self, rows: int, columns: int, stationary: Stationary) -> int:
        """Cycles on an array of rows x columns, of all groups.

        A fold lasts from its first to its last multiplication: the last of `steps` operands enters at the corner in
        cycle steps - 1 and reaches the far corner rows - 1 + columns - 1 cycles later. What stays there, other than
        sums, is shifted in before, row by row. Sums that stay are taken out at no cost, as SCALE-Sim has it.
        """
        _, _, steps = self._sides(stationary)
        fill = 0 if stationary is Stationary.OUTPUT else rows
        return self.groups * self.folds(rows, columns, stationary) * (fill + steps + rows + columns - 2)

    def _sides(self, stationary: Stationary) -> tuple[int, int, int]:
        """What runs along the array's rows, along its columns, and the number of operands that pass it in a fold."""
        match stationary:
            case Stationary.OUTPUT:
                return self.rows, self.columns, self.depth
            case Stationary.WEIGHT:
                return self.depth, self.columns, self.rows
            case Stationary.INPUT:
                return self.depth, self.rows, self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class SystolicLayer:
    """One convolution on a systolic array.

    name: the tensor that it writes. last_cycle: the number of its last cycle, counted from 0; this is what SCALE-Sim
    reports as total cycles. utilisation: MACs over what all processing elements could do in all cycles.
    """

    name: str
    product: MatrixProduct
    cycles: int
    utilisation: float

    @property
    def last_cycle(self) -> int:
        """One less than `cycles`."""
        return self.cycles - 1


def matrix_product(program: Program, convolve: Convolve) -> MatrixProduct:
    """The matrix product that a convolution is, with its groups."""
    out_channels, kernel_height, kernel_width, per_group = convolve.weight_shape
    height, width, _ = program.tensor[convolve.output].shape
    return MatrixProduct(
        rows=height * width,
        depth=kernel_height * kernel_width * per_group,
        columns=out_channels // convolve.groups,
        groups=convolve.groups,
    )


def systolic_cycles(program: Program, rows: int, columns: int, stationary: Stationary) -> tuple[SystolicLayer, ...]:
    """Cycles of every convolution of a program for one image, in order, on an array of rows x columns.

    Memories are never waited for. Raises `BadInput` for an array without processing elements.
    """
    if rows < 1 or columns < 1:
        raise BadInput(f"a systolic array of {rows} x {columns} has no processing elements; give at least 1 x 1")
    layers = []
    for instruction in program.instructions:
        if isinstance(instruction, Convolve):
            product = matrix_product(program, instruction)
            cycles = product.cycles(rows, columns, stationary)
            layers.append(
                SystolicLayer(
                    name=instruction.output,
                    product=product,
                    cycles=cycles,
                    utilisation=product.macs / (cycles * rows * columns),
                )
            )
    return tuple(layers)
