"""What the machine's tile instructions can do at most: the yardstick of benchmarks."""

from numba import int64

from bnhw.kernels.fused.amx import configure, multiply_step, release
from bnhw.kernels.jit import entry


@entry(int64, int64, int64)
def multiply_repeatedly(tiles: int, data: int, steps: int) -> None:
    """So many steps of two tiles of pixels by two of weights, all within 4096 bytes."""
    configure(tiles)
    for _ in range(steps):
        multiply_step(data, data + 1024, 64, data + 2048)
    release()
