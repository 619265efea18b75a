"""Fixtures of the tests that run the command line, and the profile of random examples that `make test` uses."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import Call, Done
from hypothesis import settings

from bnhw.cli import main
from bnhw.compiler import compile_model
from bnhw.demo.digits import ONNX

settings.register_profile("repeatable", derandomize=True)
"""The same examples in every run, so that a change is judged by itself; `make test-all` draws new ones."""


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


@pytest.fixture(scope="session")
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
