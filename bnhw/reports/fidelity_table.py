"""The comparison of a program with its float model as a table for a terminal."""

import math
from collections.abc import Sequence

from rich.table import Table

from bnhw.fidelity import CLEAN_DB, DROP_DB, LayerFidelity, first_drop, largest_drop


def layer_table(layers: Sequence[LayerFidelity], images: int) -> Table:
    """One row a tensor; the caption says what a drop is and names the first and the largest."""
    table = Table(
        title=f"Against the float model, tensor by tensor, {images} images",
        title_justify="left",
        caption=_caption(layers),
        caption_justify="left",
        header_style="bold",
        box=None,
    )
    table.add_column("kind", no_wrap=True)
    table.add_column("result", overflow="fold")
    for name in ("S/N (dB)", "drop (dB)", "clipped %", "saturated %", ""):
        table.add_column(name, justify="right", no_wrap=True)
    first, largest = first_drop(layers), largest_drop(layers)
    for layer in layers:
        marks = [word for word, chosen in (("first drop", first), ("largest drop", largest)) if layer is chosen]
        table.add_row(
            layer.kind,
            layer.name,
            f"{layer.signal_to_noise_db:.1f}" if math.isfinite(layer.signal_to_noise_db) else "exact",
            f"{layer.drop_db:.1f}",
            _percent(layer.clipped, layer.values),
            _percent(layer.saturated, layer.values),
            ", ".join(marks),
        )
    return table


def _percent(count: int, values: int) -> str:
    return f"{100 * count / values:.3f}" if count else ""


def _caption(layers: Sequence[LayerFidelity]) -> str:
    first, largest = first_drop(layers), largest_drop(layers)
    return (
        "drop: how far the signal-to-noise ratio lies below the worst of the tensors read; ratios above "
        f"{CLEAN_DB:g} dB count as {CLEAN_DB:g} dB, the image is exact. First drop of more than {DROP_DB:g} dB: "
        f"{first.name if first else 'none'}. Largest drop: {largest.name if largest else 'none'}. clipped: the code "
        "is the lowest or highest of its type and the float value lies beyond it."
    )
