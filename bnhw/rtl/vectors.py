"""What `bnhw rtl` writes: the Verilog, memory images, vectors of every layer, and a testbench that compares them."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.hardware.arch import Arch
from bnhw.hardware.mapping import map_program
from bnhw.hardware.steps import EngineProgram
from bnhw.hardware.trace import MemoryKind
from bnhw.machine import Machine, fit_images
from bnhw.program import AddSaturating, Program
from bnhw.rtl.build import verilog_folder
from bnhw.rtl.expected import step_probes
from bnhw.rtl.image import Words, host_words, image, pack_lanes, tensor_words, words_of_integers
from bnhw.rtl.parameters import HOST_BITS, HOST_MEMORIES, parameters

MAKEFILE = """\
# make verilator, or make icarus: compares the Verilog with the vectors; the last line says PASS or FAIL.
.PHONY: verilator icarus clean

verilator:
\tverilator --binary -O3 -Wno-fatal -Iverilog --top-module testbench --Mdir build testbench.v
\t./build/Vtestbench

icarus:
\tiverilog -g2005 -Iverilog -I. -y verilog -o testbench.vvp testbench.v
\tvvp testbench.vvp

clean:
\trm -rf build testbench.vvp
"""

README = """\
# {model} on the engine {arch}

The Verilog engine with one program's memory images, and vectors that prove it: {images} image(s), every raw sum, result
and stored number of all {steps} steps, the cycles of every step, and the output tensor.

    make verilator      # needs verilator 5 or later, make and g++
    make icarus         # needs iverilog

Both run the same testbench; it prints the cycles of every step, then PASS, or the first difference (step, pixel,
channel, cycle) and FAIL.

| file | content |
|---|---|
| `verilog/` | the engine; the same text for every network and every parameter |
| `vectors.vh` | its parameters, and the sizes of what follows |
| `memory/*.mem` | the program: weights, constants, thresholds, tables, position classes, descriptors; one word a line |
| `vectors/*.mem` | images, and what the engine must give |
| `testbench.v` | loads, runs, compares |

{cycles} cycles an image.
"""


def write_project(
    folder: Path, program: Program, arch: Arch, pixels: Array, step_cycles: Sequence[int], kernels: str = "auto"
) -> None:
    """Write everything into a new folder, which appears when all of it is there.

    pixels: images as `Machine.run` takes them. step_cycles: of every step, by the schedule. Raises BadInput where the
    folder exists or cannot be written, ArchMismatch where the program does not run on the engine.
    """
    require_new(folder)
    engine = map_program(program, arch)
    images = fit_images(program, pixels)
    contents = project_files(engine, images, step_cycles, kernels)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        for name, text in contents.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        partial.replace(folder)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({error.strerror}); choose a place that can") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_new(folder: Path) -> None:
    """Raises BadInput where a folder or file of this name is there."""
    if os.path.lexists(folder):
        raise BadInput(f"{folder}: exists already; choose a folder that does not, or remove it")


def project_files(
    engine: EngineProgram, images: Array, step_cycles: Sequence[int], kernels: str = "auto"
) -> Mapping[str, str]:
    """The text of every file, by its path in the folder."""
    memories = image(engine)
    verilog = verilog_folder()
    sources = {
        path.name: path.read_text(encoding="utf-8") for path in verilog.iterdir() if path.suffix in (".v", ".vh")
    }
    testbench = sources.pop("testbench.v")
    return {
        **{f"verilog/{name}": text for name, text in sorted(sources.items())},
        "testbench.v": testbench,
        "vectors.vh": definitions(engine, memories, len(images), step_cycles),
        **{f"memory/{kind.value}.mem": words.hexadecimal() for kind, words in memories.items()},
        **{f"vectors/{name}.mem": text for name, text in vectors(engine, images, step_cycles, kernels).items()},
        "Makefile": MAKEFILE,
        "README.md": README.format(
            model=engine.program.name,
            arch=engine.arch.name,
            images=len(images),
            steps=len(engine.steps),
            cycles=sum(step_cycles),
        ),
    }


def definitions(
    engine: EngineProgram, memories: Mapping[MemoryKind, Words], images: int, step_cycles: Sequence[int]
) -> str:
    """`vectors.vh`: the engine's parameters, and the sizes of memories and vectors."""
    arch, places = engine.arch, engine.places
    values = dict(parameters(arch))
    lines = ["`define ENGINE_PARAMETERS " + ", ".join(f".{name}({value})" for name, value in values.items())]
    numbers = {name: values[name] for name in ("PE", "ACC_BITS", "RESULT_BITS", "HOST_BITS")}
    for kind, words in memories.items():
        numbers[f"{kind.name}_WORDS"] = len(words.data)
        numbers[f"{kind.name}_BEATS"] = beats(words.bits)
    for role, tensor in (("INPUT", engine.program.input), ("OUTPUT", engine.program.output)):
        place = places[tensor]
        address, count = host_words(arch, place)
        numbers |= {
            f"{role}_MEMORY": HOST_MEMORIES.index(place.memory),
            f"{role}_ADDRESS": address,
            f"{role}_WORDS": count,
            f"{role}_BEATS": beats(arch.word_bits(place.memory)),
        }
    widest = max(arch.word_bits(kind) for kind in HOST_MEMORIES)
    numbers |= {
        "WORD_BITS": beats(widest) * HOST_BITS,
        "MOST_WORDS": max(len(words.data) for words in memories.values()),
        "IMAGES": images,
        "STEPS": len(engine.steps),
        "RESULTS": sum(step.pixels * step.blocks for step in engine.steps),
        "NAME_LETTERS": max(len(_letters(step.name)) for step in engine.steps),
        "MOST_CYCLES": 2 * sum(step_cycles) + 1000,
    }
    return "\n".join(lines + [f"`define {name} {value}" for name, value in numbers.items()]) + "\n"


