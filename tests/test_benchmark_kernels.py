"""`benchmarks/kernels.py` and what it is made of: chains, turns, rivals and ratios say what is so."""

import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bnhw.kernels import reference
from bnhw.kernels.select import FUSED_CHOICES, fused_choice, missing_for
from bnhw.kernels.types import Coding, Geometry
from bnhw.machine import Machine

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import rivals
import turns
from chains import Chains, Layer, overhead
from turns import Contender, Times, fastest, ratio_of, take_turns

LAYER = Layer(channels=8, size=6, bits=8)
RUNNABLE = [name for name in FUSED_CHOICES if not missing_for(name)]


def contender(short: Callable[[], Any], long: Callable[[], Any]) -> Contender:
    return Contender(short=short, long=long, layers=4)


# Ours.


@pytest.mark.parametrize("kernels", RUNNABLE)
def test_chains_equal_the_reference_on_every_image(kernels: str) -> None:
    chains = Chains.make(LAYER, 3, 4)
    for program, made in zip(chains.programs, chains.compiled(kernels), strict=True):
        expected = Machine(program, "reference").run(chains.images).logits
        assert len(np.unique(expected)) > LAYER.channels
        np.testing.assert_array_equal(made.run(chains.images)[0], expected)


def test_a_chain_that_is_not_exact_is_refused() -> None:
    chains = Chains.make(LAYER, 1, 2)
    stem, whole = chains.expected
    for expected in ((stem + 1, whole), (stem, whole + 1)):
        with pytest.raises(AssertionError, match="portable is not exact on 8@6 8-bit"):
            replace(chains, expected=expected).compiled("portable")


def test_the_bare_chain_and_the_machine_run_the_same() -> None:
    kernels = fused_choice("auto") or "portable"
    chains = Chains.make(LAYER, 1, 2)
    pair = overhead(chains.compiled(kernels), chains)
    np.testing.assert_array_equal(pair["bare"].long()[0], pair["machine"].long().logits)


# Turns.


class Clock:
    """A clock that only work moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        monkeypatch.setattr(turns, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def work(self, name: str, *seconds: float) -> Callable[[], Any]:
        """A call that takes so long, the seconds one after another."""
        durations = list(seconds)

        def call() -> None:
            self.calls.append(name)
            self.now += durations[0] if len(durations) == 1 else durations.pop(0)

        return call


def test_contenders_take_turns_warmed_up_unless_they_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    quick = contender(clock.work("a", 0.01), clock.work("A", 0.05))
    slow = contender(clock.work("b", 0.01), clock.work("B", 0.5))
    times, errors = take_turns({"quick": quick, "slow": slow}, 2)
    assert "".join(clock.calls) == "aaAAbbBB" + "aaAAbbB"
    assert errors == {}
    assert times["quick"].short == pytest.approx([0.01, 0.01])
    assert times["slow"].long == pytest.approx([0.5, 0.5])


def test_a_layer_takes_what_the_longer_chain_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    work = contender(clock.work("a", 0.02), clock.work("A", 9.0, 0.10, 9.0, 0.06))
    times, _ = take_turns({"work": work}, 2)
    assert times["work"].per_layer == pytest.approx(0.04 / 4)
    assert times["work"].of_rounds == pytest.approx([0.08 / 4, 0.04 / 4])
    assert times["work"].spread == pytest.approx(10 / 6)


def test_ratios_are_those_of_the_fastest_and_of_each_round() -> None:
    ours = Times(layers=8, short=[1.0, 1.0], long=[3.0, 5.0])
    other = Times(layers=8, short=[0.0, 2.0], long=[6.0, 12.0])
    ratio = ratio_of(ours, other)
    assert (ratio.ratio, ratio.least, ratio.greatest) == (3.0, 2.5, 3.0)
    assert str(ratio) == "3.00 (2.50 to 3.00)"
    assert fastest({"ours": ours, "other": other}, ["other", "ours", "third"]) == "ours"
    assert fastest({"ours": ours}, ["third"]) is None


def test_a_contender_that_fails_is_named_and_the_others_go_on() -> None:
    calls = iter(range(100))

    def fails_later() -> None:
        if next(calls) > 2:
            raise RuntimeError("out of tiles\nand more")

    times, errors = take_turns({"bad": contender(fails_later, fails_later), "good": contender(int, int)}, 3)
    assert errors == {"bad": "RuntimeError: out of tiles"}
    assert list(times) == ["good"] and len(times["good"].long) == 3


# Rivals.


def test_what_rivals_are_compared_with_is_the_reference() -> None:
    values = rivals.Values.make(LAYER, 2, 2)
    coding = Coding(bits=8, signed=False, zero_point=0)
    geometry = Geometry(kernel=(3, 3), stride=(1, 1), pads=(1, 1, 1, 1))
    codes = values.codes[:1].astype(np.int64)
    for signs, expected in zip(values.signs, values.expected_codes, strict=True):
        sums = reference.convolution(codes, signs.transpose(0, 2, 3, 1), geometry, coding)
        codes = np.clip(np.round(sums / values.scale), 0, 255).astype(np.int64)
        np.testing.assert_array_equal(expected, codes[0])
        assert codes.std() > 10


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere the other engines have other kernels")
def test_every_rival_that_is_installed_is_right() -> None:
    found, errors = rivals.rivals(LAYER, 3, 2)
    assert errors == {}
    assert {name.split()[0] for name in found} == {name for name in rivals.MODULES if find_spec(name) is not None}
    for rival in found.values():
        assert rival.layers == 3
        rival.short()
        rival.long()


@pytest.mark.parametrize("tolerance", [None, 1e-5])
def test_a_wrong_rival_is_refused(tolerance: float | None) -> None:
    values = rivals.Values.make(LAYER, 2, 1)
    right = (values.expected_codes if tolerance is None else values.expected_floats)[1]
    wrong = right.copy()
    wrong[-1, -1, -1] += 3
    rivals.check(rivals.Chain(run=int, first_image=lambda: right, tolerance=tolerance), values, 2)
    with pytest.raises(AssertionError, match="off by 3 behind 2 layers"):
        rivals.check(rivals.Chain(run=int, first_image=lambda: wrong, tolerance=tolerance), values, 2)
    with pytest.raises(AssertionError, match="shape"):
        rivals.check(rivals.Chain(run=int, first_image=lambda: right[1:], tolerance=tolerance), values, 2)


def test_rivals_that_fail_are_named_and_the_fastest_of_several_ways_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(seconds: float) -> rivals.Build:
        def make(values: rivals.Values, length: int) -> rivals.Chain:
            image = values.expected_codes[length - 1]

            def run() -> float:
                time.sleep(seconds)
                return seconds

            return rivals.Chain(run=run, first_image=lambda: image)

        return make

    def fails(values: rivals.Values, length: int) -> rivals.Chain:
        raise ValueError("no such layout")

    builds = {"good": {"a": build(0.05), "b": fails, "c": build(0.001)}, "bad": {"a": fails}}
    modules = {"rivals_numpy": SimpleNamespace(BUILDS=builds)}
    monkeypatch.setattr(rivals, "MODULES", {"numpy": "rivals_numpy", "no_such_package": "", "rich": "no_such_module"})
    monkeypatch.setattr(rivals, "import_module", lambda name: modules.get(name) or import_module(name))
    found, errors = rivals.rivals(LAYER, 1, 1)
    assert list(found) == ["good"] and found["good"].long() == 0.001
    assert errors == {
        "bad": "ValueError: no such layout",
        "rich": "ModuleNotFoundError: No module named 'no_such_module'",
    }
