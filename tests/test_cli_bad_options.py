"""The command line with bad options: exit code 2, one message, nothing written."""

from pathlib import Path

import pytest
from cli_helpers import CALIBRATE, IMAGES, NEW, Call, assert_refused
from folders import content

BAD_OPTIONS: tuple[tuple[tuple[str, ...], str], ...] = (
    ((), "Usage: bnhw "),
    (("frobnicate",), "No such command 'frobnicate'"),
    (("info",), "Missing argument 'MODEL.bnhw'"),
    (("info", "gone.bnhw"), r"gone.bnhw: no such file; `bnhw compile MODEL.onnx -o gone.bnhw` makes one"),
    (("info", "."), r"\.: is a folder; a file is expected"),
    (("check", "gone.onnx"), "gone.onnx: no such file; give the ONNX model"),
    (("check", "."), r"\.: is a folder; a file is expected"),
    (("run", "digits.bnhw"), "Missing option '--images'"),
    (("run", "digits.bnhw", "--images", "gone.npz"), r"gone\.npz: no such file; images are expected as \.npz"),
    (("run", "digits.bnhw", *IMAGES, "--labels", "gone.npy"), r"gone\.npy: no such file; labels are expected"),
    (("run", "digits.bnhw", *IMAGES, "--skip", "20"), "images.npz: --skip 20 leaves none of its 20 images"),
    (("run", "digits.bnhw", *IMAGES, "--skip", "-1"), "--skip"),
    (("run", "digits.bnhw", *IMAGES, "--limit", "0"), "--limit"),
    (("run", "digits.bnhw", *IMAGES, "--threads", "0"), "--threads"),
    (("run", "digits.bnhw", *IMAGES, "--kernels", "fast"), "'fast' is no choice of kernels, expected one of auto"),
    (("run", "digits.bnhw", *IMAGES, "-o", "out.txt"), "out.txt: results are written as .npz"),
    (
        ("run", "digits.bnhw", *IMAGES, "-o", "no/out.npz"),
        "no/out.npz: cannot be written .*; choose an existing folder",
    ),
    (
        ("verify", "digits.bnhw", *IMAGES, "--against", "spice"),
        "--against 'spice' is not available; choose reference, onnx, rtl, or several between commas",
    ),
    (("verify", "digits.bnhw", *IMAGES, "--against", "onnx,vhdl,spice"), "--against 'vhdl', 'spice' is not available"),
    (("verify", "digits.bnhw", *IMAGES, "--against", "rtl"), "name an engine with --arch: a TOML file, or one of "),
    (("verify", "digits.bnhw", *IMAGES, "--against", "rtl", "--arch", "gone"), "engine 'gone': no such file"),
    (("rtl", "digits.bnhw", "-o", "new"), "name an engine with --arch: a TOML file, or one of "),
    (("rtl", "digits.bnhw", "--arch", "engine-16x64"), "name a program and a folder: bnhw rtl MODEL.bnhw --arch ENG"),
    (("rtl", "digits.bnhw", "--arch", "engine-16x64", "-o", "."), "exists already; choose a folder that does not"),
    (("verify", "digits.bnhw", *IMAGES, "--against", ""), "--against '' is not available"),
    (
        ("verify", "digits.bnhw", *IMAGES, "--against", "onnx,reference", "--kernels", "reference"),
        "it would compare the reference with itself",
    ),
    (
        ("verify", "digits.bnhw", *IMAGES, "--kernels", "reference"),
        "--kernels reference: it would compare .* itself; choo",
    ),
    (("verify", "digits.bnhw", *IMAGES, "--float", "gone.onnx"), "gone.onnx: no such file"),
    (("verify", "digits.bnhw", *IMAGES, "--min-agreement", "99"), "name it with --float MODEL.onnx"),
    (
        ("verify", "digits.bnhw", *IMAGES, "--layer-images", "9"),
        "--layer-images compares with the float model; name it",
    ),
    (("verify", "digits.bnhw", *IMAGES, "--arch", "engine-16x64"), "--arch is the engine that --against rtl runs; add"),
    (
        ("estimate", "digits.bnhw", "--fps", "10", "--stationary", "weight"),
        "--stationary says what stays in a systolic",
    ),
    (
        ("estimate", "digits.bnhw", "--systolic", "2x2", "--stationary", "all"),
        "--stationary 'all' is not available; choose",
    ),
    (
        ("rtl", "digits.bnhw", "--arch", "engine-16x64", "-o", "new", "--limit", "2"),
        "--skip and --limit choose among imag",
    ),
    (
        ("rtl", "digits.bnhw", "--arch", "engine-16x64:post=multiply,thresholds.words=2048", "-o", "n" * 300),
        "nnn: cannot be written .*; choose a place that can",
    ),
    (("report", "digits.bnhw", "--arch", "n" * 300), "no such file, and none of the shipped engines"),
    (("report", "digits.bnhw", "--json", "--format", "html", "-o", "a.html"), "give one of them"),
    (("verify", "digits.bnhw", *IMAGES, "--float", "digits.onnx", "--min-agreement", "100.1"), "--min-agreement"),
    (("verify", "digits.bnhw", *IMAGES, "--tensors", "0"), "--tensors"),
    (("report", "digits.bnhw", "--format", "pdf"), "--format 'pdf' is not available; choose text, json or html"),
    (("report", "digits.bnhw", "--format", "html"), "--format html makes a file; name it with -o FILE.html"),
    (
        ("report", "digits.bnhw", "--arch", "gone"),
        "'gone': no such file, and none of the shipped engines: engine-16x64",
    ),
    (("report", "digits.bnhw", "--arch", "engine-16x64", "--tech", "gone"), "gone: .*give a TOML file or one of 22nm"),
    (("report", "digits.bnhw", "--tech", "28nm"), "a technology prices what happens on an engine; name an engine, too"),
    (
        ("report", "--validate-energy", "--format", "html", "-o", "x.html"),
        "--validate-energy is printed as text or json",
    ),
    (("report", "--validate-energy", "--arch", "engine-16x64"), "leave out engine-16x64"),
    (("report", "digits.bnhw", "-o", "no/report.txt"), "no/report.txt: cannot be written"),
    (("report", "digits.bnhw", "-o", "."), "it is no regular file"),
    (("report", "digits.bnhw", "-o", "images.npz/report.txt"), "Not a directory"),
    (("report", "digits.bnhw", "-o", "n" * 255), "File name too long"),
    (("compile", "gone.onnx", *NEW[2:]), "gone.onnx: no such file"),
    (("compile", "digits.onnx", "-o", "new.bnhw"), "Missing option '--calibrate'"),
    (("compile", "digits.onnx", "-o", "new.onnx", *CALIBRATE), "new.onnx: a program has the ending .bnhw"),
    (("compile", "digits.onnx", "-o", "no/new.bnhw", *CALIBRATE), "no/new.bnhw: cannot be written"),
    ((*NEW, "--emit-onnx", "new.txt"), "new.txt: an integer ONNX graph has the ending .onnx"),
    ((*NEW, "--emit-onnx", "digits.onnx"), "digits.onnx: is the model that is compiled; choose another name"),
    ((*NEW, "--emit-onnx", "no/new.onnx"), "no/new.onnx: cannot be written"),
    (
        ("compile", "digits.onnx", "-o", "no/new.bnhw", *CALIBRATE, "--emit-onnx", "new.onnx"),
        "no/new.bnhw: cannot be written",
    ),
    ((*NEW[:4], "--calibrate", "gone.npz"), "gone.npz: no such file"),
    ((*NEW, "--act-bits", "9"), "act_bits is 9; 2 to 8 bits are allowed"),
    ((*NEW, "--act-bits", "8,1"), "act_bits is 1; 2 to 8 bits are allowed"),
    ((*NEW, "--act-bits", "8,many"), "act_bits is '8,many'; a number, numbers between commas, or auto:DB is expected"),
    ((*NEW, "--act-bits", ""), "act_bits is ''; a number, numbers between commas"),
    ((*NEW, "--act-bits", "8,8"), "act_bits lists 2 widths, the network has 19 quantised activations: .*; give one"),
    ((*NEW, "--act-bits", "auto"), "act_bits is 'auto'; auto:DB with more than 0 and at most 100 decibels"),
    ((*NEW, "--act-bits", "auto:0"), "act_bits is 'auto:0'; auto:DB"),
    ((*NEW, "--requantise", "auto:x"), "requantise is 'auto:x'; auto:DB with more than 0"),
    ((*NEW, "--requantise", "auto:101"), "requantise is 'auto:101'; auto:DB"),
    (
        (*NEW, "--requantise", "automatic"),
        "'automatic' is not available; choose shift, .*, threshold, auto, or auto:DB",
    ),
    ((*NEW, "--no-multipliers"), "requantise is multiply:16, but multipliers are not allowed; choose shift, csd:N"),
    ((*NEW, "--ranges", "median"), "ranges 'median' are not available; choose min-max, mse, or percentile:P"),
    ((*NEW, "--ranges", "percentile:49"), "ranges 'percentile:49' are not available"),
    ((*NEW, "--ranges", "mse:2"), "ranges 'mse:2' are not available"),
    (("check", "digits.onnx", "--act-bits", "9"), "act_bits is 9; 2 to 8 bits are allowed"),
    (("check", "digits.onnx", "--input-std", "x"), "--input-std is 'x'; numbers separated by commas"),
    ((*NEW, "--weight-bits", "1"), "weight_bits is 1; 2 to 8 bits are allowed"),
    ((*NEW, "--input-bits", "13"), "input_bits is 13; 2 to 12"),
    ((*NEW, "--residual-bits", "7"), "residual_bits is 7; 8 to 24"),
    ((*NEW, "--requantise", "csd:9"), "'csd:9' is not available; choose shift, csd:N with N of 1..4 signed digits"),
    ((*NEW, "--requantise", "multiply:25"), "'multiply:25' is not available"),
    ((*NEW, "--requantise", "multiply:x"), "'multiply:x' is not available"),
    ((*NEW, "--requantise", "shift:3"), "'shift:3' is not available"),
    ((*NEW, "--input-mean", "1,2"), "input_mean has 2 numbers for 1 colour"),
    ((*NEW, "--input-mean", "grey"), "--input-mean is 'grey'; numbers separated by commas are expected"),
    ((*NEW, "--input-mean", ""), "--input-mean is ''; numbers separated by commas"),
    ((*NEW, "--input-mean", "nan"), r"input_mean is \(nan,\); finite numbers"),
    ((*NEW, "--input-std", "0"), r"input_std is \(0.0,\); positive numbers"),
    ((*NEW, "--input-std", "inf"), r"input_std is \(inf,\); positive numbers"),
    ((*NEW, "--calibrate-limit", "0"), "--calibrate-limit"),
    (("demo", "-o", "images.npz"), "images.npz: cannot be made .*; choose another folder with -o"),
    (("export", "images.npz", "-o", "new.txt"), "new.txt: a model has the ending .onnx"),
)


