"""The command line: every command at its work, results on stdout and nothing else there."""

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from cli_helpers import Call, Done, assert_refused, in_new_process
from folders import content
from image_bytes import idx, picture

import bnhw
from bnhw.demo.digits import CHECKPOINT
from bnhw.machine import Machine
from bnhw.program import AddSaturating

COMMANDS = (
    "demo",
    "train",
    "export",
    "check",
    "compile",
    "info",
    "run",
    "verify",
    "report",
    "compare",
    "estimate",
    "rtl",
)


def test_help_and_version(call: Call) -> None:
    assert call("--version") == Done(code=0, out=f"bnhw {bnhw.__version__}\n", err="")
    done = call("--help")
    assert done.code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in done.out
    assert "..." not in done.out.split("Commands:")[1]  # every summary is a whole sentence


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_within_80_columns(command: str, call: Call, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = call(command, "--help")
    assert done.code == 0
    assert done.err == ""
    assert f"bnhw {command} " in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    options = [line for line in done.out.splitlines() if line.startswith("  -")]
    assert options
    for line in options:
        assert not re.search(r"<[a-z]", line), f"a type of Python where a word for the value belongs: {line}"
        described = len(line.split()) > 3 or done.out[done.out.index(line) + len(line) :].startswith("\n      ")
        assert described, f"no help for {line}"


def test_the_console_script_and_a_quick_start(files: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("bnhw"), "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"bnhw {bnhw.__version__}\n", "")
    slow = "import atexit; atexit.register(lambda: print(sorted({'numba', 'onnx', 'torch'} & set(sys.modules))))"
    assert in_new_process("--version", before=slow).out.splitlines()[-1] == "[]"


def test_the_whole_flow(files: Path, call: Call) -> None:
    done = call("check", "digits.onnx")
    assert (done.code, done.out) == (0, "digits.onnx: nothing stands in the way of compiling it\n")
    done = call("compile", "digits.onnx", "-o", "new.bnhw", "--calibrate", "images.npz", "--calibrate-limit", "20")
    assert (done.code, done.out) == (0, "")
    assert "wrote new.bnhw: 66 instructions, weights 268,048 bits" in done.err
    assert Path("new.bnhw").read_bytes() == Path("digits.bnhw").read_bytes()
    done = call("run", "new.bnhw", "--images", "images.npz", "-o", "out.npz", "--threads", "2")
    assert done.code == 0
    assert re.search(r"accuracy % +\d+\.\d\d\n", done.out)
    with np.load("out.npz") as written, np.load("images.npz") as given:
        result = Machine(bnhw.load("new.bnhw"), "reference").run(given["images"])
        np.testing.assert_array_equal(written["logits"], result.logits)
        np.testing.assert_array_equal(written["predictions"], result.predictions)
        assert written["scale"] == result.scale
    assert call("verify", "new.bnhw", "--images", "images.npz", "--limit", "3").code == 0
    assert call("info", "new.bnhw").code == 0
    assert call("report", "new.bnhw").code == 0


def test_mode_auto_says_what_was_chosen_for_the_steps(files: Path, call: Call) -> None:
    arguments = ("compile", "digits.onnx", "-o", "new.bnhw", "--calibrate", "images.npz")
    done = call(*arguments, "--requantise", "auto", "--no-multipliers", "--act-bits", "auto:30", "--ranges", "min-max")
    assert done.code == 0
    line = r"requantise: \d+ shift, \d+ csd \(mean \d\.\d digits\), 0 multiply, \d+ threshold\n"
    assert re.search(line, done.err), done.err
    assert re.search(r"requantise steps could not hold their ratio in modes? csd:\d", done.err), done.err
    assert "requantise:" not in call(*arguments, "--requantise", "csd:2").err


def test_info_says_of_every_step_what_it_costs_and_why(files: Path, call: Call) -> None:
    steps = json.loads(call("info", "digits.bnhw", "--json").out)["steps"]
    program = bnhw.load("digits.bnhw")
    wanted = {"LookUp", "Requantise", "Threshold", "AddSaturating"}
    assert [step["result"] for step in steps] == [i.output for i in program.instructions if i.kind in wanted]
    multiplications = sum(step["multiplications"] * program.tensor[step["result"]].size for step in steps)
    assert multiplications == bnhw.report(program).totals.multipliers > 0
    text = call("info", "digits.bnhw").out
    assert all(step["reason"].split()[0] in text for step in steps)
    assert f"{int(multiplications):,} multiplications" in text


def test_check_tries_the_options_that_compile_takes(files: Path, call: Call) -> None:
    assert call("check", "digits.onnx", "--requantise", "auto", "--no-multipliers", "--act-bits", "4").code == 0
    done = call("check", "digits.onnx", "--act-bits", "4,4")
    assert (done.code, done.out) == (2, "")
    assert "act_bits lists 2 widths" in done.err


def test_the_integer_onnx_runs_without_this_package(files: Path, call: Call) -> None:
    arguments = ("--calibrate", "images.npz", "--calibrate-limit", "20")
    done = call("compile", "digits.onnx", "-o", "new.bnhw", *arguments, "--emit-onnx", "integer.onnx")
    assert (done.code, done.out) == (0, "")
    assert re.search(r"wrote integer.onnx: the same integers under onnxruntime, \d{3},\d{3} bytes", done.err)
    assert Path("new.bnhw").read_bytes() == Path("digits.bnhw").read_bytes()
    session = onnxruntime.InferenceSession("integer.onnx", providers=["CPUExecutionProvider"])
    program = bnhw.load("new.bnhw")
    with np.load("images.npz") as given:
        (logits,) = session.run(None, {program.input: given["images"]})
        expected = Machine(program, "reference").run(given["images"])
    np.testing.assert_array_equal(logits, expected.logits)
    assert logits.dtype == np.int64
    properties = session.get_modelmeta().custom_metadata_map
    assert float(properties["scale"]) == expected.scale
    assert properties["source_sha256"] == hashlib.sha256(Path("digits.onnx").read_bytes()).hexdigest()


def test_verify_compares_with_several_executors(files: Path, call: Call) -> None:
    arguments = ("verify", "digits.bnhw", "--images", "images.npz", "--limit", "2", "--json")
    alone = json.loads(call(*arguments).out)
    both = json.loads(call(*arguments, "--against", "reference, onnx,reference").out)
    assert both == {**alone, "against": "reference, onnx"}
    other = json.loads(call(*arguments, "--against", "onnx", "--kernels", "reference").out)
    assert other == {**alone, "against": "onnx"}


def test_json_is_all_of_stdout(files: Path, call: Call) -> None:
    run = json.loads(call("run", "digits.bnhw", "--images", "images.npz", "--json").out)
    assert run["images"] == 20
    assert run["accuracy_percent"] in [5 * n for n in range(21)]
    verify = call(
        "verify", "digits.bnhw", "--images", "images.npy", "--float", "digits.onnx", "--json", "--labels", "labels.npy"
    )
    summary = json.loads(verify.out)
    assert summary["bit_exact"] is True
    assert summary["images_compared"] == 4
    assert summary["images"] == 20
    assert summary["float_accuracy_percent"] in [5 * n for n in range(21)]
    described = json.loads(call("info", "digits.bnhw", "--json").out)
    assert described["format_version"] == 1
    assert len(described["instructions"]) == 66
    check = json.loads(call("check", "digits.onnx", "--json").out)
    assert check == {"model": "digits.onnx", "compiles": True, "problems": [], "notes": []}
    report = call("report", "digits.bnhw", "--format", "json")
    call("report", "digits.bnhw", "--format", "json", "-o", "report.json")
    assert json.loads(report.out) == json.loads(Path("report.json").read_text())


def test_verify_names_the_noise_of_every_tensor(files: Path, call: Call) -> None:
    arguments = ("verify", "digits.bnhw", "--images", "images.npz", "--float", "digits.onnx", "--layer-images", "3")
    summary = json.loads(call(*arguments, "--json").out)
    assert summary["images_compared_by_layer"] == 3
    change = summary["integer_accuracy_percent"] - summary["float_accuracy_percent"]
    assert summary["accuracy_change_points"] == change
    program = bnhw.load("digits.bnhw")
    assert [layer["name"] for layer in summary["layers"]] == [one.output for one in program.instructions]
    assert all(layer["signal_to_noise_db"] is None or layer["signal_to_noise_db"] > 20 for layer in summary["layers"])
    done = call(*arguments)
    assert done.err == ""
    assert "Against the float model, tensor by tensor, 3 images" in done.out
    assert f"Largest drop: {summary['largest_drop']}" in " ".join(done.out.split())
    assert re.search(r"accuracy change points +[+-]\d+\.\d\d\n", done.out)


def test_verify_warns_where_the_model_is_another_file(files: Path, call: Call) -> None:
    other = onnx.load("digits.onnx")
    other.doc_string = "the same network, saved again"
    onnx.save(other, "other.onnx")
    done = call("verify", "digits.bnhw", "--images", "images.npz", "--float", "other.onnx", "--limit", "2")
    assert done.code == 0
    assert done.err.startswith("warning: other: not the file that the program was compiled from (sha256 ")


def test_saturated_sums_are_named_by_layer(files: Path, call: Call) -> None:
    program = bnhw.load("digits.bnhw")
    add = next(one for one in program.instructions if isinstance(one, AddSaturating))
    tight = [replace(one, low=-9, high=9) if one is add else one for one in program.instructions]
    replace(program, instructions=tuple(tight)).save("tight.bnhw")
    arguments = ("run", "tight.bnhw", "--images", "images.npz", "--limit", "2")
    by_layer = json.loads(call(*arguments, "--json").out)["saturated_sums_by_layer"]
    assert list(by_layer) == [add.output]
    assert by_layer[add.output] > 0
    assert f"saturated sums by layer  {add.output}: {by_layer[add.output]:,}\n" in call(*arguments).out
    assert "saturated_sums_by_layer" not in json.loads(call("run", "digits.bnhw", *arguments[2:], "--json").out)


def test_reports_written_to_a_file_are_those_printed(files: Path, call: Call) -> None:
    printed = call("report", "digits.bnhw").out
    done = call("report", "digits.bnhw", "-o", "report.txt")
    assert (done.out, done.err) == ("", "wrote report.txt\n")
    assert Path("report.txt").read_text() == printed
    assert "units.0.activation" in printed
    assert not [line for line in printed.splitlines() if line != line.rstrip()]


def test_skip_and_limit_choose_images_and_labels(files: Path, call: Call) -> None:
    program = bnhw.load("digits.bnhw")
    with np.load("images.npz") as given:
        images, labels = given["images"][5:9], given["labels"][5:9]
    accuracy = 100 * float((bnhw.run(program, images).predictions == labels).mean())
    done = call("run", "digits.bnhw", "--images", "images.npz", "--skip", "5", "--limit", "4", "--json")
    summary = json.loads(done.out)
    assert (summary["images"], summary["accuracy_percent"]) == (4, accuracy)


def test_images_of_every_kind_of_file_give_the_same_accuracy(files: Path, call: Call) -> None:
    pytest.importorskip("PIL", reason="pictures need Pillow")
    with np.load("images.npz") as given:
        images, labels = given["images"][..., 0], given["labels"].astype(np.uint8)
    Path("images.idx").write_bytes(idx(images))
    Path("labels.gz").write_bytes(gzip.compress(idx(labels)))
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        Path(f"classes/{label}").mkdir(parents=True, exist_ok=True)
        Path(f"classes/{label}/{index:02}.png").write_bytes(picture(image))
    expected = json.loads(call("run", "digits.bnhw", "--images", "images.npz", "--json").out)
    for arguments in (("images.idx", "--labels", "labels.gz"), ("classes",)):
        found = json.loads(call("run", "digits.bnhw", "--images", *arguments, "--json").out)
        assert (found["images"], found["accuracy_percent"]) == (20, expected["accuracy_percent"])


def test_calibration_takes_training_images_where_a_file_has_both(files: Path, call: Call) -> None:
    with np.load("images.npz") as given:
        images = given["images"]
    np.savez("both.npz", train_images=images[:10], test_images=images[10:])
    np.savez("train.npz", images=images[:10])
    for name in ("both", "train"):
        assert call("compile", "digits.onnx", "-o", f"{name}.bnhw", "--calibrate", f"{name}.npz").code == 0
    assert Path("both.bnhw").read_bytes() == Path("train.bnhw").read_bytes()


@pytest.mark.parametrize("kernels", ["reference", "multiplexer", "bit_serial", "auto"])
def test_kernels_are_chosen_by_option_and_by_environment(
    kernels: str, files: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("run", "digits.bnhw", "--images", "images.npz", "--limit", "2", "--json", "-o", "o.npz")
    by_option = json.loads(call(*arguments, "--kernels", kernels).out)["kernels"]
    logits = np.load("o.npz")["logits"]
    monkeypatch.setenv("BNHW_KERNELS", kernels)
    by_environment = json.loads(call(*arguments).out)["kernels"]
    assert by_option == by_environment
    assert kernels == "auto" or max(by_option, key=by_option.__getitem__) == kernels
    np.testing.assert_array_equal(np.load("o.npz")["logits"], logits)


def test_names_with_brackets_are_printed_as_they_are(files: Path, call: Call) -> None:
    Path("net [").mkdir()
    odd = Path("net [/b] :smile: [red].bnhw")
    os.link("digits.bnhw", odd)
    done = call("run", odd, "--images", "images.npz", "--limit", "1")
    assert (done.code, done.out.splitlines()[0]) == (0, str(odd))
    assert "error: gone [/b].npz: no such file" in call("run", odd, "--images", "gone [/b].npz").err


def test_a_reader_that_goes_away_is_no_error(files: Path) -> None:
    script = "import sys; from bnhw.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "info", "digits.bnhw", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert b"Traceback" not in errors


# Export.


def test_the_shipped_checkpoint_is_exported_and_compiles(files: Path, call: Call) -> None:
    pytest.importorskip("torch", reason="export needs torch")
    done = call("export", CHECKPOINT, "-o", "new.onnx")
    assert (done.code, done.out) == (0, "")
    assert "wrote new.onnx: 268,048 weights" in done.err
    assert call("check", "new.onnx").code == 0
    assert_refused(call("export", "images.npz", "-o", "other.onnx"), "images.npz: not a published")
    assert_refused(call("export", "gone.safetensors", "-o", "other.onnx"), "gone.safetensors: no such file")
    assert_refused(call("export", CHECKPOINT, "-o", "no/other.onnx"), "no/other.onnx: cannot be written")
    assert not Path("other.onnx").exists()


def test_export_without_torch_names_the_extra(files: Path) -> None:
    before = content(files)
    done = in_new_process("export", CHECKPOINT, "-o", "new.onnx", before="sys.modules['torch'] = None")
    assert_refused(done, r"torch, which is not installed; install it with: pip install 'bnhw\[torch\]'")
    assert content(files) == before
