"""What a training did, epoch by epoch: records, CSV and a plot."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path

from bnhw.errors import MissingDependency
from bnhw.files import write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One epoch. Losses are mean cross-entropy, accuracies parts from 0 to 1; None where nothing was held out.

    learning_rate is that of the epoch's first batch; train_loss and train_accuracy are means over the epoch's batches
    as they were trained on.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float


COLUMNS = tuple(field.name for field in fields(EpochRecord))


def as_csv(records: Sequence[EpochRecord]) -> str:
    """One line an epoch under a line of names; numbers as Python writes them, nothing for None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(record) for record in records)
    return text.getvalue()


def write_plot(records: Sequence[EpochRecord], path: Path, *, title: str) -> None:
    """Draw loss, error rate and learning rate over the epochs into a `.svg` or `.png` file.

    Raises `MissingDependency` where matplotlib is not installed, `BadInput` where the file cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise MissingDependency("plots are drawn with matplotlib, which is not installed; pip install 'bnhw[plot]'")
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra of its own

    epochs = [record.epoch for record in records]
    curves = (
        ("loss", (("train", [r.train_loss for r in records]), ("test", [r.test_loss for r in records]))),
        (
            "error rate in %",
            (
                ("train", [100 * (1 - r.train_accuracy) for r in records]),
                ("test", [100 * (1 - r.test_accuracy) for r in records]),
            ),
        ),
        ("learning rate", (("", [r.learning_rate for r in records]),)),
    )
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    figure.suptitle(title)
    for axes, (name, lines) in zip(figure.subplots(1, len(curves)), curves, strict=True):
        for label, values in lines:
            axes.plot(epochs, values, marker="." if len(epochs) < 40 else "", label=label)
        axes.set(xlabel="epoch", ylabel=name, yscale="log" if min(map(min, (v for _, v in lines))) > 0 else "linear")
        axes.grid(visible=True, alpha=0.3)
        if lines[0][0]:
            axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."))
    write_atomically(path, content.getvalue())