@pytest.mark.parametrize(
    ("arguments", "message"), BAD_OPTIONS, ids=[" ".join(a).replace("/", "|")[:60] for a, _ in BAD_OPTIONS]
)
def test_a_bad_option_is_refused(arguments: tuple[str, ...], message: str, files: Path, call: Call) -> None:
    if arguments[:1] == ("demo",):
        pytest.importorskip("sklearn", reason="the demo's images come with scikit-learn")
    if arguments[:1] == ("export",):
        pytest.importorskip("torch", reason="export needs torch")
    before = content(files)
    assert_refused(call(*arguments), message)
    assert content(files) == before


def test_a_bad_choice_of_kernels_in_the_environment_is_refused(
    files: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BNHW_KERNELS", "nonsense")
    assert_refused(
        call("run", "digits.bnhw", *IMAGES),
        "BNHW_KERNELS='nonsense': expected one of auto, amx, vnni, avx2, portable, reference",
    )


def test_verifying_the_reference_of_the_environment_is_refused(
    files: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BNHW_KERNELS", "reference")
    others = "auto, amx, vnni, avx2, portable, multiplexer, bit_serial, checked"
    message = f"BNHW_KERNELS=reference: it would .*; choose one of {others} with --kernels"
    assert_refused(call("verify", "digits.bnhw", *IMAGES), message)
    assert call("verify", "digits.bnhw", *IMAGES, "--kernels", "bit_serial").code == 0


def test_an_old_program_is_kept_when_compiling_fails(files: Path, call: Call) -> None:
    before = content(files)
    done = call("compile", "digits.onnx", "-o", "digits.bnhw", *CALIBRATE, "--requantise", "shift:9")
    assert done.code == 2
    assert content(files) == before
