"""The command line: exit codes, one clear message on stderr, results on stdout, nothing written on failure."""

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bnhw
from bnhw.cli import main
from bnhw.compiler import compile_model
from bnhw.demo.digits import CHECKPOINT, ONNX
from bnhw.dtypes import Array
from bnhw.errors import BnhwError
from bnhw.kernels import portable
from bnhw.machine import Machine

COMMANDS = ("demo", "export", "check", "compile", "info", "run", "verify", "report")


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run `bnhw ARGUMENTS` in this process."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["bnhw", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        code = caught.value.code
        assert code is None or isinstance(code, int)
        return Done(code=code or 0, out=captured.out, err=captured.err)

    return run


def in_new_process(*arguments: object, before: str = "", cwd: Path | None = None) -> Done:
    """Run `bnhw ARGUMENTS` in a process of its own, behind a line of Python."""
    script = f"import sys\n{before}\nfrom bnhw.cli import main\nmain()"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its program and images; never changed by a test."""
    folder = tmp_path_factory.mktemp("stored")
    random = np.random.default_rng(0)
    images = random.integers(0, 17, (20, 8, 8, 1)).astype(np.uint8)
    np.savez(folder / "images.npz", images=images, labels=random.integers(0, 10, 20))
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", random.integers(0, 10, 20))
    (folder / "digits.onnx").write_bytes(ONNX.read_bytes())
    compile_model(ONNX, images).save(folder / "digits.bnhw")
    return folder


@pytest.fixture
def files(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of those files as the working folder."""
    for path in stored.iterdir():
        os.link(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BNHW_KERNELS", raising=False)
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What works.


def test_help_and_version(call: Call) -> None:
    assert call("--version") == Done(code=0, out=f"bnhw {bnhw.__version__}\n", err="")
    done = call("--help")
    assert done.code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in done.out


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
    assert "accuracy %" in done.out
    with np.load("out.npz") as written, np.load("images.npz") as given:
        result = Machine(bnhw.load("new.bnhw"), "reference").run(given["images"])
        np.testing.assert_array_equal(written["logits"], result.logits)
        np.testing.assert_array_equal(written["predictions"], result.predictions)
        assert written["scale"] == result.scale
    assert call("verify", "new.bnhw", "--images", "images.npz", "--limit", "3").code == 0
    assert call("info", "new.bnhw").code == 0
    assert call("report", "new.bnhw").code == 0


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


# The user's errors: exit code 2, one message, nothing written.

ORIGINAL = onnx.load(ONNX)


def model(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], bytes]:
    """The demo's model, altered."""

    def make(_: Path) -> bytes:
        altered = onnx.ModelProto()
        altered.CopyFrom(ORIGINAL)
        change(altered)
        return bytes(altered.SerializeToString())

    return make


def first_kernel(proto: onnx.ModelProto) -> onnx.TensorProto:
    """The weights of the first 3x3 convolution behind the stem."""
    tensors: list[onnx.TensorProto] = list(proto.graph.initializer)
    return next(tensor for tensor in tensors if tuple(tensor.dims[1:]) == (16, 3, 3))


def set_weight(value: float) -> Callable[[onnx.ModelProto], object]:
    def change(proto: onnx.ModelProto) -> None:
        tensor = first_kernel(proto)
        weights = numpy_helper.to_array(tensor).copy()
        weights[1, 2, 0, 1] = value
        tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))

    return change


def unknown_operations(proto: onnx.ModelProto) -> None:
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    for node in convolutions[1:3]:
        node.op_type, node.domain = "Mystery", "of.another"
    proto.opset_import.append(onnx.helper.make_opsetid("of.another", 1))


def external(proto: onnx.ModelProto) -> None:
    tensor = first_kernel(proto)
    onnx.external_data_helper.set_external_data(tensor, location="weights.bin")
    tensor.data_location = onnx.TensorProto.EXTERNAL


def newer(proto: onnx.ModelProto) -> None:
    proto.ir_version = onnx.IR_VERSION + 1


