"""Two executions integer by integer, and the integer program beside its float model."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from program_builder import one_of_each
from program_strategies import programs_with_images

from bnhw.compare import Fidelity, first_difference, measure_fidelity
from bnhw.compiler import self_check
from bnhw.dtypes import Array, IntegerType
from bnhw.errors import BadInput, ComparisonFailed
from bnhw.machine import Machine
from bnhw.program import Program
from bnhw.results import fidelity_summary, run_summary, summary_rows

IMAGES = np.random.default_rng(6).integers(0, 256, (3, 5, 4, 2)).astype(np.uint8)


@dataclass(frozen=True)
class WrongOnce:
    """A convolution whose result is off by one at one place of the images from `image` on."""

    right: Any
    place: tuple[int, int, int]
    brightest: int

    @property
    def kernel(self) -> str:
        return "wrong"

    def __call__(self, codes: Array) -> Array:
        result = np.array(self.right(codes))
        result[(slice(None), *self.place)] += codes.sum(axis=(1, 2, 3)) > self.brightest
        return result


def broken_machine(program: Program, output: str, place: tuple[int, int, int], brightest: int = -1) -> Machine:
    machine = Machine(program, "auto")
    wrong = WrongOnce(right=machine.convolutions[output], place=place, brightest=brightest)
    machine.convolutions = {**machine.convolutions, output: wrong}
    return machine


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs_with_images())
def test_equal_executions_are_compared_to_the_last_integer(case: tuple[Program, Array]) -> None:
    program, images = case
    comparison = first_difference(Machine(program, "reference"), Machine(program, "auto"), images)
    assert comparison.difference is None
    assert comparison.tensors == len(program.instructions)
    assert comparison.integers == len(images) * sum(program.tensor[i.output].size for i in program.instructions)


def test_the_first_difference_is_named_with_both_integers() -> None:
    program = one_of_each()
    found = first_difference(Machine(program, "reference"), broken_machine(program, "t4", (2, 3, 1)), IMAGES)
    difference = found.difference
    assert difference is not None
    right = {step.instruction.output: step.value for step in Machine(program, "reference").steps(IMAGES)}["t4"]
    assert (difference.image, difference.row, difference.column, difference.channel) == (0, 2, 3, 1)
    assert difference.first == right[0, 2, 3, 1]
    assert difference.second == difference.first + 1
    assert difference.differing == 1
    text = str(difference)
    assert "first difference in Convolve 't4'" in text
    assert "image 0, row 2, column 3, channel 1" in text
    assert f"{difference.first} (reference) against {difference.second} (auto)" in text
    assert "look for padding or a sum" in text


def test_a_difference_in_a_later_image_is_found() -> None:
    program = one_of_each()
    tensors = {step.instruction.output: step.value for step in Machine(program, "reference").steps(IMAGES)}
    codes = tensors["t1"].sum(axis=(1, 2, 3))
    order = np.argsort(codes)
    images = IMAGES[order]
    assert codes[order[1]] < codes[order[2]]
    broken = broken_machine(program, "t2", (0, 0, 0), brightest=int(codes[order[1]]))
    seen: list[int] = []
    found = first_difference(Machine(program, "reference"), broken, images, seen.append).difference
    assert found is not None
    assert found.image == 2
    assert seen == [1, 2]


def test_a_wrong_requantise_step_is_called_rounding_or_a_constant() -> None:
    program = one_of_each()
    other = replace(program, constants={**program.constants, "t3/offset": program.constants["t3/offset"] + 2**20})
    found = first_difference(Machine(program, "reference"), Machine(other, "auto"), IMAGES).difference
    assert found is not None
    assert found.instruction.output == "t3"
    assert "look for rounding, saturation or a constant" in str(found)


def test_an_integer_beyond_its_declared_type_is_a_bug_of_ours() -> None:
    program = one_of_each()
    narrow = IntegerType(bits=2, signed=True)
    tensors = tuple(replace(t, dtype=narrow) if t.name == "t2" else t for t in program.tensors)
    lying = replace(program, tensors=tensors)
    with pytest.raises(AssertionError, match=r"Convolve 't2' left its declared int2: -\d+\.\.\d+"):
        first_difference(Machine(lying, "reference"), Machine(lying, "reference"), IMAGES)


def test_images_that_do_not_fit_are_refused() -> None:
    machine = Machine(one_of_each())
    with pytest.raises(BadInput, match="images have the shape"):
        first_difference(machine, machine, IMAGES[:, :3])


def test_the_self_check_fails_on_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    program = one_of_each()
    self_check(program, IMAGES)
    execute = Machine._execute

    def wrong(self: Machine, instruction: Any, inputs: list[Array]) -> tuple[Array, int]:
        value, saturations = execute(self, instruction, inputs)
        is_wrong = self.choice == "auto" and instruction.output == "t8"
        return value + is_wrong, saturations

    monkeypatch.setattr(Machine, "_execute", wrong)
    with pytest.raises(ComparisonFailed, match="self-check before writing failed: first difference in PoolSum 't8'"):
        self_check(program, IMAGES)


# Fidelity.


def test_agreement_is_the_share_of_equal_classes() -> None:
    integers = np.array([[5, 1], [1, 5], [5, 5], [0, 1]])
    reals = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    fidelity = measure_fidelity(integers, 1.0, reals, np.array([0, 1, 0, 0]))
    assert fidelity.images == 4
    assert fidelity.agreement == 0.5
    assert fidelity.integer_accuracy == 0.75
    assert fidelity.float_accuracy == 0.75
    assert measure_fidelity(integers, 1.0, reals).float_accuracy is None


def test_signal_to_noise_of_a_known_error() -> None:
    reals = np.array([[10.0, -10.0]])
    fidelity = measure_fidelity(np.array([[22, -18]]), 0.5, reals)  # 11 and -9: an error of 1 each
    assert fidelity.signal_to_noise_db == pytest.approx(20.0)


def test_equal_logits_have_no_noise_and_their_summary_is_json() -> None:
    fidelity = measure_fidelity(np.array([[2, 4]]), 0.5, np.array([[1.0, 2.0]]))
    assert fidelity.signal_to_noise_db == float("inf")
    summary = fidelity_summary(fidelity)
    assert summary["logit_signal_to_noise_db"] is None
    assert ("logit signal to noise (dB)", "none") in summary_rows(summary)


def test_logits_of_another_network_are_refused() -> None:
    with pytest.raises(BadInput, match=r"the program returns logits \(1, 2\), the float model \(1, 3\); they are not"):
        measure_fidelity(np.zeros((1, 2)), 1.0, np.zeros((1, 3)))


# Summaries.


def test_a_run_is_summed_up_in_plain_values() -> None:
    result = Machine(one_of_each(), "multiplexer").run(IMAGES)
    summary = run_summary(result, result.predictions, 2)
    assert summary["images"] == 3
    assert summary["threads"] == 2
    assert summary["accuracy_percent"] == 100.0
    assert summary["kernels"] == {"multiplexer": 2, "multiply": 1}
    assert summary["saturated_residual_sums"] == result.saturations["t6"]
    assert "accuracy_percent" not in run_summary(result, None, 1)
    rows = dict(summary_rows(summary))
    assert rows["kernels"] == "multiplexer (2 convolutions), multiply (1 convolution)"
    assert rows["accuracy %"] == "100.00"


def test_text_of_a_summary_has_two_decimals_of_per_cent_and_units() -> None:
    summary = {"agreement_percent": 100 * 359 / 364, "logit_signal_to_noise_db": 31.25, "images": 1234}
    assert summary_rows(summary) == [
        ("agreement %", "98.63"),
        ("logit signal to noise (dB)", "31.25"),
        ("images", "1,234"),
    ]


def test_summaries_leave_accuracies_out_without_labels() -> None:
    fidelity = Fidelity(images=2, agreement=0.5, signal_to_noise_db=1.234, float_accuracy=None, integer_accuracy=None)
    assert fidelity_summary(fidelity) == {"images": 2, "agreement_percent": 50.0, "logit_signal_to_noise_db": 1.23}
    known = replace(fidelity, float_accuracy=0.25, integer_accuracy=1.0)
    assert fidelity_summary(known)["float_accuracy_percent"] == 25.0
    assert fidelity_summary(known)["integer_accuracy_percent"] == 100.0
