"""Weights in the order in which kernels read them: output channels innermost, a vector's worth at a time."""

from typing import Any

import numpy as np
import numpy.typing as npt


def order_by_blocks(weights: npt.NDArray[Any], groups: int, lanes: int) -> npt.NDArray[Any]:
    """(O, KH, KW, L) -> (groups, blocks, KH * KW * L, lanes): `lanes` output channels side by side.

    The output channels of a group are padded with 0 to whole blocks.
    """
    out_channels = weights.shape[0]
    per_group = out_channels // groups
    blocks = -(-per_group // lanes)
    flat = weights.reshape(groups, per_group, -1)
    padded = np.zeros((groups, blocks * lanes, flat.shape[2]), weights.dtype)
    padded[:, :per_group] = flat
    by_block = padded.reshape(groups, blocks, lanes, flat.shape[2])
    return np.ascontiguousarray(by_block.transpose(0, 1, 3, 2))
