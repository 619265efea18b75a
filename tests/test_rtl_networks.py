"""Whole networks on the Verilog engine: every integer and every step's cycles, and changes that must be found."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program_builder import BIT, Builder, one_of_each
from rtl_helpers import (
    ENGINES,
    MUX,
    compared,
    keep_builds,
    needs_verilator,
    random_images,
)

from bnhw.compiler import compile_model
from bnhw.demo.digits import ONNX
from bnhw.dtypes import Array, IntegerType
from bnhw.hardware.mapping import map_program
from bnhw.hardware.schedule import schedule_engine
from bnhw.hardware.trace import MemoryKind
from bnhw.machine import Machine
from bnhw.ops import Window
from bnhw.program import Program, Tensor
from bnhw.rtl.build import verilog_folder
from bnhw.rtl.image import Words, image
from bnhw.rtl.machine import RtlMachine
from bnhw.rtl.verify import compare_rtl

pytestmark = needs_verilator


@pytest.fixture(autouse=True)
def builds(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_builds(tmp_path_factory, monkeypatch)


@pytest.fixture(scope="module")
def digits() -> Program:
    pixels = np.random.default_rng(0).integers(0, 17, (40, 8, 8, 1)).astype(np.uint8)
    return compile_model(ONNX, pixels)


def test_demo_network_gives_the_same_integers_in_the_same_cycles(digits: Program) -> None:
    found = compared(digits, MUX, random_images(digits, 100))
    assert found.difference == ""
    assert found.tensors == len(digits.instructions)
    assert found.integers == 100 * sum(digits.tensor[i.output].size for i in digits.instructions)


def bits_network(channels: int = 13) -> Program:
    """1-bit activations and weights throughout: padding, grouped, thresholds and signs, k-bit first layer."""
    b = Builder(random=np.random.default_rng(5), shape=(9, 8, 3), one_bit=True)
    bits = Tensor(name="", shape=(1, 1, 1), dtype=BIT, scale=1.0, bipolar=True)
    code = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=8, signed=True), scale=1.0)
    window = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
    x = b.look_up(b.tensors["image"], code, per_channel=True)
    x = b.threshold(b.convolve(x, window, groups=1, out_channels=channels, bits=1), bits, levels=1)
    x = b.requantise(b.convolve(x, window, groups=1, out_channels=24, bits=1), bits, multiplier_bits=0)
    x = b.requantise(b.convolve(x, window, groups=4, out_channels=16, bits=1), bits, multiplier_bits=0)
    x = b.threshold(b.convolve(x, replace(window, stride=(2, 2)), groups=1, out_channels=30, bits=1), bits, levels=1)
    x = b.convolve(x, Window(kernel=x.shape[:2]), groups=1, out_channels=10, bits=1)
    return b.program(x)


def test_network_of_bits_runs_on_xnor() -> None:
    program = bits_network()
    assert compared(program, ENGINES["xnor"], random_images(program, 3)).difference == ""


def with_flipped_bit(words: Words, number: int) -> Words:
    """The same words with one bit flipped."""
    data = words.data.copy()
    data[number // words.bits, number % words.bits // 8] ^= 1 << (number % words.bits % 8)
    return Words(bits=words.bits, data=data)


def difference_with_flipped_bit(program: Program, memory: MemoryKind, bit: int, images: Array) -> str:
    """The first difference on `MUX` when one bit of a memory is flipped behind the image's back."""
    machine = RtlMachine(program, MUX)
    machine.driver.load({memory: with_flipped_bit(image(machine.engine)[memory], bit)})
    return compare_rtl(machine, Machine(program, "reference"), schedule_engine(machine.engine), images).difference


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_a_flipped_weight_is_found_in_its_layer(digits: Program, data: st.DataObject) -> None:
    images = random_images(digits, 1)
    steps = [step for step in map_program(digits, MUX).steps if step.convolve is not None]
    step = data.draw(st.sampled_from(steps))
    unit, (rows, columns), place = step.convolve, step.window.kernel, step.source.place
    assert unit is not None
    values = {done.instruction.output: done.value[0] for done in Machine(digits, "reference").steps(images)}
    seen = values[place.tensor][:: step.window.stride[0], :: step.window.stride[1]] != place.low
    channel = data.draw(st.sampled_from(np.flatnonzero(seen.any(axis=(0, 1))).tolist()))
    pe = data.draw(st.integers(0, min(MUX.pe, step.channels) - 1))
    centre = rows // 2 * columns + columns // 2  # inside the image wherever the window is
    word = unit.base + centre * unit.blocks[0].words + channel // MUX.simd
    bit = (word * MUX.pe + pe) * MUX.simd + channel % MUX.simd
    text = difference_with_flipped_bit(digits, MemoryKind.WEIGHTS, bit, images)
    assert text.startswith(f"first difference in Convolve {unit.instruction!r}"), text
    assert f"channel {pe}:" in text
    assert "in the Verilog it leaves step" in text


def test_a_threshold_that_is_off_by_one_is_found() -> None:
    b = Builder(random=np.random.default_rng(6), shape=(8, 8, 2))
    code = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=4, signed=False), scale=1.0)
    x = b.threshold(b.tensors["image"], code, levels=15, per_channel=False)
    program = b.program(b.sum_global(x))
    images = random_images(program, 8)
    assert compared(program, MUX, images).difference == ""
    bit = MUX.comparators * MUX.threshold_bits + 1  # the lowest of PE 1's first level: one more or one less
    text = difference_with_flipped_bit(program, MemoryKind.THRESHOLDS, bit, images)
    assert text.startswith("first difference in Threshold 't0'")
    assert "channel 1:" in text


@pytest.mark.parametrize(
    ("file", "right", "wrong", "message"),
    [
        (
            "sequencer.v",
            "&& !(descriptor[`MAIN_MEMORY] && RESIDUAL_PORTS == 2);",
            "|| RESIDUAL_PORTS == 1;",
            r"first difference in the cycles of step 3 \(convolve, writes 't6'\), image 0: \d+ \(rtl .*\) against \d+",
        ),
        (
            "engine.v",
            "wire weight_read = main_issue && convolve && main_plane_first;",
            "wire weight_read = main_issue && convolve;",
            r"first difference in the bits read in step 2 \(writes 't3'\) in memory weights, image 0: \d+ \(rtl",
        ),
        (
            "writer.v",
            "saturations <= saturations + clamped_count;",
            "saturations <= saturations + 32'd1;",
            "first difference in the clamped sums of 't6' \\(AddSaturating\\), image 0: ",
        ),
        (
            "writer.v",
            "assign write_address = pixel_address + offset + {18'd0, plane};",
            "assign write_address = pixel_address + offset + {18'd0, descriptor[`LAST_STEP] ? 6'd0 : plane};",
            "first difference in memory: 't17' of image 0 is not what the pipeline wrote",
        ),
    ],
    ids=["an added stall", "a superfluous read", "a counter that is wrong", "a write to a wrong address"],
)
def test_a_fault_in_the_verilog_is_found(file: str, right: str, wrong: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "rtl"
    shutil.copytree(verilog_folder(), folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    text = (folder / file).read_text()
    assert text.count(right) == 1
    (folder / file).write_text(text.replace(right, wrong))
    arch = replace(ENGINES["mul"], name="small", pe=1, simd=1, act_bits=3, lookups=1, post=MUX.post, multiplier_bits=16)
    program = one_of_each()
    found = compared(program, arch, random_images(program, 2), folder)
    assert re.match(message, found.difference), found.difference
