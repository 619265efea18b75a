"""`bnhw train`: the files it leaves, a killed process, what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from cli_helpers import Call, assert_refused, in_new_process

torch = pytest.importorskip("torch", reason="bnhw train needs torch")

from bnhw.export.checkpoints import load_wide_resnet, read_metadata  # noqa: E402

NETWORK = ("--network", "wrn-14-1", "--width", 0.25)
ARGUMENTS = ("train", "mnist", "--data", "set.npz", *NETWORK, "--epochs", 2, "--batch-size", 10, "--threads", 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with 30 training and 10 test images of 8 x 8 pixels in three classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 3
    images = (rng.integers(0, 100, (40, 8, 8)) + 70 * labels[:, None, None]).astype(np.uint8)
    np.savez(
        tmp_path / "set.npz",
        train_images=images[:30],
        train_labels=labels[:30],
        test_images=images[30:],
        test_labels=labels[30:],
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_train_leaves_a_checkpoint_a_csv_and_a_plot(folder: Path, call: Call) -> None:
    pytest.importorskip("matplotlib")
    done = call(*ARGUMENTS, "-o", "net.safetensors", "--norm", "batch_norm", "--temperature", 40, "--seed", 3)
    assert (done.code, done.out) == (0, "")
    assert "epoch 2/2: loss" in done.err
    assert "wrote net.safetensors" in done.err
    assert {path.name for path in folder.iterdir()} == {"set.npz", "net.safetensors", "net.csv", "net.svg"}
    config = load_wide_resnet("net.safetensors").config
    assert (config.classes, config.input_shape, config.normalisation) == (3, (1, 8, 8), "batch_norm")
    assert config.input_mean == pytest.approx((np.load("set.npz")["train_images"].mean(),), abs=1e-4)
    metadata = read_metadata("net.safetensors")
    assert (metadata["recipe"], metadata["epochs"], metadata["seed"]) == ("mnist", 2, 3)
    assert len((folder / "net.csv").read_text().splitlines()) == 3


KILL = """
import os, signal
from bnhw.export import training_job
write = training_job.write_plot
def write_plot(records, *others, **more):
    os.kill(os.getpid(), signal.SIGKILL)
training_job.write_plot = write_plot
"""


def test_a_killed_process_continues_to_the_same_checkpoint(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    assert in_new_process(*ARGUMENTS, "-o", "straight.safetensors").code == 0
    assert in_new_process(*ARGUMENTS, "-o", "killed.safetensors", before=KILL).code == -9
    assert (folder / "killed.training.safetensors").exists()
    assert not (folder / "killed.safetensors").exists()
    done = in_new_process(*ARGUMENTS, "-o", "killed.safetensors")
    assert done.code == 0
    assert "continuing from killed.training.safetensors" in done.err
    assert "epoch 1/2" not in done.err
    left, right = (load_wide_resnet(f"{name}.safetensors").state_dict() for name in ("killed", "straight"))
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert read_metadata("killed.safetensors") == read_metadata("straight.safetensors")
    lines = [(folder / f"{name}.csv").read_text().splitlines() for name in ("killed", "straight")]
    assert [line.rsplit(",", 1)[0] for line in lines[0]] == [line.rsplit(",", 1)[0] for line in lines[1]]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("-o", "net.onnx"), "net.onnx: a checkpoint has the ending .safetensors or .pt"),
        (("-o", "set.npz"), "set.npz: a checkpoint has the ending"),
        (("--network", "wrn-1-1"), "'wrn-1-1' is no network by name"),
        (("--norm", "none_at_all"), "normalisation 'none_at_all' is unknown; choose one of batch_norm, "),
        (("--input-norm", "middle"), "input normalisation 'middle' is unknown; choose one of fixed, "),
        (("--weights", "2bit"), "weights is '2bit', expected one of 1bit, float"),
        (("--data", "gone"), "gone: no such file or folder"),
        (("--rate", 0), "peak is 0.0, expected above 0"),
        (("--temperature", 0), "temperature is 0.0, expected a number above 0"),
        (("--epochs", 0), "Invalid value for '--epochs'"),
    ],
)
def test_bad_options_are_refused(folder: Path, call: Call, more: tuple[object, ...], message: str) -> None:
    assert_refused(call(*ARGUMENTS, "-o", "net.safetensors", *more), message)
    assert {path.name for path in folder.iterdir()} == {"set.npz"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--crop", 9), "images are 8 x 8 pixels, the network's input 9 x 9"),
        (("--device", "abacus"), "device 'abacus' is unknown"),
        (("--precision", "exact"), "precision 'exact' is unknown"),
        (("--rate", "1e30", "--weights", "float", "--temperature", 1), "the loss is no longer a number in epoch 1"),
    ],
)
def test_what_fails_in_training_is_one_message_behind_the_progress(
    folder: Path, call: Call, more: tuple[object, ...], message: str
) -> None:
    done = call(*ARGUMENTS, "-o", "net.safetensors", *more)
    progress, _, error = done.err.partition("error: ")
    assert (done.code, done.out) == (2, "")
    assert "30 training and 10 test images" in progress
    assert message in error
    assert "Traceback" not in done.err
    assert {path.name for path in folder.iterdir()} == {"set.npz"}


def test_an_unknown_recipe_is_refused(folder: Path, call: Call) -> None:
    done = call("train", "paper-5", *ARGUMENTS[2:], "-o", "net.safetensors")
    assert_refused(done, "recipe 'paper-5' is unknown; choose one of paper-1, ")


def test_a_checkpoint_that_is_there_is_left_alone(folder: Path, call: Call) -> None:
    (folder / "net.pt").write_bytes(b"mine")
    assert_refused(call(*ARGUMENTS, "-o", "net.pt"), "net.pt: is already there; remove it")
    assert (folder / "net.pt").read_bytes() == b"mine"


def test_train_without_torch_names_the_extra(folder: Path) -> None:
    done = in_new_process(*ARGUMENTS, "-o", "net.safetensors", before="sys.modules['torch'] = None")
    assert_refused(done, r"pip install 'bnhw\[torch\]'")


def test_the_help_names_every_recipe(call: Call) -> None:
    from bnhw.export.recipes import RECIPES

    words = "".join(call("train", "--help").out.split())
    assert all(name in words for name in RECIPES)