def beats(bits: int) -> int:
    """Beats of the host port that a word takes."""
    return -(-bits // HOST_BITS)


def vectors(engine: EngineProgram, images: Array, step_cycles: Sequence[int], kernels: str) -> Mapping[str, str]:
    """Images, and what the engine must give, from the machine that executes programs: hexadecimal text by name."""
    program, arch, places = engine.program, engine.arch, engine.places
    entry, out = places[program.input], places[program.output]
    texts: dict[str, list[str]] = {name: [] for name in ("input", "output", "raw", "q", "number", "saturations")}
    machine = Machine(program, kernels)
    for pixels in images:
        tensors = {program.input: pixels.astype(np.int64)}
        clamped = {}
        for step in machine.steps(pixels[None]):
            tensors[step.instruction.output] = step.value[0].astype(np.int64)
            clamped[step.instruction.output] = step.saturations
        texts["input"].append(tensor_words(arch, entry, pixels).hexadecimal())
        texts["output"].append(tensor_words(arch, out, tensors[program.output]).hexadecimal())
        for name, words in _probe_words(engine, tensors).items():
            texts[name].append(words.hexadecimal())
        texts["saturations"].append(_counts(np.cumsum(_step_saturations(engine, clamped)), 32))
    ones = np.full(out.shape, out.low + (1 << out.bits) - 1)
    return {
        **{name: "".join(parts) for name, parts in texts.items()},
        "output_masks": tensor_words(arch, out, ones).hexadecimal(),
        "cycles": _counts(step_cycles, 32),
        **_step_texts(engine),
    }


def _step_saturations(engine: EngineProgram, clamped: Mapping[str, int]) -> list[int]:
    adding = {i.output for i in engine.program.instructions if isinstance(i, AddSaturating)}
    return [clamped[step.name] if step.name in adding else 0 for step in engine.steps]


def _probe_words(engine: EngineProgram, tensors: Mapping[str, Array]) -> Mapping[str, Words]:
    """raw, q and number of all steps, a word a block of pe channels; lanes behind the last channel are 0."""
    arch = engine.arch
    rows: dict[str, list[Array]] = {"raw": [], "q": [], "number": []}
    for step in engine.steps:
        probes = step_probes(engine, step, tensors)
        for name, value in (("raw", probes.raw), ("q", probes.q), ("number", probes.number)):
            filled = np.pad(value, ((0, 0), (0, 0), (0, step.blocks * arch.pe - step.channels)))
            rows[name].append(filled.reshape(-1, arch.pe))
    bits = {"raw": arch.acc_bits, "q": arch.result_bits, "number": arch.result_bits}
    return {name: pack_lanes(np.concatenate(parts), bits[name]) for name, parts in rows.items()}


def _step_texts(engine: EngineProgram) -> Mapping[str, str]:
    """Which step each result belongs to and how many of its lanes count; where each step's results begin; names."""
    pe = engine.arch.pe
    lanes: list[int] = []
    steps: list[int] = []
    first = []
    for number, step in enumerate(engine.steps):
        first.append(len(steps))
        lanes += [step.lanes(block, pe) for block in range(step.blocks)] * step.pixels
        steps += [number] * (step.pixels * step.blocks)
    names = [_letters(step.name) for step in engine.steps]
    width = max(map(len, names))
    return {
        "lanes": _counts(lanes, 16),
        "step": _counts(steps, 16),
        "first_result": _counts(first, 32),
        "blocks": _counts([step.blocks for step in engine.steps], 16),
        "names": "".join(name.rjust(width, b"\0").hex() + "\n" for name in names),
    }


def _letters(name: str) -> bytes:
    """A tensor's name as Verilog can print it."""
    return name.encode("ascii", "replace")[:64] or b"?"


def _counts(values: Sequence[int] | Array, bits: int) -> str:
    return words_of_integers([int(value) for value in values], bits).hexadecimal()
