"""Which kernel is chosen, and what every kernel set offers."""

import dataclasses

import numpy as np
import pytest

from bnhw.kernels import select
from bnhw.kernels.select import (
    FUSED_CHOICES,
    KERNEL_CHOICES,
    KERNELS_VARIABLE,
    PLANE_LANES_LIMITS,
    PREPARE,
    REFERENCE_CHOICES,
    WeightsKind,
    choose,
    default_choice,
    fused_choice,
    host_features,
    kernel_set,
    runnable_choices,
)
from bnhw.kernels.types import BinaryWeights, Coding, Geometry, IntegerWeights

NOTHING: frozenset[str] = frozenset()
VPOPCNT = frozenset({"avx512vpopcntdq", "avx2", "popcnt"})
BIPOLAR = Coding(bits=1, signed=False, zero_point=0, bipolar=True)
POINT = Geometry(kernel=(1, 1), stride=(1, 1), pads=(0, 0, 0, 0))


def unsigned(bits: int) -> Coding:
    return Coding(bits=bits, signed=False, zero_point=0)


EIGHT_BITS = unsigned(8)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    kernel: str
    choice: str = "auto"
    kind: WeightsKind = "binary"
    coding: Coding = EIGHT_BITS
    features: frozenset[str] = VPOPCNT
    channels: int = 64


EXPECTATIONS = (
    Expectation(choice="reference", kernel="reference"),
    Expectation(choice="checked", kernel="reference"),
    Expectation(choice="reference", kind="integer", kernel="reference"),
    Expectation(kind="integer", kernel="multiply"),
    Expectation(choice="bit_serial", kind="integer", kernel="multiply"),
    Expectation(choice="multiplexer", kind="integer", kernel="multiply"),
    Expectation(coding=BIPOLAR, kernel="xnor"),
    Expectation(choice="bit_serial", coding=BIPOLAR, features=NOTHING, channels=1, kernel="xnor"),
    Expectation(choice="multiplexer", coding=BIPOLAR, kernel="multiplexer"),
    Expectation(kernel="bit_serial"),
    Expectation(features=NOTHING, kernel="bit_serial"),
    Expectation(coding=unsigned(9), kernel="multiplexer"),
    Expectation(choice="bit_serial", coding=unsigned(9), kernel="multiplexer"),
    Expectation(channels=3, kernel="multiplexer"),
    Expectation(choice="bit_serial", channels=3, kernel="bit_serial"),
    Expectation(channels=160, kernel="bit_serial"),
    Expectation(features=NOTHING, channels=160, kernel="multiplexer"),
    Expectation(features=frozenset({"avx2"}), channels=160, kernel="bit_serial"),
    Expectation(features=frozenset({"neon"}), channels=160, kernel="bit_serial"),
)


@pytest.mark.parametrize("case", EXPECTATIONS)
def test_choice_follows_the_table(case: Expectation) -> None:
    assert choose(case.choice, case.kind, case.coding, case.features, case.channels) == case.kernel


def test_last_limit_applies_to_every_machine() -> None:
    assert PLANE_LANES_LIMITS[-1][0] == ""


def test_unknown_names_are_refused_with_the_allowed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"'fast'.*auto, amx, vnni, avx2, portable, reference, multiplexer, bit_serial, checked"
    ):
        choose("fast", "binary", BIPOLAR, NOTHING)
    with pytest.raises(ValueError, match="expected one of auto"):
        kernel_set("fast")
    with pytest.raises(ValueError, match="expected 'binary' or 'integer'"):
        choose("auto", "ternary", BIPOLAR, NOTHING)  # type: ignore[arg-type]  # the wrong word is the point
    monkeypatch.setenv(KERNELS_VARIABLE, "fast")
    with pytest.raises(ValueError, match="BNHW_KERNELS='fast': expected one of auto"):
        default_choice()


