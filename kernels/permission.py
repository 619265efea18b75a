"""What a process needs before it uses AMX tiles: the operating system's permission, and their configuration."""

import ctypes
import platform
import sys
from functools import cache

import numpy as np
import numpy.typing as npt

ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA = 158, 0x1023, 18
"""Number of the system call, its request, and the part of the processor's state: x86-64 Linux."""


@cache
def request_permission() -> bool:
    """Ask Linux for the tile registers, for all threads of this process; False where it refuses."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    return bool(library.syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0)


def tile_configuration() -> npt.NDArray[np.uint8]:
    """The 64 bytes that `bnhw.kernels.fused.amx.configure` loads: eight tiles of 16 rows of 64 bytes."""
    configuration = np.zeros(64, np.uint8)
    configuration[0] = 1
    configuration[16:32:2] = 64
    configuration[48:56] = 16
    return configuration
