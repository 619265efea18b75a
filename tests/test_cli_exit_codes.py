"""Exit codes 3, for comparisons that do not hold, and 1, for bugs of ours."""

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
from cli_helpers import IMAGES, NEW, Call, in_new_process, model, set_weight
from folders import content
from onnx import numpy_helper

from bnhw.dtypes import Array
from bnhw.errors import BnhwError
from bnhw.kernels import portable


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


def test_a_wrong_onnx_graph_is_found_by_verify(files: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than LIFT is one more in every offset."""
    monkeypatch.setattr("bnhw.integer_onnx.steps.LIFT", (1 << 62) + 1)
    assert call("verify", "digits.bnhw", *IMAGES).code == 0
    done = call("verify", "digits.bnhw", *IMAGES, "--against", "reference,onnx")
    assert (done.code, done.out) == (3, "")
    assert re.search(r"error: digits.bnhw: first difference in Requantise .*-?\d+ \(onnx\) against", done.err)


def test_a_wrong_onnx_graph_is_found_before_anything_is_written(
    files: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnhw.integer_onnx.steps.LIFT", (1 << 62) + 1)
    before = content(files)
    done = call(*NEW, "--emit-onnx", "new.onnx")
    assert (done.code, done.out) == (3, "")
    assert "error: the integer ONNX graph is wrong: first difference in Requantise" in done.err
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


READERS = (("info", "digits.bnhw"), ("info", "digits.bnhw", "--json"), ("run", "digits.bnhw", *IMAGES))


@pytest.mark.parametrize("arguments", READERS)
def test_a_reader_that_goes_away_is_no_error(files: Path, arguments: tuple[str, ...]) -> None:
    closed = "import os\nr, w = os.pipe()\nos.close(r)\nos.dup2(w, 1)"
    done = in_new_process(*arguments, before=closed)
    assert (done.code, done.err) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", READERS)
def test_output_without_room_is_exit_code_2(files: Path, arguments: tuple[str, ...]) -> None:
    full = "import os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
    done = in_new_process(*arguments, before=full)
    assert done.code == 2
    assert done.err.startswith("error: the output cannot be written (No space left on device)")
    assert done.err.count("\n") == 1


def test_names_that_the_output_cannot_encode_are_escaped(files: Path) -> None:
    Path("näm.bnhw").write_bytes(Path("digits.bnhw").read_bytes())
    ascii_only = "sys.stdout.reconfigure(encoding='ascii')"
    done = in_new_process("run", "näm.bnhw", *IMAGES, before=ascii_only)
    assert (done.code, done.err) == (0, "")
    assert r"n\xe4m.bnhw" in done.out


def test_exit_codes_are_those_of_the_exceptions() -> None:
    from bnhw import errors

    codes = {e.__name__: e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, BnhwError)}
    assert {name for name, code in codes.items() if code != 2} == {"ComparisonFailed", "WidthExceeded", "RtlFailed"}
    assert codes["ComparisonFailed"] == 3
    assert codes["WidthExceeded"] == codes["RtlFailed"] == 1