def test_whole_programs_run_on_the_best_that_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def features(*names: str) -> None:
        monkeypatch.setattr(select, "host_features", lambda: frozenset().union(*(FUSED_CHOICES[n] for n in names)))

    monkeypatch.setattr(select, "request_permission", lambda: True)
    features("amx", "vnni")
    assert [fused_choice(c) for c in ("auto", "amx", "vnni", "bit_serial")] == ["amx", "amx", "vnni", None]
    features("vnni")
    assert fused_choice("auto") == "vnni"
    features("avx2")
    assert fused_choice("auto") == "avx2"
    features()
    assert [fused_choice(c) for c in ("auto", "portable")] == [None, "portable"]
    monkeypatch.setattr(select, "host_features", lambda: frozenset({"sse2"}))
    assert fused_choice("auto") == "portable", "on x86-64, where it has been run"
    features()
    assert set(runnable_choices()) == set(KERNEL_CHOICES) - set(FUSED_CHOICES) | {"portable"}


def test_auto_takes_what_numba_is_set_to_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instructions that code generation is kept from end the process."""
    has = FUSED_CHOICES["vnni"] | FUSED_CHOICES["avx2"] | {"sse2"}
    monkeypatch.setattr(select, "host_features", lambda: frozenset(has))

    def choice(**settings: str) -> str | None:
        with monkeypatch.context() as changed:
            for name, value in settings.items():
                changed.setenv(f"NUMBA_{name}", value)
            return fused_choice("auto")

    assert choice() == "vnni"
    assert choice(CPU_NAME="generic") == choice(CPU_FEATURES="-avx512vnni") == "portable"
    assert choice(CPU_NAME="haswell", CPU_FEATURES="+avx2, +fma") == "avx2"
    assert choice(CPU_FEATURES=",".join(f"+{name}" for name in has)) == "vnni"
    assert choice(ENABLE_AVX="0") == "portable"


def test_kernels_that_the_machine_cannot_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "host_features", lambda: frozenset({"avx2"}))
    with pytest.raises(
        ValueError, match=r"cannot run 'vnni', it lacks the CPU features avx512.*one of auto, avx2, portable, reference"
    ):
        kernel_set("vnni")
    monkeypatch.setattr(select, "host_features", lambda: FUSED_CHOICES["amx"])
    monkeypatch.setattr(select, "request_permission", lambda: False)
    with pytest.raises(ValueError, match="cannot run 'amx', it lacks the operating system's permission"):
        kernel_set("amx")


def test_environment_names_the_default_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)
    assert default_choice() == "auto"
    monkeypatch.setenv(KERNELS_VARIABLE, "")
    assert default_choice() == "auto"
    monkeypatch.setenv(KERNELS_VARIABLE, "reference")
    assert default_choice() == "reference"


def test_host_features_are_names() -> None:
    assert all(isinstance(name, str) and name for name in host_features())


@pytest.mark.parametrize("choice", runnable_choices())
def test_every_set_prepares_both_kinds_of_weights_and_keeps_its_dtype(choice: str) -> None:
    kernels = kernel_set(choice)
    dtype = np.int64 if choice in REFERENCE_CHOICES else np.int32
    signs = np.ones((2, 1, 1, 64), np.int8)
    for weights in (BinaryWeights.from_signs(signs), IntegerWeights(values=signs)):
        convolution = kernels.prepare_convolution(weights, POINT, unsigned(2))
        assert convolution.kernel in PREPARE
        acc = convolution(np.full((1, 1, 1, 64), 3, dtype))
        assert acc.dtype == dtype
        assert acc.tolist() == [[[[192, 192]]]]


def test_every_set_offers_the_same_operations() -> None:
    for choice in runnable_choices():
        kernels = kernel_set(choice)
        assert kernels.choice == choice
        assert all(callable(getattr(kernels, f.name)) for f in dataclasses.fields(kernels) if f.name != "choice")


def test_mismatched_weights_and_geometry_are_refused() -> None:
    weights = BinaryWeights.from_signs(np.ones((3, 3, 3, 4), np.int8))
    prepare = kernel_set("auto").prepare_convolution
    with pytest.raises(ValueError, match=r"weights are 3x3, the geometry says \(1, 1\)"):
        prepare(weights, POINT, BIPOLAR)
    halves = Geometry(kernel=(3, 3), stride=(1, 1), pads=(0, 0, 0, 0), groups=2)
    with pytest.raises(ValueError, match="3 output channels do not split into 2 groups"):
        prepare(weights, halves, BIPOLAR)
