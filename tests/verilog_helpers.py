"""Runs one combinational module under Icarus Verilog: inputs from a file, outputs as printed."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import bnhw

RTL = Path(bnhw.__file__).parent / "rtl"

needs_icarus = pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("vvp") is None, reason="Icarus Verilog is not installed"
)
needs_verilator = pytest.mark.skipif(shutil.which("verilator") is None, reason="Verilator is not installed")
needs_yosys = pytest.mark.skipif(shutil.which("yosys") is None, reason="Yosys is not installed")

BENCH = """
module bench;
    reg [{bits}-1:0] lines [0:{count}-1];
    reg [{bits}-1:0] line;
    wire {sign} [{output_bits}-1:0] out;
    integer i;
    {module} #({parameters}) dut ({inputs}, .{output}(out));
    initial begin
        $readmemh("vectors.hex", lines);
        for (i = 0; i < {count}; i = i + 1) begin
            line = lines[i];
            #1 $display("%0d", out);
        end
    end
endmodule
"""


def run_module(
    folder: Path,
    source: Path,
    *,
    parameters: Mapping[str, int],
    inputs: Mapping[str, int],
    output: tuple[str, int, bool],
    vectors: Sequence[Mapping[str, int]],
) -> list[int]:
    """The output for every vector; `inputs` gives widths in bits, `output` its name, width and whether it is signed.

    Values are taken modulo 2^width, so a negative number is its two's complement.
    """
    lines, port_map, start = [0] * len(vectors), [], 0
    for name, width in inputs.items():
        port_map.append(f".{name}(line[{start + width - 1}:{start}])")
        lines = [line | (v[name] % (1 << width)) << start for line, v in zip(lines, vectors, strict=True)]
        start += width
    (folder / "vectors.hex").write_text("".join(f"{line:x}\n" for line in lines))
    bench = folder / "bench.v"
    bench.write_text(
        BENCH.format(
            bits=start,
            count=len(vectors),
            module=source.stem,
            parameters=", ".join(f".{name}({value})" for name, value in parameters.items()),
            inputs=", ".join(port_map),
            output=output[0],
            output_bits=output[1],
            sign="signed" if output[2] else "",
        )
    )
    command = ["iverilog", "-g2005", "-Wall", "-Wno-timescale", "-o", "bench", str(bench), str(source.resolve())]
    compiled = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert compiled.returncode == 0, compiled.stderr
    simulate = ["vvp", "-n", "bench"]
    done = subprocess.run(simulate, cwd=folder, capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


def pack(values: Sequence[int], width: int) -> int:
    """One number with the first value in the lowest bits, each modulo 2^width."""
    return sum((int(value) % (1 << width)) << (i * width) for i, value in enumerate(values))
