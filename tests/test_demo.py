"""`bnhw demo`: with torch and without it, and without its images."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import bnhw
from bnhw.demo.digits import ONNX, is_test, load_digits

HIDE = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = classmethod(lambda cls, name, *a: None if name.split(".")[0] == {!r} else find(name, *a))
"""
"""Python that makes a package look as if it was not installed."""

FILES = {"digits.onnx", "digits-multiply16.bnhw", "digits-shift.bnhw", "train.npz", "test.npz"}
PAGES = {"report.html", "compare.html"}


def demo(folder: Path, *, without: str = "") -> subprocess.CompletedProcess[str]:
    """Run the demo in a process that cannot import the package `without`."""
    script = f"{HIDE.format(without)}\nfrom bnhw.cli import main\nmain()"
    command = [sys.executable, "-c", script, "demo", "-o", "made"]
    environment = {k: v for k, v in os.environ.items() if k != "BNHW_KERNELS"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


def require_images() -> None:
    pytest.importorskip("sklearn", reason="the demo's images come with scikit-learn")


@pytest.mark.parametrize("without", ["torch", "plotly", ""])
def test_the_demo_shows_no_multiplier_and_bit_exact_execution(without: str, tmp_path: Path) -> None:
    require_images()
    if without != "torch":
        pytest.importorskip("torch", reason="the demo exports its network with torch where there is one")
    done = demo(tmp_path, without=without)
    assert done.returncode == 0, done.stderr
    print(done.stdout)  # pytest shows the times of a failed run
    rows = {line.split("  ")[0].strip(): line.split() for line in done.stdout.splitlines()}
    assert rows["multiplications in the array"][-2:] == ["0", "0"]
    assert rows["multiplications in all"][-1] == "0"
    assert rows["multiplications in all"][-2] != "0"
    assert "268,048 bits" in done.stdout
    assert rows["bit-exact: reference = kernels"][-1] == "integers"
    drawn = PAGES if find_spec("plotly") and without != "plotly" else set()
    assert {path.name for path in (tmp_path / "made").iterdir()} == FILES | drawn
    assert ("Open " in done.stdout) == bool(drawn) != ("plotly is not installed" in done.stderr)
    assert "J (" in " ".join(rows["energy per image, 28nm"])
    assert ("torch is not installed" in done.stderr) == (without == "torch")
    assert "Traceback" not in done.stderr


def test_the_demo_can_be_run_again_in_its_folder(tmp_path: Path) -> None:
    require_images()
    assert demo(tmp_path, without="torch").returncode == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    assert demo(tmp_path, without="torch").returncode == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()} == first
    assert (tmp_path / "made" / "digits.onnx").read_bytes() == ONNX.read_bytes()


def test_the_files_of_the_demo_work_with_the_other_functions(tmp_path: Path) -> None:
    require_images()
    assert demo(tmp_path, without="torch").returncode == 0
    digits = load_digits()
    for name in ("digits-multiply16.bnhw", "digits-shift.bnhw"):
        result = bnhw.run(bnhw.load(tmp_path / "made" / name), digits.test_images, threads=2)
        assert (result.predictions == digits.test_labels).mean() > 0.95


def test_without_its_images_the_demo_names_the_extra(tmp_path: Path) -> None:
    done = demo(tmp_path, without="sklearn")
    assert (done.returncode, done.stdout) == (2, "")
    assert "scikit-learn, which is not installed; install it with: pip install 'bnhw[demo]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_training_and_test_images_are_apart_and_hold_every_digit() -> None:
    require_images()
    digits = load_digits()
    assert len(digits.train_images) == len(digits.train_labels) == 1433
    assert len(digits.test_images) == len(digits.test_labels) == 364
    assert set(digits.train_labels) == set(digits.test_labels) == set(range(10))
    assert digits.test_images.shape[1:] == (8, 8, 1)
    assert digits.test_images.max() == 16
    assert not digits.train_images.flags.writeable


def test_every_fifth_image_of_a_label_is_a_test_image() -> None:
    import numpy as np

    labels = np.array([3, 3, 1, 3, 3, 3, 3, 1], np.uint8)
    assert is_test(labels).tolist() == [True, False, True, False, False, False, True, False]
