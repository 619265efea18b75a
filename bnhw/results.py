"""Outcomes of running and comparing, as plain values with units in their names, and as rows of a table."""

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bnhw.compare import Fidelity
from bnhw.dtypes import Array
from bnhw.files import write_atomically
from bnhw.machine import Result

if TYPE_CHECKING:
    from bnhw.fidelity import LayerFidelity


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
    if any(result.saturations.values()):
        summary["saturated_sums_by_layer"] = {name: count for name, count in result.saturations.items() if count}
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
        summary["accuracy_change_points"] = 100 * (fidelity.integer_accuracy - fidelity.float_accuracy)
    return summary


def layer_summary(layers: "Sequence[LayerFidelity]", images: int) -> dict[str, Any]:
    """What `bnhw verify --float` says of single tensors, compared on so many images."""
    from bnhw.fidelity import first_drop, largest_drop  # noqa: PLC0415  (imports what `bnhw run` does not need)

    first, largest = first_drop(layers), largest_drop(layers)
    return {
        "images_compared_by_layer": images,
        "first_drop": None if first is None else first.name,
        "largest_drop": None if largest is None else largest.name,
        "clipped_values": sum(layer.clipped for layer in layers),
        "saturated_residual_sums": sum(layer.saturated for layer in layers),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "signal_to_noise_db": _finite(layer.signal_to_noise_db),
                "drop_db": round(layer.drop_db, 2),
                "clipped_percent": 100 * layer.clipped / layer.values,
                "saturated_percent": 100 * layer.saturated / layer.values,
            }
            for layer in layers
        ],
    }


def _finite(decibels: float) -> float | None:
    return round(decibels, 2) if math.isfinite(decibels) else None


def summary_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The values of a summary as words and text, without its lists, which are tables of their own."""
    return [(_words(name), _number(name, value)) for name, value in summary.items() if not isinstance(value, list)]


def _number(name: str, value: Any) -> str:
    if name.endswith("_percent"):
        return f"{value:.2f}"
    if name.endswith("_points"):
        return f"{value:+.2f}"
    if name.endswith("_by_layer") and isinstance(value, Mapping):
        return ", ".join(f"{layer}: {count:,}" for layer, count in value.items())
    return _text(value)


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
