"""Outcomes of running and comparing, as plain values with units in their names, and as rows of a table."""

import io
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bnhw.compare import Fidelity
from bnhw.dtypes import Array
from bnhw.files import write_atomically
from bnhw.machine import Result


def run_summary(result: Result, labels: Array | None, threads: int) -> dict[str, Any]:
    """What `bnhw run` prints. `accuracy_percent` only with labels."""
    images = len(result.logits)
    summary: dict[str, Any] = {
        "images": images,
        "seconds": round(result.seconds, 4),
        "images_per_second": round(images / result.seconds, 2),
        "threads": threads,
        "kernels": dict(Counter(result.kernels.values())),
        "saturated_residual_sums": sum(result.saturations.values()),
        "logit_scale": result.scale,
    }
    if labels is not None:
        summary["accuracy_percent"] = 100 * float((result.predictions == labels).mean())
    return summary


def fidelity_summary(fidelity: Fidelity) -> dict[str, Any]:
    """What `bnhw verify --float` adds. The ratio of logits that do not differ at all is None."""
    summary: dict[str, Any] = {
        "images": fidelity.images,
        "agreement_percent": 100 * fidelity.agreement,
        "logit_signal_to_noise_db": _finite(fidelity.signal_to_noise_db),
    }
    if fidelity.float_accuracy is not None and fidelity.integer_accuracy is not None:
        summary["float_accuracy_percent"] = 100 * fidelity.float_accuracy
        summary["integer_accuracy_percent"] = 100 * fidelity.integer_accuracy
    return summary


def _finite(decibels: float) -> float | None:
    return round(decibels, 2) if math.isfinite(decibels) else None


def summary_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The values of a summary as words and text."""
    return [
        (_words(name), f"{value:.2f}" if name.endswith("_percent") else _text(value)) for name, value in summary.items()
    ]


def _words(name: str) -> str:
    return name.replace("_percent", " %").replace("_db", " (dB)").replace("_", " ")


def _text(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.6g}"
        case None:
            return "none"
        case dict():
            return ", ".join(f"{name} ({count} convolution{'s' * (count != 1)})" for name, count in value.items())
        case _:
            return str(value)


def write_result(path: Path, result: Result) -> None:
    """Write `logits` (int64), `predictions` (int64) and `scale` (float64) as `.npz`; raises BadInput if it cannot."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, logits=result.logits, predictions=result.predictions, scale=np.float64(result.scale))
    write_atomically(path, buffer.getvalue())
