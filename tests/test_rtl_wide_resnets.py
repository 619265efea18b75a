"""Wide residual networks on the Verilog engine: WRN-20-1 at full image size, a published WRN-20-10's first block."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the networks are built with torch")

from published_files import DATA, MATLAB, needs_data  # noqa: E402 - after the skip
from rtl_helpers import MUX, compared, keep_builds, needs_verilator, random_images  # noqa: E402

from bnhw.compiler import compile_model  # noqa: E402
from bnhw.export.checkpoints import load_wide_resnet  # noqa: E402
from bnhw.export.to_onnx import to_onnx  # noqa: E402
from bnhw.export.train_digits import as_tensor  # noqa: E402
from bnhw.export.zoo import WideResNet, WideResNetConfig  # noqa: E402
from bnhw.hardware.arch_file import load_arch  # noqa: E402
from bnhw.hardware.mapping import map_program  # noqa: E402
from bnhw.options import CompileOptions  # noqa: E402
from bnhw.program import AddSaturating, Program  # noqa: E402

pytestmark = needs_verilator


@pytest.fixture(autouse=True)
def builds(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_builds(tmp_path_factory, monkeypatch)


def compiled(config: WideResNetConfig, folder: Path, options: CompileOptions) -> Program:
    """An untrained network with statistics of its own, compiled with a few random images."""
    channels, height, width = config.input_shape
    pixels = np.random.default_rng(0).integers(0, 256, (8, height, width, channels)).astype(np.uint8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WideResNet(config)
        with torch.no_grad():
            model.train()(as_tensor(pixels))
    to_onnx(model.eval(), folder / "model.onnx", input_shape=config.input_shape)
    return compile_model(folder / "model.onnx", pixels, options)


@pytest.mark.parametrize("normalisation", ["shifted_relu", "batch_norm"])
def test_wide_resnet_20_1_gives_the_same_integers_in_the_same_cycles(normalisation: str, tmp_path: Path) -> None:
    config = WideResNetConfig(normalisation=normalisation)
    assert (config.depth, config.width, config.image_size) == (20, 1, (32, 32))
    program = compiled(config, tmp_path, CompileOptions(requantise="csd:2"))
    found = compared(program, MUX, random_images(program, 1))
    assert found.difference == ""
    assert found.integers > 500_000


def first_block(program: Program) -> Program:
    """The program up to the end of its first residual unit."""
    last = next(at for at, i in enumerate(program.instructions) if isinstance(i, AddSaturating))
    kept = program.instructions[: last + 1]
    names = {program.input, *(i.output for i in kept)}
    return replace(
        program,
        instructions=kept,
        tensors=tuple(tensor for tensor in program.tensors if tensor.name in names),
        output=kept[-1].output,
    )


@pytest.mark.slow
@needs_data
def test_first_block_of_the_published_network_runs_at_full_width(tmp_path: Path) -> None:
    images = np.load(DATA / "cifar10_test_first20_lossless.npz")["images"]
    model = load_wide_resnet(MATLAB)
    to_onnx(model, tmp_path / "model.onnx", input_shape=model.config.input_shape)
    program = first_block(compile_model(tmp_path / "model.onnx", images[:8], CompileOptions(requantise="csd:2")))
    assert program.tensor[program.output].shape == (32, 32, 160)
    arch = load_arch("engine-16x64")
    required = map_program(program, arch).required_words
    words = {kind.value: {"words": max(1, required[kind])} for kind in required}
    assert (arch.pe, arch.simd) == (16, 64)
    found = compared(program, arch.with_options(memories=words), images[8:9])
    assert found.difference == ""
