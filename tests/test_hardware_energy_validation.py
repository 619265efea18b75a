"""The energy model against published chips: every band, what must warn, and the command that prints them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cli_helpers import Call, assert_refused

from bnhw.hardware import validation
from bnhw.hardware.validation import ValidationResult, evaluate, validate
from bnhw.hardware.validation_points import BINAREYE_INPUT_SIDES, BINAREYE_LAYERS, VALIDATION_POINTS, ValidationPoint
from bnhw.reports.energy_tables import verdict

RESULTS = {result.point.name: result for result in validate()}

EXPECTED = {
    "YodaNN at 1.2 V": (202.65, 203.81),
    "YodaNN at 0.6 V": (32.68, 50.95),
    "UNPU, 1-bit weights": (39.53, 68.94),
    "UNPU, its lookup tables counted": (39.53, 40.26),
    "BinarEye, core": (8.70, 8.12),
    "BinarEye, CIFAR-10 frame": (14.40, 8.48),
    "XNORBIN at 0.8 V": (21.05, 33.98),
    "ChewBaccaNN at 0.4 V": (8.97, 1.95),
    "XNE at 0.4 V": (43.20, 1.95),
}
"""Published, and what the model gives with the shipped constants; fJ a MAC, uJ a frame."""


@pytest.mark.parametrize("point", VALIDATION_POINTS, ids=lambda point: point.name)
def test_every_point_lies_in_its_band_or_warns(point: ValidationPoint) -> None:
    assert evaluate(point).holds


def test_every_point_gives_the_figure_that_was_seen() -> None:
    assert list(RESULTS) == list(EXPECTED)
    for name, (published, model) in EXPECTED.items():
        assert RESULTS[name].point.published == pytest.approx(published, abs=0.005)
        assert RESULTS[name].nominal == pytest.approx(model, abs=0.005)


def test_bands_are_a_factor_of_two_and_frames_as_told() -> None:
    for point in VALIDATION_POINTS:
        if point.name == "BinarEye, CIFAR-10 frame":
            assert point.band == (7.2, 29.0)
        else:
            assert point.band == (point.published / 2, point.published * 2)


def test_points_that_were_held_out_are_marked() -> None:
    assert [point.name for point in VALIDATION_POINTS if point.held_out] == ["YodaNN at 0.6 V", "XNORBIN at 0.8 V"]


def test_points_below_the_validated_voltage_warn_and_are_as_far_off_as_the_warning_says() -> None:
    below = [result for result in RESULTS.values() if result.point.must_warn]
    assert [result.point.name for result in below] == ["ChewBaccaNN at 0.4 V", "XNE at 0.4 V"]
    for result in below:
        assert any("0.4 V is below 0.6 V" in warning and "4 to 25 times" in warning for warning in result.warnings)
        assert 4 < 1 / result.ratio < 25


def test_binareye_s_network_has_the_known_counts() -> None:
    assert sum(layer.macs for layer in BINAREYE_LAYERS) == 1_006_673_920
    assert sum(layer.weight_bits for layer in BINAREYE_LAYERS) == 2_138_112
    outputs = [layer.side // 2 if layer.side in (28, 12) else layer.side for layer in BINAREYE_LAYERS[:-1]]
    assert (32, *outputs) == BINAREYE_INPUT_SIDES


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"published": 100.0}, "OUT OF THE BAND"),
        ({"published": 1.0}, "OUT OF THE BAND"),
        ({"voltage_v": 0.59, "accepted": (0.0, 1e9)}, "OUT OF THE BAND"),  # in the band, but with a warning
        ({"must_warn": True}, "DOES NOT WARN"),
        ({}, "in the band"),
        ({"voltage_v": 0.5, "must_warn": True}, "warns"),
    ],
)
def test_a_point_that_does_not_hold_is_seen(change: dict[str, object], word: str) -> None:
    point = next(point for point in VALIDATION_POINTS if point.name == "BinarEye, core")
    result = evaluate(replace(point, **change))  # type: ignore[arg-type]
    assert verdict(result) == word
    assert result.holds == (word in ("in the band", "warns"))


def test_the_report_prints_every_point(call: Call) -> None:
    done = call("report", "--validate-energy")
    assert (done.code, done.err) == (0, "")
    assert done.out.count("in the band") == 7
    assert done.out.count("must warn") == 2
    for point in VALIDATION_POINTS:
        assert f"{point.name}: {point.source}" in done.out


def test_the_printed_points_can_be_written_to_a_file(call: Call, tmp_path: Path) -> None:
    done = call("report", "--validate-energy", "-o", tmp_path / "points.txt")
    assert (done.code, done.out, done.err) == (0, "", f"wrote {tmp_path / 'points.txt'}\n")
    assert (tmp_path / "points.txt").read_text() == call("report", "--validate-energy").out


@pytest.mark.parametrize("options", [("--json",), ("--format", "json")])
def test_the_report_as_json(options: tuple[str, ...], call: Call) -> None:
    done = call("report", "--validate-energy", *options)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == json.loads(json.dumps([result.as_json() for result in validate()]))
    assert all(point["holds"] for point in json.loads(done.out))


def test_a_point_that_does_not_hold_ends_the_command_with_3(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong() -> tuple[ValidationResult, ...]:
        return (evaluate(replace(VALIDATION_POINTS[0], published=1.0)), evaluate(VALIDATION_POINTS[1]))

    monkeypatch.setattr(validation, "validate", wrong)
    done = call("report", "--validate-energy")
    assert done.code == 3
    assert "OUT OF THE BAND" in done.out
    assert "error: the energy model does not hold for YodaNN at 1.2 V; docs/energy.md has the bands" in done.err


def test_the_report_asks_for_a_program_or_none(call: Call) -> None:
    assert_refused(call("report"), "MODEL.bnhw is missing; give a compiled program, or --validate-energy")
    done = call("report", "some.bnhw", "--validate-energy")
    assert_refused(done, "--validate-energy concerns no program; leave out some.bnhw")
