"""What this machine's instructions can do at most, measured, and what it is."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from chains import Layer, method_of

from bnhw.kernels.permission import tile_configuration
from bnhw.kernels.select import (
    FUSED_CHOICES,
    fused_choice,
    host_features,
    missing_for,
    runnable_choices,
)
from bnhw.plan_memory import aligned_bytes

MACS_OF_TRANSFORMED = 4
"""That one multiplication stands for: 16 results of 9 taps each from 36 products."""
PACKAGES = ("numpy", "numba", "llvmlite", "torch", "onnx", "onnxruntime", "openvino")


def measure_peaks(seconds: float = 0.5) -> Mapping[str, float]:
    """Giga-MAC per second of an instruction on data in the first cache.

    "amx", "vnni": products of bytes, 0 where the machine has none. Where it has "vnni": "shorts", products of int16,
    and "look_ups", sums of six channels. "words": counts of one plane.
    """
    from bnhw.kernels.fused import peak  # noqa: PLC0415  (slow to import)

    memory = aligned_bytes(1 << 14)
    data, tiles = memory.ctypes.data, tile_configuration()
    steps = 200_000
    loops: dict[str, tuple[int, Callable[[], None]]] = {
        "words": (peak.COUNTED_BITS, lambda: peak.count_repeatedly(data, steps)),
    }
    if not missing_for("vnni"):
        loops["vnni"] = (peak.MULTIPLIED_BYTES, lambda: peak.dot_repeatedly(data, steps))
        loops["look_ups"] = (peak.LOOKED_UP, lambda: peak.look_up_repeatedly(data, steps))
        loops["shorts"] = (peak.MULTIPLIED_SHORTS, lambda: peak.dot_wide_repeatedly(data, steps))
    if not missing_for("amx"):
        loops["amx"] = (4 * 16 * 16 * 64, lambda: peak.multiply_repeatedly(tiles.ctypes.data, data, steps))
    peaks = {"amx": 0.0, "vnni": 0.0}
    for name, (macs, loop) in loops.items():
        loop()  # compiled now
        best, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            loop()
            best = min(best, time.perf_counter() - start)
        peaks[name] = macs * steps / best / 1e9
    return peaks


def share_of_peak(layer: Layer, kernel: str, rate: float, peaks: Mapping[str, float]) -> float | None:
    """The rate over that of the instruction which does the work, or None where that is not measured.

    Transformed layers multiply a quarter as often, but int16.
    """
    if kernel in {"xnor", "bit_serial"}:
        return rate * layer.bits / peaks["words"]
    method = method_of(layer, kernel) if kernel in FUSED_CHOICES else "multiplied"
    if method == "counted":
        return rate * layer.bits / peaks["words"]
    if method == "tabulated":
        return rate / peaks["look_ups"]
    if method == "transformed":
        return rate / MACS_OF_TRANSFORMED / peaks["shorts"] if kernel == "vnni" else None
    return rate / peaks[kernel] if peaks.get(kernel) else None


def describe_machine() -> Mapping[str, Any]:
    """Processors, CPU features by LLVM's names, kernels that run, versions."""
    return {
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "usable_processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "features": sorted(host_features()),
        "runnable": runnable_choices(),
        "auto": fused_choice("auto"),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
