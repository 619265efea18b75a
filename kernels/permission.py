"""The operating system's permission to use AMX tiles."""

import ctypes
import platform
import sys
from functools import cache

ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA = 158, 0x1023, 18
"""Number of the system call, its request, and the part of the processor's state: x86-64 Linux."""


@cache
def request_permission() -> bool:
    """Ask Linux for the tile registers, for all threads of this process; False where it refuses."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    return bool(library.syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0)
