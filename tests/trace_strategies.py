"""Traces as values: one step or many, at random, for the tests of energy."""

from typing import Any

from hypothesis import strategies as st

from bnhw.count import Action, ActionKind
from bnhw.hardware.trace import Cycles, MemoryKind, MemoryShape, StepTrace, Trace

WIDTHS = {
    ActionKind.ADD: 1,
    ActionKind.COMPARE: 1,
    ActionKind.MUX: 1,
    ActionKind.SHIFT: 1,
    ActionKind.MULTIPLY: 2,
    ActionKind.XNOR: 0,
    ActionKind.POPCOUNT: 0,
    ActionKind.LOOKUP: 0,
}
"""How many widths an action of each kind has."""


def step(name: str = "step", **changes: Any) -> StepTrace:
    """A step that does nothing but what is said."""
    given: dict[str, Any] = {"cycles": Cycles(), "reads_bits": {}, "writes_bits": {}, "post_actions": {}}
    return StepTrace(name=name, kind="convolve", instructions=(name,), actions={}, **{**given, **changes})


def trace(*steps: StepTrace, **changes: Any) -> Trace:
    """A trace of a multiplexer array, 16 x 64, without memories if not given."""
    given: dict[str, Any] = {
        "memories": {},
        "datapath": "mux",
        "act_bits": 8,
        "weight_bits": 1,
        "acc_bits": 20,
        "pe": 16,
        "simd": 64,
        "clock_mhz": 100.0,
    }
    return Trace(model="model", arch="engine", steps=steps, **{**given, **changes})


counts = st.integers(0, 10**15)
shapes = st.builds(
    MemoryShape,
    capacity_bits=st.integers(0, 10**9),
    port_bits=st.integers(1, 5000),
    banks=st.integers(1, 64),
)


@st.composite
def actions(draw: st.DrawFn) -> Action:
    kind = draw(st.sampled_from(ActionKind))
    return Action(kind=kind, widths=tuple(draw(st.integers(1, 40)) for _ in range(WIDTHS[kind])))


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    memories = draw(st.dictionaries(st.sampled_from(MemoryKind), shapes, min_size=1))
    bits = st.dictionaries(st.sampled_from(sorted(memories, key=lambda kind: kind.value)), counts)
    cycles = st.builds(Cycles, **dict.fromkeys(("compute", "stall", "drain"), counts))
    each = st.fixed_dictionaries(
        {
            "macs_executed": counts,
            "cycles": cycles,
            "post_actions": st.dictionaries(actions(), counts, max_size=4),
            "reads_bits": bits,
            "writes_bits": bits,
        }
    )
    steps = [step(f"step {i}", **given) for i, given in enumerate(draw(st.lists(each, max_size=5)))]
    datapath = draw(st.sampled_from(("mux", "and", "xnor", "mul")))
    return trace(
        *steps,
        memories=memories,
        datapath=datapath,
        act_bits=1 if datapath == "xnor" else draw(st.integers(2, 8)),
        weight_bits=draw(st.integers(2, 8)) if datapath == "mul" else 1,
        acc_bits=draw(st.integers(2, 32)),
        pe=draw(st.sampled_from((1, 4, 16))),
        clock_mhz=draw(st.floats(1, 2000)),
    )
