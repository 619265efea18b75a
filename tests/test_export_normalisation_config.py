"""Configurations of normalisations: rates, JSON, and what is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from bnhw.errors import BadInput  # noqa: E402 - after the skip
from bnhw.export.normalisations import (  # noqa: E402
    SCALED_KINDS,
    Normalisation,
    NormalisationConfig,
    Position,
    make_normalisation,
)

N = Normalisation


def config_of(kind: Normalisation, **changes: Any) -> NormalisationConfig:
    return replace(NormalisationConfig(kind=kind, gain=0.25 if kind in SCALED_KINDS else 1.0), **changes)


@pytest.mark.parametrize("kind", Normalisation)
def test_only_the_scaled_kinds_learn_their_gains_slowly(kind: Normalisation) -> None:
    scaled = kind in (N.SCALED, N.SCALED_A1, N.SCALED_A2)
    assert config_of(kind).gain_rate_divisor == (100 if scaled else 1)


@pytest.mark.parametrize("kind", Normalisation)
def test_a_configuration_survives_json(kind: Normalisation) -> None:
    config = config_of(kind, input="offline", input_mean=(1.0,), input_std=(2.0,), dropout=0.5, temperature=30)
    values = json.loads(json.dumps(config.to_json()))
    assert NormalisationConfig.from_json(values) == config
    assert type(config.to_json()["kind"]) is str


def test_the_kind_is_all_that_a_configuration_needs() -> None:
    assert NormalisationConfig.from_json({"kind": "elu"}) == NormalisationConfig(kind=N.ELU)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({}, "field 'kind' is missing"),
        ({"kind": "elu", "colour": 1}, "unknown field 'colour'"),
        ({"kind": "group_norm"}, "kind is 'group_norm', expected one of batch_norm, batch_norm_minus"),
        ({"kind": []}, r"kind is \(\), expected one of"),
        ({"kind": "elu", "gain": 0.5}, "gain is 0.5, expected 1, since only scaled_a1, scaled_a2, scaled_batch_norm"),
        ({"kind": "scaled_a1", "gain": 1.5}, r"gain is 1.5, expected a number in \(0, 1\]"),
        ({"kind": "scaled_a1", "gain": 0.0}, r"gain is 0.0, expected a number in \(0, 1\]"),
        ({"kind": "elu", "temperature": 0}, "temperature is 0, expected a number above 0"),
        ({"kind": "elu", "temperature": True}, "temperature is True, expected a number above 0"),
        ({"kind": "elu", "epsilon": "x"}, "epsilon is 'x', expected a number from 0"),
        ({"kind": "elu", "dropout": 1.0}, "dropout is 1.0, expected a number from 0, below 1"),
        ({"kind": "elu", "input": "odd"}, "input is 'odd', expected one of fixed, offline"),
        ({"kind": "elu", "input": "offline"}, r"input_mean is \(\), expected one number for each colour"),
        ({"kind": "elu", "input_mean": [1.0], "input_std": [1.0]}, "expected nothing, since only input 'offline'"),
        (
            {"kind": "elu", "input": "offline", "input_mean": [1.0], "input_std": [0.0]},
            "expected as many numbers above 0 as input_mean has",
        ),
    ],
)
def test_a_wrong_configuration_is_refused(values: dict[str, Any], part: str) -> None:
    with pytest.raises(BadInput, match=part):
        NormalisationConfig.from_json(values)


def test_a_wrong_configuration_lists_every_problem() -> None:
    with pytest.raises(BadInput, match=r"gain is 2.*epsilon is -1"):
        NormalisationConfig(kind=N.SCALED, gain=2, epsilon=-1)


def test_offline_statistics_for_another_number_of_colours_are_refused() -> None:
    config = config_of(N.NONE, input="offline", input_mean=(1.0,), input_std=(1.0,))
    with pytest.raises(BadInput, match="input_mean has 1 numbers for 3 colours"):
        make_normalisation(config, 3, position=Position.INPUT)
