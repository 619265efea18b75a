"""The price of a trace: formulas against numbers worked out by hand, and sums that are exact."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_strategies import actions, step, trace, traces

from bnhw.cli.console import as_text
from bnhw.count import Action, ActionKind
from bnhw.errors import BadInput
from bnhw.hardware.energy import Component, Energy, EnergyRange, Group, Part, add_ranges, group_of, price
from bnhw.hardware.technology import Level, SramCell, Technology
from bnhw.hardware.technology_file import load_technology, shipped_technologies
from bnhw.hardware.trace import Cycles, MemoryKind, MemoryShape, Trace
from bnhw.hardware.unit_energy import action_fj, read_fj, write_fj
from bnhw.reports.energy_tables import energy_table

Key = TypeVar("Key")
AT_45 = load_technology("45nm")
NOMINAL = AT_45.scaled(Level.NOMINAL)
technologies = st.sampled_from([load_technology(name) for name in shipped_technologies()])
exact = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def array_fj(found: Trace, count: int) -> float:
    """Nominal fJ of one MAC of the array at 45 nm and 0.9 V."""
    return float(price(found, AT_45).parts[Component.ARRAY].nominal) * 1000 / count


def one(action: Action) -> float:
    """Nominal fJ of one operation behind the array at 45 nm and 0.9 V."""
    return float(price(trace(step(post_actions={action: 1000})), AT_45).parts[Component.POST].nominal)


@pytest.mark.parametrize(
    ("changes", "expected_fj"),
    [
        ({"datapath": "mux", "act_bits": 8}, 9 * 3.3 + 8 * 1.0 + 2 * 10.4),
        ({"datapath": "mux", "act_bits": 12}, 13 * 3.3 + 12 * 1.0 + 2 * 10.4),
        ({"datapath": "xnor", "act_bits": 1}, 2 * 3.3 + 1.0 + 2 * 10.4),
        ({"datapath": "and", "act_bits": 8, "pe": 16}, 9 * 3.3 * (1 + 1 / 16) + 8 * 0.57 + 2 * 10.4),
        ({"datapath": "and", "act_bits": 4, "pe": 1}, 2 * 5 * 3.3 + 4 * 0.57 + 2 * 10.4),
        ({"datapath": "mul", "act_bits": 8, "weight_bits": 8, "acc_bits": 32}, 200 + 16 * 3.3 + 9 * 10.4),
        ({"datapath": "mul", "act_bits": 8, "weight_bits": 4, "acc_bits": 20}, 100 + 12 * 3.3 + 5 * 10.4),
    ],
)
def test_a_mac_takes_what_the_formula_of_its_datapath_says(changes: Mapping[str, object], expected_fj: float) -> None:
    assert array_fj(trace(step(macs_executed=1000), **changes), 1000) == pytest.approx(expected_fj, rel=1e-12)


def test_a_multiplier_array_of_1_bit_weights_adds_and_clocks_what_a_multiplexer_array_does() -> None:
    """The two formulas differ in select against multiply alone, so that comparing them is fair."""
    step_of_macs = step(macs_executed=1000)
    mux, mul = (array_fj(trace(step_of_macs, datapath=datapath), 1000) for datapath in ("mux", "mul"))
    assert mul - mux == pytest.approx(8 * 3.125 - 8 * 1.0)


@pytest.mark.parametrize(
    ("action", "expected_fj"),
    [
        (Action(kind=ActionKind.ADD, widths=(20,)), 20 * 3.3),
        (Action(kind=ActionKind.COMPARE, widths=(17,)), 17 * 3.3),
        (Action(kind=ActionKind.MULTIPLY, widths=(8, 8)), 200),
        (Action(kind=ActionKind.MULTIPLY, widths=(20, 16)), 20 * 16 * 3.125),
        (Action(kind=ActionKind.SHIFT, widths=(16,)), 16 * 4 * 1.0),
        (Action(kind=ActionKind.SHIFT, widths=(17,)), 17 * 5 * 1.0),
        (Action(kind=ActionKind.MUX, widths=(8,)), 8 * 1.0),
        (Action(kind=ActionKind.XNOR), 1.0),
        (Action(kind=ActionKind.POPCOUNT), 2 * 3.3),
        (Action(kind=ActionKind.LOOKUP), 0),
    ],
)
def test_an_operation_behind_the_array_takes_what_its_formula_says(action: Action, expected_fj: float) -> None:
    if expected_fj == 0:
        assert one(action) == 0
    else:
        assert one(action) == pytest.approx(expected_fj, rel=1e-12)


def test_a_wide_multiplication_agrees_with_the_published_one() -> None:
    """The product of the widths, fixed at 8 x 8 bits, against 3.1 pJ for 32 x 32 (Horowitz 2014)."""
    assert one(Action(kind=ActionKind.MULTIPLY, widths=(32, 32))) == pytest.approx(3100, rel=0.04)


@given(actions())
def test_every_operation_has_a_price(action: Action) -> None:
    assert action_fj(NOMINAL, action) >= 0


@pytest.mark.parametrize(
    ("capacity_bytes", "port_bits", "banks", "expected_fj"),
    [
        (8192, 64, 1, 100.0),
        (32768, 64, 1, 200.0),
        (32768, 64, 4, 100.0),
        (8192, 256, 1, 100 * 4**-0.35),
        (1 << 20, 64, 1, 100 * math.sqrt(128)),  # Horowitz: 100 pJ for 64 bits, 1563 fJ a bit, at the high end
        (32, 64, 1, 10.4),  # as flip-flops: 6.25 by the formula
    ],
)
def test_a_bit_read_costs_by_capacity_of_a_bank_and_width_of_the_port(
    capacity_bytes: int, port_bits: int, banks: int, expected_fj: float
) -> None:
    shape = MemoryShape(capacity_bits=capacity_bytes * 8, port_bits=port_bits, banks=banks)
    assert read_fj(NOMINAL, shape) == pytest.approx(expected_fj)


def test_published_sram_reads_lie_in_the_range() -> None:
    """Horowitz 2014: 8, 32, 1024 KiB take 10, 20, 100 pJ for 64 bits; CACTI 7 at 45 nm: 86, 146, 639 fJ a bit."""
    for kibibytes, horowitz_fj, cacti_fj in ((8, 156.25, 86.34), (32, 312.5, 145.55), (1024, 1562.5, 638.78)):
        shape = MemoryShape(capacity_bits=kibibytes * 8192, port_bits=64)
        low, high = (read_fj(AT_45.scaled(end), shape) for end in (Level.LOW, Level.HIGH))
        assert low / 1.15 <= cacti_fj <= high
        assert low <= horowitz_fj <= high * 1.15


def test_a_write_costs_a_tenth_more_than_a_read_and_dram_the_same() -> None:
    shape = MemoryShape(capacity_bits=1 << 20, port_bits=64)
    assert write_fj(NOMINAL, shape) == pytest.approx(1.1 * read_fj(NOMINAL, shape))
    moved = {MemoryKind.DRAM: 1000}
    for traffic in (step(reads_bits=moved), step(writes_bits=moved)):
        assert float(price(trace(traffic), AT_45).total.nominal) == pytest.approx(12700)


def test_reads_and_writes_are_priced_by_the_memory_they_pass() -> None:
    memories = {
        MemoryKind.WEIGHTS: MemoryShape(capacity_bits=8192 * 8, port_bits=64),
        MemoryKind.DRAM: MemoryShape(capacity_bits=1 << 33, port_bits=64),
    }
    found = price(
        trace(
            step(reads_bits={MemoryKind.WEIGHTS: 1000, MemoryKind.DRAM: 10}, writes_bits={MemoryKind.WEIGHTS: 100}),
            memories=memories,
        ),
        AT_45,
    )
    assert float(found.parts[MemoryKind.WEIGHTS].nominal) == pytest.approx(100 + 11)
    assert float(found.parts[MemoryKind.DRAM].nominal) == pytest.approx(127)
    assert {part: float(e.low) for part, e in found.parts.items()} == pytest.approx(
        {MemoryKind.WEIGHTS: 62 + 6.82, MemoryKind.DRAM: 80}
    )


@pytest.mark.parametrize(("cell", "microwatts"), [(SramCell.LOW_STANDBY_POWER, 1), (SramCell.HIGH_PERFORMANCE, 650)])
def test_leakage_is_power_of_the_on_chip_memories_times_time(cell: SramCell, microwatts: float) -> None:
    """64 KiB, 5000 cycles at 100 MHz: 50 us. DRAM is another chip and leaks nothing here."""
    memories = {
        MemoryKind.WEIGHTS: MemoryShape(capacity_bits=60 * 8192, port_bits=64),
        MemoryKind.ACTIVATIONS: MemoryShape(capacity_bits=4 * 8192, port_bits=64, banks=4),
        MemoryKind.DRAM: MemoryShape(capacity_bits=1 << 33, port_bits=64),
    }
    found = price(
        trace(step(cycles=Cycles(compute=4000, stall=1000)), memories=memories), replace(AT_45, sram_cell=cell)
    )
    assert float(found.parts[Component.LEAKAGE].nominal) == pytest.approx(microwatts * 64 * 50)


@exact
@given(traces(), technologies)
def test_totals_are_the_exact_sums_of_steps_and_of_components_and_of_groups(
    found: Trace, technology: Technology
) -> None:
    energy = price(found, technology)
    assert energy.total == sum((one.total for one in energy.steps), EnergyRange())
    assert energy.total == sum(energy.parts.values(), EnergyRange())
    assert energy.total == sum(energy.groups.values(), EnergyRange())
    assert set(energy.groups) == set(Group)


@exact
@given(traces(), technologies, st.data())
def test_the_energy_of_a_sum_is_the_sum_of_the_energies(
    found: Trace, technology: Technology, data: st.DataObject
) -> None:
    """Steps of one trace priced apart, in any split, give what they give together; no rounding."""
    cut = data.draw(st.integers(0, len(found.steps)))
    parts = [price(replace(found, steps=steps), technology) for steps in (found.steps[:cut], found.steps[cut:])]
    whole = price(found, technology)
    assert whole.total == parts[0].total + parts[1].total
    assert dict(whole.parts) == add_ranges(part.parts for part in parts)


@exact
@given(traces(), technologies, st.integers(0, 1000))
def test_the_energy_is_linear_in_the_counts(found: Trace, technology: Technology, times: int) -> None:
    def scaled(counts: Mapping[Key, int]) -> dict[Key, int]:
        return {key: count * times for key, count in counts.items()}

    many = replace(
        found,
        steps=tuple(
            replace(
                one,
                macs_executed=one.macs_executed * times,
                cycles=Cycles(compute=one.cycles.total * times),
                post_actions=scaled(one.post_actions),
                reads_bits=scaled(one.reads_bits),
                writes_bits=scaled(one.writes_bits),
            )
            for one in found.steps
        ),
    )
    assert price(many, technology).total == price(found, technology).total * times


@exact
@given(traces(), technologies)
def test_low_nominal_and_high_are_in_order(found: Trace, technology: Technology) -> None:
    for energy in price(found, technology).parts.values():
        assert 0 <= energy.low <= energy.nominal <= energy.high


@exact
@given(traces())
def test_the_parts_that_scale_do_so_by_node_and_by_the_square_of_the_voltage(found: Trace) -> None:
    """DRAM alone does not. 28 nm at 0.45 V: 0.5318 / 4 of 45 nm at 0.9 V."""
    there = price(found, load_technology("28nm").with_voltage(0.45)).parts
    for part, energy in price(found, AT_45).parts.items():
        factor = 1 if part is MemoryKind.DRAM else AT_45_TO_28 / 4
        assert float(there[part].nominal) == pytest.approx(float(energy.nominal) * factor, rel=1e-9)


AT_45_TO_28 = load_technology("28nm").node_scale(45)


def test_only_executed_macs_count() -> None:
    """Idle lanes and padded taps are charged: the engine does not gate them off."""
    executed = price(trace(step(macs_full=10, macs_trimmed=5, macs_executed=1000)), AT_45)
    assert executed.total == price(trace(step(macs_executed=1000)), AT_45).total
    assert executed.total != price(trace(step(macs_executed=999)), AT_45).total


def test_operations_of_the_array_are_not_charged_twice() -> None:
    multiplexers = {Action(kind=ActionKind.MUX, widths=(8,)): 10**9}
    assert price(trace(replace(step(), actions=multiplexers)), AT_45).total == EnergyRange()


@pytest.mark.parametrize(
    ("part", "group"),
    [
        (Component.ARRAY, Group.CORE),
        (Component.POST, Group.CORE),
        (Component.LEAKAGE, Group.LEAKAGE),
        (MemoryKind.DRAM, Group.DRAM),
        *((kind, Group.ON_CHIP_MEMORIES) for kind in MemoryKind if kind is not MemoryKind.DRAM),
    ],
)
def test_every_component_belongs_to_a_group(part: Part, group: Group) -> None:
    assert group_of(part) is group


def test_json_names_every_component_in_picojoules() -> None:
    memories = {MemoryKind.WEIGHTS: MemoryShape(capacity_bits=8192 * 8, port_bits=64)}
    found = price(
        trace(step("stem", macs_executed=1000, reads_bits={MemoryKind.WEIGHTS: 64}), memories=memories), AT_45
    )
    value = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert set(value) == {
        "technology",
        "node_nm",
        "voltage_v",
        "sram_cell",
        "warnings",
        "total",
        "groups",
        "components",
        "steps",
    }
    assert value["components"]["weights"] == pytest.approx({"low": 3.968, "nominal": 6.4, "high": 9.984})
    assert set(value["groups"]) == {"core", "on_chip_memories", "dram", "leakage"}
    assert value["groups"]["dram"] == {"low": 0, "nominal": 0, "high": 0}
    assert value["steps"][0]["name"] == "stem"
    assert value["steps"][0]["total"] == value["total"]


def test_the_table_shows_components_groups_total_and_warnings() -> None:
    memories = {MemoryKind.WEIGHTS: MemoryShape(capacity_bits=8192 * 8, port_bits=64)}
    stem = step("stem", macs_executed=10**6, reads_bits={MemoryKind.WEIGHTS: 64_000})
    text = as_text(energy_table(price(trace(stem, memories=memories), AT_45.with_voltage(0.45))))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "Energy per image, 45nm at 0.45 V, low_standby_power memories, pJ"
    assert "weights 992.0 1,600.0 2,496.0" in lines  # a quarter of 64 kbit at 62, 100, 156 fJ
    assert "array 9,815.0 14,625.0 18,237.5" in lines
    assert "group core 9,815.0 14,625.0 18,237.5" in lines
    assert "group dram 0.0 0.0 0.0" in lines
    assert "total 10,807.0 16,225.0 20,733.5" in lines
    assert lines[-1].startswith("warning: 0.45 V is below 0.6 V")


def test_a_datapath_without_a_price_is_refused() -> None:
    with pytest.raises(BadInput, match=r"datapath: found 'analog', expected mux, and, xnor or mul, which have a price"):
        price(trace(step(macs_executed=1), datapath="analog"), AT_45)


def test_traffic_at_a_memory_that_is_not_described_is_refused() -> None:
    bits = {MemoryKind.WEIGHTS: 1, MemoryKind.CONSTANTS: 1}
    with pytest.raises(BadInput, match=r"engine: bits pass memories .* not describe: constants, weights"):
        price(trace(step(reads_bits=bits)), AT_45)


def warnings(energy: Energy) -> str:
    return "\n".join(energy.warnings)


def test_warnings_travel_with_the_result() -> None:
    assert price(trace(step(macs_executed=1)), AT_45).warnings == ()
    assert "0.59 V is below 0.6 V" in warnings(price(trace(), AT_45.with_voltage(0.59)))


def test_memories_in_use_beyond_the_fit_are_told() -> None:
    large = MemoryShape(capacity_bits=1 << 24, port_bits=257)
    fitting = MemoryShape(capacity_bits=1 << 23, port_bits=256)
    memories = dict.fromkeys((MemoryKind.WEIGHTS, MemoryKind.CONSTANTS, MemoryKind.DRAM, MemoryKind.CLASSES), large)
    memories[MemoryKind.LOOKUPS] = fitting
    read = step(reads_bits=dict.fromkeys((MemoryKind.WEIGHTS, MemoryKind.DRAM, MemoryKind.LOOKUPS), 1))
    written = step(writes_bits={MemoryKind.CONSTANTS: 1})
    assert price(trace(read, written, memories=memories), AT_45).warnings == (
        "KiB a bank: weights 2048, constants 2048; the price of a bit was fitted up to 1024",
        "bits a port: weights 257, constants 257; the price of a bit was fitted up to 256",
    )
    assert price(trace(read, memories=dict.fromkeys(memories, fitting)), AT_45).warnings == ()


def test_components_come_in_one_order_whatever_the_steps_do_first() -> None:
    memories = {kind: MemoryShape(capacity_bits=8192, port_bits=64) for kind in MemoryKind}
    add = Action(kind=ActionKind.ADD, widths=(8,))
    steps = [
        step(cycles=Cycles(drain=1)),
        step(writes_bits={MemoryKind.DRAM: 1}),
        step(reads_bits={MemoryKind.WEIGHTS: 1}),
        step(writes_bits={MemoryKind.ACTIVATIONS: 1}),
        step(post_actions={add: 1}),
        step(macs_executed=1),
    ]
    parts = price(trace(*steps, memories=memories), AT_45).parts
    names = ["array", "post", "activations", "weights", "dram", "leakage"]
    assert [part.value for part in parts] == names


def qtools_pj(macs: int) -> Fraction:
    """What QTools charges for an 8-bit activation times a 1-bit weight: 0.3 of an addition of 8 bits, and one of 17.

    Its addition of b bits takes 0.003125 b pJ.
    """
    add = Fraction("0.003125")
    return macs * (Fraction("0.3") * 8 * add + 17 * add)


def test_qtools_own_figure_and_where_ours_differs_on_purpose() -> None:
    """3x3, 16 to 16 channels, 32 x 32 pixels, padded taps counted: QTools' figure, and ours for the same MACs.

    QTools adds every product to an accumulator of 17 bits and clocks nothing. Ours adds in a tree, w + 1 bits a MAC,
    and clocks 2 bits a MAC. That both sums are within 4 % at 8 bits is chance: the logic is 0.62 of QTools'.
    """
    macs = 32 * 32 * 16 * 16 * 9
    assert macs == 2359296
    assert float(qtools_pj(macs)) == pytest.approx(143032.32, rel=1e-12)
    ours = float(price(trace(step(macs_executed=macs), act_bits=8), AT_45).total.nominal)
    registers = macs * 2 * 10.4 / 1000
    assert ours == pytest.approx(macs * (9 * 3.3 + 8 + 20.8) / 1000)
    assert (ours - registers) / float(qtools_pj(macs)) == pytest.approx(0.622, abs=0.001)
    assert ours / float(qtools_pj(macs)) == pytest.approx(0.965, abs=0.001)
