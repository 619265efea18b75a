"""Memory images, descriptors, parameters, and the build: layouts, what is refused, what a missing tool says."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from program_builder import Builder, one_of_each
from rtl_helpers import ENGINES, MUX, keep_builds, needs_verilator, random_images

from bnhw.dtypes import IntegerType
from bnhw.errors import ArchMismatch, BadInput, RtlFailed
from bnhw.hardware.arch import DESCRIPTOR_BITS, Arch, Dataflow, Memory
from bnhw.hardware.arch_file import load_arch, shipped_archs
from bnhw.hardware.mapping import map_program
from bnhw.hardware.steps import Place
from bnhw.hardware.trace import MemoryKind
from bnhw.ops import Window
from bnhw.program import Convolve, Tensor
from bnhw.requantise_constants import count_signed_digits
from bnhw.rtl import build
from bnhw.rtl.build import build_library, verilog_folder
from bnhw.rtl.descriptor import fields, pack
from bnhw.rtl.image import (
    Words,
    host_words,
    image,
    pack_lanes,
    signed_digits,
    tensor_codes,
    tensor_words,
    unpacked,
    words_of_integers,
)
from bnhw.rtl.machine import RtlMachine
from bnhw.rtl.parameters import parameters

MUL = replace(ENGINES["mul"], post=MUX.post, multiplier_bits=16)


@given(st.integers(-(2**33), 2**33))
def test_signed_digits_add_up_and_are_as_few_as_can_be(number: int) -> None:
    digits = signed_digits(number)
    assert sum((-1 if negative else 1) << exponent for exponent, negative in digits) == number
    assert len(digits) == count_signed_digits(np.array([number]))[0]


@given(st.data(), st.integers(1, 40), st.integers(1, 9))
def test_lanes_are_packed_lowest_first_and_unpacked_again(data: st.DataObject, bits: int, lanes: int) -> None:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    rows = data.draw(st.lists(st.lists(st.integers(low, high), min_size=lanes, max_size=lanes), min_size=1, max_size=4))
    words = pack_lanes(np.array(rows, np.int64), bits)
    assert words.bits == bits * lanes
    np.testing.assert_array_equal(unpacked(words.data, bits, lanes, signed=True), rows)
    expected = [sum((value & ((1 << bits) - 1)) << (bits * lane) for lane, value in enumerate(row)) for row in rows]
    np.testing.assert_array_equal(words.data, words_of_integers(expected, words.bits).data)
    assert [int(line, 16) for line in words.hexadecimal().splitlines()] == expected
    assert {len(line) for line in words.hexadecimal().splitlines()} == {-(-words.bits // 4)}


@given(st.data())
def test_a_tensor_lies_where_the_contract_says(data: st.DataObject) -> None:
    """docs/engine.md, section 2, word by word."""
    pe = data.draw(st.integers(1, 4))
    arch = replace(MUX, pe=pe, simd=pe * data.draw(st.integers(1, 3)), lookups=1, act_bits=3, residual_bits=5)
    memory = data.draw(st.sampled_from((MemoryKind.ACTIVATIONS, MemoryKind.RESIDUALS)))
    channels = data.draw(st.integers(1, 14))
    lane_bits, width = (3, arch.simd) if memory is MemoryKind.ACTIVATIONS else (5, arch.pe)
    bits = data.draw(st.integers(1, 12))
    place = Place(
        tensor="t",
        memory=memory,
        base=data.draw(st.integers(0, 5)),
        shape=(2, 3, channels),
        bits=bits,
        low=data.draw(st.sampled_from((0, -(1 << (bits - 1))))),
        bipolar=False,
        lane_bits=lane_bits,
        planes=-(-bits // lane_bits),
        blocks=-(-channels // pe),
        pixel_words=-(-channels // width),
    )
    codes = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 1 << bits, place.shape) + place.low
    words = tensor_words(arch, place, codes)
    first, count = host_words(arch, place)
    assert len(words.data) == count
    lanes = unpacked(words.data, lane_bits, pe)
    groups = arch.groups
    for pixel in range(6):
        for channel in range(channels):
            block, lane = divmod(channel, pe)
            for plane in range(place.planes):
                if memory is MemoryKind.RESIDUALS:
                    host = place.base + (pixel * place.blocks + block) * place.planes + plane
                else:
                    address = place.base + (pixel * place.pixel_words + block // groups) * place.planes + plane
                    host = address * groups + block % groups
                stored = int(codes[pixel // 3, pixel % 3, channel]) - place.low
                assert lanes[host - first, lane] == stored >> (plane * lane_bits) & ((1 << lane_bits) - 1)
    np.testing.assert_array_equal(tensor_codes(arch, place, words), codes)


def test_fields_of_a_descriptor_do_not_overlap() -> None:
    taken: dict[int, str] = {}
    for name, (offset, width) in fields().items():
        if name.startswith("ENTRY_"):
            continue
        for bit in range(offset, offset + width):
            assert taken.setdefault(bit, name) == name
    assert max(taken) < DESCRIPTOR_BITS
    text = (verilog_folder() / "descriptor.vh").read_text()
    assert f"`define DESCRIPTOR_BITS {DESCRIPTOR_BITS}\n" in text


@given(st.data())
def test_what_is_packed_into_a_descriptor_stands_there(data: st.DataObject) -> None:
    names = data.draw(st.sets(st.sampled_from([name for name in fields() if not name.startswith("ENTRY_")])))
    values = {name: data.draw(st.integers(0, (1 << (fields()[name][1] - 1)) - 1)) for name in names}
    word = pack(values)
    for name, (offset, width) in fields().items():
        if not name.startswith("ENTRY_"):
            assert word >> offset & ((1 << width) - 1) == values.get(name, 0)


def test_a_number_that_no_descriptor_holds_is_refused() -> None:
    assert pack({"ROW_FIRST": -1}) == ((1 << 17) - 1) << fields()["ROW_FIRST"][0]
    with pytest.raises(
        ValueError, match="BLOCKS is 65536, a descriptor holds 0 to 65535; PLANES is -1, a descriptor holds 0 to 63"
    ):
        pack({"BLOCKS": 1 << 16, "PLANES": -1, "ADD": 1})


def test_a_memory_that_is_too_small_is_refused_with_the_words_it_needs() -> None:
    program = one_of_each()
    arch = replace(MUL, pe=1, lookups=1)
    required = map_program(program, arch).required_words
    small = {**arch.memories, MemoryKind.WEIGHTS: Memory(words=7), MemoryKind.DESCRIPTORS: Memory(words=3)}
    with pytest.raises(ArchMismatch) as caught:
        image(map_program(program, replace(arch, memories=small)))
    weights, descriptors = required[MemoryKind.WEIGHTS], required[MemoryKind.DESCRIPTORS]
    assert caught.value.problems == (
        f"memories.weights has 7 words, {weights} are needed; set words = {weights}",
        f"memories.descriptors has 3 words, {descriptors} are needed; set words = {descriptors}",
    )


def test_a_network_that_is_too_large_for_descriptors_is_refused() -> None:
    b = Builder(random=np.random.default_rng(0), shape=(1, 70000, 1))
    program = b.program(b.sum_global(b.tensors["image"]))
    with pytest.raises(
        ArchMismatch, match="KERNEL_COLUMNS is 69999, a descriptor holds 0 to 65535; the network is too"
    ):
        image(map_program(program, MUX))


def test_results_wider_than_the_engine_are_refused() -> None:
    b = Builder(random=np.random.default_rng(0), shape=(2, 2, 2))
    wide = Tensor(name="", shape=(1, 1, 1), dtype=IntegerType(bits=20, signed=True), scale=1.0)
    program = b.program(b.requantise(b.tensors["image"], wide, multiplier_bits=0))
    arch = replace(MUX, acc_bits=12, residual_bits=14)
    with pytest.raises(ArchMismatch, match=r"residual_bits = 14, 19 needed by 't0' \(its result\); raise it"):
        map_program(program, arch)
    image(map_program(program, replace(arch, residual_bits=19)))


def test_an_engine_that_the_verilog_does_not_build_is_refused() -> None:
    with pytest.raises(ArchMismatch) as caught:
        parameters(replace(MUX, dataflow=Dataflow.WEIGHT_STATIONARY))
    assert caught.value.problems == (
        "dataflow = 'weight-stationary': the Verilog is output-stationary; set dataflow = 'output-stationary'",
    )


def test_weights_lie_as_bits_and_as_numbers() -> None:
    for arch, one_bit in ((MUX, True), (replace(MUL, acc_bits=40), False)):
        b = Builder(random=np.random.default_rng(1), shape=(2, 2, 3), one_bit=one_bit)
        window = Window(kernel=(1, 2))
        program = b.program(b.convolve(b.tensors["image"], window, groups=1, out_channels=arch.pe, bits=5))
        words = image(map_program(program, arch))[MemoryKind.WEIGHTS]
        (convolve,) = program.instructions
        assert isinstance(convolve, Convolve)
        channels = min(3, arch.simd)
        weights = program.weights_of(convolve)[:, 0, 0, :channels].astype(np.int64)
        lanes = unpacked(words.data[:1], arch.weight_bits, arch.pe * arch.simd, signed=not one_bit)
        found = lanes.reshape(arch.pe, arch.simd)[:, :channels]
        np.testing.assert_array_equal(2 * found - 1 if one_bit else found, weights)


@pytest.mark.parametrize("arch", [*ENGINES.values(), *map(load_arch, shipped_archs())], ids=lambda arch: arch.name)
@needs_verilator
def test_verilator_has_nothing_to_warn_of(arch: Arch) -> None:
    folder = verilog_folder()
    values = [f"-G{name}={value}" for name, value in parameters(arch).items()]
    for language in ([], ["--language", "1364-2005"]):
        command = ["verilator", "--lint-only", "-Wall", *language, f"-I{folder}", *values, str(folder / "engine.v")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    build.verilator_version.cache_clear()
    with pytest.raises(BadInput, match="verilator is not installed; on Debian: apt-get install verilator"):
        build_library(parameters(MUX))


@needs_verilator
def test_a_build_that_fails_says_what_the_tool_said(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_builds(tmp_path_factory, monkeypatch)
    folder = tmp_path / "rtl"
    shutil.copytree(verilog_folder(), folder)
    (folder / "writer.v").write_text("module writer(input wrong); endmodule\n")
    with pytest.raises(BadInput, match=r"(?s)verilator failed:\n.*PINNOTFOUND"):
        build_library(parameters(MUX), folder)
    monkeypatch.setenv(build.CACHE_VARIABLE, str(folder / "writer.v"))
    with pytest.raises(BadInput, match=r"cannot be written .*; set BNHW_CACHE to a folder that can"):
        build_library(parameters(MUX))


@needs_verilator
def test_a_build_is_kept_and_serves_every_program(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_builds(tmp_path_factory, monkeypatch)
    library = build_library(parameters(MUX))
    before = library.stat().st_mtime_ns
    assert build_library(parameters(MUX)) == library
    assert library.stat().st_mtime_ns == before
    assert build_library(parameters(replace(MUX, comparators=1))) != library


@needs_verilator
def test_an_engine_that_is_not_done_in_time_has_failed(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_builds(tmp_path_factory, monkeypatch)
    program = one_of_each()
    machine = RtlMachine(
        program, replace(MUX, datapath=MUL.datapath, weight_bits=8, pe=1, simd=1, lookups=1), most_cycles=9
    )
    with pytest.raises(RtlFailed, match="the engine is not done after 9 cycles"):
        machine.run(random_images(program, 1)[0])
    with pytest.raises(RtlFailed, match="the engine's host port is not ready to write residuals"):
        machine.run(random_images(program, 1)[0])
    with pytest.raises(RtlFailed, match="the engine's host port does not answer for residuals"):
        machine.driver.read(MemoryKind.RESIDUALS, 0, 1)


@needs_verilator
def test_an_engine_that_runs_other_steps_has_failed(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_builds(tmp_path_factory, monkeypatch)
    program = one_of_each()
    machine = RtlMachine(program, replace(MUX, datapath=MUL.datapath, weight_bits=8, pe=1, simd=1, lookups=1))
    steps = machine.engine.steps
    machine.engine = replace(machine.engine, steps=steps[:-1])
    with pytest.raises(
        RtlFailed,
        match=rf"the engine ran {len(steps)} steps and showed .*; {len(steps) - 1} steps with \d+ of each were",
    ):
        machine.run(random_images(program, 1)[0])


@needs_verilator
@pytest.mark.parametrize("host_bits", [8, 32, 256])
def test_the_host_port_takes_beats_of_any_width(
    host_bits: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_builds(tmp_path_factory, monkeypatch)
    program = one_of_each()
    arch = replace(MUX, datapath=MUL.datapath, weight_bits=8, pe=1, simd=3, lookups=1, post=MUX.post)
    machine = RtlMachine(program, arch, host_bits=host_bits)
    random = np.random.default_rng(host_bits)
    for memory in (MemoryKind.ACTIVATIONS, MemoryKind.RESIDUALS):
        bits = arch.word_bits(memory)
        given = Words(bits=bits, data=pack_lanes(random.integers(0, 2, (20, bits)), 1).data)
        machine.driver.write(memory, 5, given)
        np.testing.assert_array_equal(machine.driver.read(memory, 5, 20).data, given.data)
    pixels = random_images(program, 1)[0]
    run = machine.run(pixels)
    np.testing.assert_array_equal(run.output, run.tensors[program.output])
