"""The interpreter for machines with AVX-512 VNNI."""

from numba import int64

from bnhw.kernels.fused.interpreter import Table
from bnhw.kernels.fused.machine_code import ENTRY
from bnhw.kernels.fused.rows import run_program
from bnhw.kernels.fused.tabulated import convolve_tables
from bnhw.kernels.fused.vnni import METHOD
from bnhw.kernels.jit import machine_code, tensor_in

WHOLE = (*METHOD, convolve_tables)


@machine_code(ENTRY, tensor_in(int64, 1), *(int64,) * 12)
def run(
    table: Table,
    constants: int,
    arena: int,
    counts: int,
    slots: int,
    sums: int,
    panel: int,
    tiles: int,
    images: int,
    image_bytes: int,
    image_count: int,
    logits: int,
    logit_bytes: int,
) -> None:
    """Run every step for every image; addresses of aligned memory, see `bnhw.plan`. `tiles` is not used."""
    memory = (constants, arena, counts, slots, sums, panel)
    batch = (images, image_bytes, logits, logit_bytes)
    run_program(table, memory, batch, image_count, WHOLE)
