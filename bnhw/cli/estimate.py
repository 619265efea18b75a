"""The command `estimate`: other hardware than the engine, by the closed forms that its users know."""

import re
from pathlib import Path
from typing import Annotated

from bnhw.cli.console import show, show_json
from bnhw.cli.parameters import Json, Model, option
from bnhw.errors import BadInput


def estimate(
    model: Model,
    fps: Annotated[
        float | None, option("RATE", "A streaming pipeline with the fewest lanes for so many images a second.", "--fps")
    ] = None,
    lanes: Annotated[
        int | None, option("N", "A streaming pipeline as fast as at most N lanes (pe * simd) allow.", "--lanes")
    ] = None,
    systolic: Annotated[str | None, option("RxC", "A systolic array, such as 32x32.", "--systolic")] = None,
    stationary: Annotated[
        str | None,
        option("WHAT", "What stays in a systolic array: output (default), weight or input.", "--stationary"),
    ] = None,
    clock_mhz: Annotated[float, option("MHZ", "The clock.", "--clock-mhz", least=0.001, most=10000)] = 200.0,
    as_json: Json = False,
) -> None:
    """Estimate a streaming pipeline or a systolic array.

    In place of the engine: one unit a layer, each with its own width (the form of FINN), or one array of processing
    elements (the closed forms of SCALE-Sim). Give one of --fps, --lanes and --systolic.
    """
    import bnhw
    from bnhw.reports.estimates import StreamingEstimate, SystolicEstimate, streaming_tables, systolic_tables

    if sum(one is not None for one in (fps, lanes, systolic)) != 1:
        raise BadInput("name one kind of hardware: --fps RATE, --lanes N or --systolic RxC")
    if stationary is not None and systolic is None:
        raise BadInput("--stationary says what stays in a systolic array; name it with --systolic RxC")
    program = bnhw.load(Path(model))
    if systolic is not None:
        array = SystolicEstimate.of(program, *_array_size(systolic), _stationary(stationary or "output"), clock_mhz)
        show_json(array.as_json()) if as_json else show(systolic_tables(array))
        return
    pipeline = StreamingEstimate.of(program, fps=fps, lanes=lanes, clock_mhz=clock_mhz)
    show_json(pipeline.as_json()) if as_json else show(streaming_tables(pipeline))


def _array_size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if found is None:
        raise BadInput(f"--systolic is {text!r}; rows x columns are expected, such as 32x32")
    return int(found[1]), int(found[2])


def _stationary(text: str) -> str:
    choices = ("output", "weight", "input")
    if text not in choices:
        raise BadInput(f"--stationary {text!r} is not available; choose {', '.join(choices)}")
    return text
