"""The command line on bad files: exit code 2, one message, nothing written."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_helpers import Call, assert_refused, first_kernel, model, set_weight
from folders import content

from bnhw.demo.digits import ONNX
from bnhw.dtypes import Array


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
    ("weights that overflow", "onnx", model(set_weight(3e38)), COMPILE, "^error: value .* is not finite on the calib"),
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
    ("images of another kind", "bmp", lambda _: b"BM", RUN, "2 bytes that begin with '42 4d' are of no known kind"),
    ("damaged picture", "jpg", lambda _: b"x", RUN, "bad.jpg: is neither a PNG nor a JPEG picture"),
    ("labels too few", "npy", array(lambda a: np.arange(7)), LABELLED,
     r"labels are int64 of shape \(7,\); 20 integers are expected"),
    ("labels below 0", "npy", array(lambda a: np.full(20, -1)), LABELLED, "-1 to -1; .* the classes 0 to 9"),
    ("labels from 1", "npy", array(lambda a: np.full(20, 10)), LABELLED, "10 to 10; .* the classes 0 to 9"),
    ("program as float model", "onnx", program(bytes), COMPARE, "not an ONNX model"),
)  # fmt: skip


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


def test_problems_of_a_model_are_json_too(files: Path, call: Call) -> None:
    Path("bad.onnx").write_bytes(model(unknown_operations)(files))
    done = call("check", "bad.onnx", "--json")
    answer = json.loads(done.out)
    assert done.code == 2
    assert answer["compiles"] is False
    assert len(answer["problems"]) == 2
    assert all("Mystery" in problem for problem in answer["problems"])
