"""Where a block of output channels goes: straight into the output, or through a tile when it is not whole."""

import numpy as np
import numpy.typing as npt

from bnhw.kernels.jit import inline

PIXELS = 4
"""Output pixels that a compiled inner loop computes at once."""


@inline
def copy_lanes(
    tile: npt.NDArray[np.int32],
    block_lanes: int,
    lanes: int,
    pixel: int,
    first: int,
    out: npt.NDArray[np.int32],
) -> None:
    """out[pixel + p, first + lane] = tile[p * block_lanes + lane] for the real pixels and lanes.

    tile: (PIXELS * block_lanes). out: (pixels, O).
    """
    for row in range(min(PIXELS, out.shape[0] - pixel)):
        for lane in range(lanes):
            out[pixel + row, first + lane] = tile[row * block_lanes + lane]
