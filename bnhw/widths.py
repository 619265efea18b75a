"""Widths inside an instruction that no tensor declares: those of a requantise step's product and sum."""

from dataclasses import dataclass

import numpy as np

from bnhw.dtypes import IntegerType
from bnhw.program import Program, Requantise


@dataclass(frozen=True, slots=True, kw_only=True)
class RequantiseTypes:
    """The narrowest types of acc * M and of acc * M + B."""

    product: IntegerType
    total: IntegerType


def requantise_types(program: Program, requantise: Requantise) -> RequantiseTypes:
    """Over every integer that the tensor read may hold by its type, and the actual M and B of every channel."""
    source = program.tensor[requantise.inputs[0]].dtype
    offset = program.constants[requantise.offset].astype(object)  # Python integers never wrap
    multiplier = program.constants[requantise.multiplier].astype(object) if requantise.multiplier else offset * 0 + 1
    products = np.stack([multiplier * source.low, multiplier * source.high])
    totals = products + offset
    return RequantiseTypes(
        product=IntegerType.containing(int(products.min()), int(products.max())),
        total=IntegerType.containing(int(totals.min()), int(totals.max())),
    )
