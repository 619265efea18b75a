"""`bnhw estimate`: what it prints is what the closed forms say."""

import json
from pathlib import Path

import pytest
from cli_helpers import Call

import bnhw
from bnhw.hardware.streaming import fold_for_budget, fold_for_rate
from bnhw.hardware.streaming_latency import streaming_latency
from bnhw.hardware.systolic import Stationary, systolic_cycles


def test_a_pipeline_for_a_rate_has_the_fewest_lanes_and_its_latency(files: Path, call: Call) -> None:
    program = bnhw.load("digits.bnhw")
    design = fold_for_rate(program, frames_per_second=1000, clock_mhz=100)
    done = call("estimate", "digits.bnhw", "--fps", "1000", "--clock-mhz", "100", "--json")
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert (told["lanes"], told["interval_cycles"]) == (design.lanes, design.interval)
    assert told["latency_cycles"] == streaming_latency(program, design).cycles
    assert told["images_per_second"] == 1e8 / design.interval >= 1000
    assert [(unit["pe"], unit["simd"]) for unit in told["units"]] == [(one.pe, one.simd) for one in design.units]
    text = call("estimate", "digits.bnhw", "--fps", "1000", "--clock-mhz", "100").out
    assert f"{design.interval:,} cycles between two images" in text
    assert all(one.unit.name in text for one in design.units)


def test_a_pipeline_for_a_budget_stays_within_it(files: Path, call: Call) -> None:
    told = json.loads(call("estimate", "digits.bnhw", "--lanes", "500", "--json").out)
    assert told["lanes"] == fold_for_budget(bnhw.load("digits.bnhw"), lanes=500).lanes <= 500


@pytest.mark.parametrize("stationary", [kind.value for kind in Stationary])
def test_a_systolic_array_takes_the_cycles_of_its_layers(files: Path, call: Call, stationary: str) -> None:
    layers = systolic_cycles(bnhw.load("digits.bnhw"), 16, 8, Stationary(stationary))
    arguments = ("estimate", "digits.bnhw", "--systolic", "16x8", "--stationary", stationary)
    told = json.loads(call(*arguments, "--json").out)
    assert told["cycles_total"] == sum(layer.cycles for layer in layers)
    assert [layer["cycles"] for layer in told["layers"]] == [layer.cycles for layer in layers]
    assert 0 < told["utilisation"] <= 1
    assert f"16 x 8, {stationary}-stationary" in call(*arguments).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name one kind of hardware: --fps RATE, --lanes N or --systolic RxC"),
        (("--fps", "3", "--lanes", "9"), "name one kind of hardware"),
        (("--systolic", "32"), "--systolic is '32'; rows x columns are expected, such as 32x32"),
        (("--systolic", "0x4"), "give at least 1 x 1"),
        (("--systolic", "4x4", "--stationary", "row"), "--stationary 'row' is not available; choose output, weight"),
        (("--lanes", "1"), "a budget of 1 lanes"),
        (("--fps", "1e9"), "raise the clock or ask for fewer images a second"),
    ],
)
def test_what_cannot_be_estimated_is_refused(files: Path, call: Call, arguments: tuple[str, ...], message: str) -> None:
    done = call("estimate", "digits.bnhw", *arguments)
    assert done.code == 2
    assert message in done.err