def free_size(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


def array(change: Callable[[Array], Array]) -> Callable[[Path], bytes]:
    """Altered images as `.npy`."""

    def make(folder: Path) -> bytes:
        np.save(folder / "made.npy", change(np.load(folder / "images.npy")), allow_pickle=True)
        data = (folder / "made.npy").read_bytes()
        (folder / "made.npy").unlink()
        return data

    return make


def program(change: Callable[[bytes], bytes]) -> Callable[[Path], bytes]:
    """Altered bytes of the program."""
    return lambda folder: change((folder / "digits.bnhw").read_bytes())


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def archive(shape: tuple[int, ...]) -> Callable[[Path], bytes]:
    """An `.npz` whose header claims a shape."""

    def make(folder: Path) -> bytes:
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape!r}}}".ljust(117) + "\n"
        with zipfile.ZipFile(folder / "made", "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("images.npy", b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.encode() + b"xx")
        data = (folder / "made").read_bytes()
        (folder / "made").unlink()
        return data

    return make


COMPILE = ("compile", "bad", "-o", "new.bnhw", "--calibrate", "images.npz")
CALIBRATE_ON = ("compile", "digits.onnx", "-o", "new.bnhw", "--calibrate", "bad")
LABELLED = ("run", "digits.bnhw", "--images", "images.npz", "--labels", "bad")
COMPARE = ("verify", "digits.bnhw", "--images", "images.npz", "--float", "bad")
RUN = ("run", "digits.bnhw", "--images", "bad")
BAD_FILES: tuple[tuple[str, str, Callable[[Path], bytes], tuple[str, ...], str], ...] = (
    # What is wrong, the file's ending, its content, the command on it, the message.
    ("program cut short", "bnhw", program(lambda d: d[:1000]), ("info", "bad"), "cut short after 1000 bytes; compile"),
    ("program without its end", "bnhw", program(lambda d: d[:-1]), ("info", "bad"), r"cut short .*; compile or copy"),
    ("flipped bit in the weights", "bnhw", program(lambda d: flipped(d, -99)), ("info", "bad"), "altered after it was"),
    ("flipped bit in the header", "bnhw", program(lambda d: flipped(d, 200)), ("report", "bad"), "bad.bnhw: .*; comp"),
    ("newer program", "bnhw", program(lambda d: d.replace(b'version\\":1', b'version\\":2')), ("info", "bad"), "reads"),
    ("model as program", "bnhw", model(lambda p: None), ("info", "bad"), r"not a \.bnhw file"),
    ("empty program", "bnhw", lambda _: b"", ("info", "bad"), r"not a \.bnhw file, or cut short after 0 bytes"),
    ("program as model", "onnx", program(bytes), COMPILE, "not an ONNX model, or cut short .*; export it again"),
    ("model cut short", "onnx", lambda _: ONNX.read_bytes()[:-1000], COMPILE, "not an ONNX model, or cut short"),
    ("random bytes", "onnx", lambda _: np.random.default_rng(3).bytes(999), COMPILE, "not an ONNX model"),
    ("empty model", "onnx", lambda _: b"", COMPILE, "not an ONNX model, or an empty one"),
    ("two unknown operations", "onnx", model(unknown_operations), COMPILE, r"2 problems .*\n +1\. (.|\n)* 2\. "),
    ("unknown operations checked", "onnx", model(unknown_operations), ("check", "bad"), "2 problems stand in the way"),
    ("weights that are no numbers", "onnx", model(set_weight(float("nan"))), COMPILE, "(?i)nan|no numbers|not finite"),
    ("infinite weights", "onnx", model(set_weight(float("inf"))), COMPILE, "(?i)inf"),
    ("zero among 1-bit weights", "onnx", model(set_weight(0.0)), COMPILE, "units.0.conv1.*(?i:1|one).* zero"),
    ("weights in another file", "onnx", model(external), COMPILE, r"kept in other files.*external_data=False"),
    ("newer model", "onnx", model(newer), COMPILE, "ONNX IR version .* knows up to .*; export with an older IR"),
    ("free image size", "onnx", model(free_size), COMPILE, "'height'.*export with a fixed image size"),
    ("images of another size", "npy", array(lambda a: a[:, :7]), RUN, r"\(20, 7, 8, 1\); expected .* \(N, 8, 8, 1\)"),
    ("channels first", "npy", array(lambda a: a.transpose(0, 3, 1, 2)), RUN, "the order of the axes is another"),
    ("images 0..1", "npy", array(lambda a: (a / 16).astype(np.float32)), RUN, r"float32, 0.0 to 1.0; uint8 pixels 0"),
    ("wide images", "npy", array(lambda a: a.astype(np.uint16) * 99), RUN, "uint16, 0 to 1584; uint8 pixels 0..255"),
    ("images to calibrate", "npy", array(lambda a: a / 16), CALIBRATE_ON, "float64, 0.0 to 1.0; uint8"),
    ("size to calibrate", "npy", array(lambda a: a[:, :7]), CALIBRATE_ON, r"\(20, 7, 8, 1\)"),
    ("pickled images", "npy", array(lambda a: np.array([{}, a], object)), RUN, "pickled Python objects, which are"),
    ("archive that claims much", "npz", archive((10**12, 8, 8, 1)), RUN, r"header says uint8 \(10{12}, 8, 8, 1\)"),
    ("images of another kind", "jpg", lambda _: b"x", RUN, "not from '.jpg' files"),
    ("labels too few", "npy", array(lambda a: np.arange(7)), LABELLED,
     r"labels are int64 of shape \(7,\); 20 integers are expected"),
    ("labels below 0", "npy", array(lambda a: np.full(20, -1)), LABELLED, "-1 to -1; .* the classes 0 to 9"),
    ("labels from 1", "npy", array(lambda a: np.full(20, 10)), LABELLED, "10 to 10; .* the classes 0 to 9"),
    ("program as float model", "onnx", program(bytes), COMPARE, "not an ONNX model"),
)  # fmt: skip


def assert_refused(done: Done, message: str) -> None:
    assert done.code == 2, done
    assert done.out == ""
    assert "Traceback" not in done.err
    assert done.err.startswith(("error: ", "Usage: "))
    assert done.err.count("error: ") <= 1
    assert re.search(message, done.err), done.err


@pytest.mark.parametrize(
    ("ending", "make", "arguments", "message"), [bad[1:] for bad in BAD_FILES], ids=[bad[0] for bad in BAD_FILES]
)
def test_a_bad_file_is_refused(
    ending: str, make: Callable[[Path], bytes], arguments: tuple[str, ...], message: str, files: Path, call: Call
) -> None:
    name = f"bad.{ending}"
    Path(name).write_bytes(make(files))
    before = content(files)
    done = call(*(name if argument == "bad" else argument for argument in arguments))
    assert_refused(done, message)
    assert content(files) == before


IMAGES = ("--images", "images.npz")
CALIBRATE = ("--calibrate", "images.npz")
NEW = ("compile", "digits.onnx", "-o", "new.bnhw", *CALIBRATE)
BAD_OPTIONS: tuple[tuple[tuple[str, ...], str], ...] = (
    ((), "Usage: bnhw "),
    (("frobnicate",), "No such command 'frobnicate'"),
    (("info",), "Missing argument 'MODEL.bnhw'"),
    (("info", "gone.bnhw"), r"gone.bnhw: no such file; `bnhw compile MODEL.onnx -o gone.bnhw` makes one"),
    (("info", "."), "no such file"),
    (("check", "gone.onnx"), "gone.onnx: no such file; give the ONNX model"),
    (("check", "."), "no such file"),
    (("run", "digits.bnhw"), "Missing option '--images'"),
    (("run", "digits.bnhw", "--images", "gone.npz"), r"gone\.npz: no such file; images are expected as \.npz"),
    (("run", "digits.bnhw", *IMAGES, "--labels", "gone.npy"), r"gone\.npy: no such file; labels are expected"),
    (("run", "digits.bnhw", *IMAGES, "--skip", "20"), "images.npz: --skip 20 leaves none of its 20 images"),
    (("run", "digits.bnhw", *IMAGES, "--skip", "-1"), "--skip"),
    (("run", "digits.bnhw", *IMAGES, "--limit", "0"), "--limit"),
    (("run", "digits.bnhw", *IMAGES, "--threads", "0"), "--threads"),
    (("run", "digits.bnhw", *IMAGES, "--kernels", "fast"), "'fast' is no choice of kernels, expected one of auto"),
    (("run", "digits.bnhw", *IMAGES, "-o", "out.txt"), "out.txt: results are written as .npz"),
    (("run", "digits.bnhw", *IMAGES, "-o", "no/out.npz"), "no/out.npz: cannot be written .*; choose an existing folder"),
    (("verify", "digits.bnhw", *IMAGES, "--against", "rtl"), "--against 'rtl' is not available; choose reference"),
    (("verify", "digits.bnhw", *IMAGES, "--float", "gone.onnx"), "gone.onnx: no such file"),
    (("verify", "digits.bnhw", *IMAGES, "--min-agreement", "99"), "name it with --float MODEL.onnx"),
    (("verify", "digits.bnhw", *IMAGES, "--float", "digits.onnx", "--min-agreement", "100.1"), "--min-agreement"),
    (("verify", "digits.bnhw", *IMAGES, "--tensors", "0"), "--tensors"),
    (("report", "digits.bnhw", "--format", "html"), "--format 'html' is not available; choose text or json"),
    (("report", "digits.bnhw", "-o", "no/report.txt"), "no/report.txt: cannot be written"),
    (("report", "digits.bnhw", "-o", "."), "it is no regular file"),
    (("report", "digits.bnhw", "-o", "images.npz/report.txt"), "Not a directory"),
    (("report", "digits.bnhw", "-o", "n" * 255), "File name too long"),
    (("compile", "gone.onnx", *NEW[2:]), "gone.onnx: no such file"),
    (("compile", "digits.onnx", "-o", "new.bnhw"), "Missing option '--calibrate'"),
    (("compile", "digits.onnx", "-o", "new.onnx", *CALIBRATE), "new.onnx: a program has the ending .bnhw"),
    (("compile", "digits.onnx", "-o", "no/new.bnhw", *CALIBRATE), "no/new.bnhw: cannot be written"),
    ((*NEW[:4], "--calibrate", "gone.npz"), "gone.npz: no such file"),
    ((*NEW, "--act-bits", "9"), "act_bits is 9; 2 to 8 bits are allowed"),
    ((*NEW, "--weight-bits", "1"), "weight_bits is 1; 2 to 8 bits are allowed"),
    ((*NEW, "--input-bits", "13"), "input_bits is 13; 2 to 12"),
    ((*NEW, "--residual-bits", "7"), "residual_bits is 7; 8 to 24"),
    ((*NEW, "--requantise", "csd:2"), "'csd:2' is not available; choose shift, multiply or multiply:M"),
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
    assert_refused(call("run", "digits.bnhw", *IMAGES), "BNHW_KERNELS='nonsense': expected one of auto, reference")


def test_problems_of_a_model_are_json_too(files: Path, call: Call) -> None:
    Path("bad.onnx").write_bytes(model(unknown_operations)(files))
    done = call("check", "bad.onnx", "--json")
    answer = json.loads(done.out)
    assert done.code == 2
    assert answer["compiles"] is False
    assert len(answer["problems"]) == 2
    assert all("Mystery" in problem for problem in answer["problems"])


def test_an_old_program_is_kept_when_compiling_fails(files: Path, call: Call) -> None:
    before = content(files)
    done = call("compile", "digits.onnx", "-o", "digits.bnhw", *CALIBRATE, "--requantise", "shift:9")
    assert done.code == 2
    assert content(files) == before


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


# Comparisons that do not hold: exit code 3. Bugs of ours: exit code 1 and a traceback.


def test_a_wrong_kernel_is_found_by_verify(files: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    right = portable.requantise

    def wrong(acc: Array, *others: Any) -> Array:
        result = right(acc, *others)
        result[:, 0, 0, 0] ^= 1
        return result

    monkeypatch.setattr(portable, "requantise", wrong)
    done = call("verify", "digits.bnhw", *IMAGES)
    assert (done.code, done.out) == (3, "")
    assert "error: digits.bnhw: first difference in Requantise 'stem/Conv/scale/residual'" in done.err
    assert "image 0, row 0, column 0, channel 0" in done.err
    assert "Traceback" not in done.err


def test_a_wrong_kernel_is_found_before_a_program_is_written(
    files: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = portable.add
    monkeypatch.setattr(portable, "add", lambda *a: (right(*a)[0] + 1, 0))
    before = content(files)
    done = call(*NEW)
    assert done.code == 3
    assert "self-check before writing failed: first difference in AddSaturating 'units.0/Add'" in done.err
    assert content(files) == before


def test_too_little_agreement_is_exit_code_3(files: Path, call: Call) -> None:
    """The float model of other weights agrees on some images only."""
    Path("other.onnx").write_bytes(model(set_weight(-7.0))(files))
    altered = onnx.load("other.onnx")
    for tensor in altered.graph.initializer:
        if len(tensor.dims) == 4:
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    onnx.save(altered, "other.onnx")
    arguments = ("verify", "digits.bnhw", *IMAGES, "--float", "other.onnx", "--json")
    assert call(*arguments).code == 0
    done = call(*arguments, "--min-agreement", "100")
    assert done.code == 3
    agreement = json.loads(done.out)["agreement_percent"]
    assert f"{agreement:.2f} % of the classes equal the float model's, at least 100.0 % were asked for" in done.err


def test_a_bug_of_ours_is_exit_code_1_with_a_traceback(files: Path) -> None:
    broken = "import bnhw.machine\ndef run(*a, **k): return 1 // 0\nbnhw.machine.Machine.run = run"
    done = in_new_process("run", "digits.bnhw", *IMAGES, before=broken)
    assert (done.code, done.out) == (1, "")
    assert "Traceback" in done.err
    assert "ZeroDivisionError" in done.err


def test_exit_codes_are_those_of_the_exceptions() -> None:
    from bnhw import errors

    codes = {e.__name__: e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, BnhwError)}
    assert {name for name, code in codes.items() if code != 2} == {"ComparisonFailed"}
    assert codes["ComparisonFailed"] == 3
