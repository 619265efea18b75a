"""`benchmarks/network.py`: failures are named, figures are those of the times, PyTorch runs the network."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from bnhw.dtypes import Array  # noqa: E402 - after the skip
from bnhw.export.checkpoints import load_checkpoint, save_checkpoint  # noqa: E402
from bnhw.export.layers import Padding  # noqa: E402
from bnhw.export.zoo import WideResNet, WideResNetConfig  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import network  # noqa: E402 - a script, not a package
from network_torch import standard, to_tensor, torch_builders  # noqa: E402

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)


def test_engines_that_fail_are_named_and_figures_are_those_of_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(network, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def engine(seconds: float, favourite: int) -> network.Engine:
        def run(images: Array) -> Array:
            now[0] += seconds
            return np.eye(4)[np.where(images[:, 0, 0, 0] == IMAGES[0, 0, 0, 0], 0, favourite)]

        return run

    def fails(images: Array) -> Array:
        raise RuntimeError("no memory")

    def no_engine() -> network.Engine:
        raise ImportError("no such engine")

    wanted = {
        "bnhw": lambda: engine(0.5, 1),
        "onnxruntime fp32": lambda: engine(2.0, 1),
        "slow": lambda: engine(1.0, 2),
    }
    built, errors = network.build({**wanted, "bad": no_engine, "late": lambda: fails, "unwanted": no_engine}, [])
    assert errors == {"bad": "ImportError: no such engine", "unwanted": "ImportError: no such engine"}
    figures, failed = network.measure(built, IMAGES, 2, 2)
    assert failed == {"late": "RuntimeError: no memory"}
    assert [figure.engine for figure in figures] == list(wanted)
    assert [figure.images_per_second for figure in figures] == [4, 1, 2]
    assert [figure.agreement for figure in figures] == pytest.approx([1, 1, 1 / 6])
    ratios = [figure.ours_over_it.ratio for figure in figures if figure.ours_over_it]
    assert ratios == [1, 4, 2]
    with pytest.raises(AssertionError, match="bnhw failed: RuntimeError: no memory"):
        network.measure({"bnhw": fails}, IMAGES, 2, 1)


def test_only_the_engines_named_are_built() -> None:
    def never() -> network.Engine:
        raise AssertionError("built")

    def ours() -> network.Engine:
        return lambda images: images

    built, errors = network.build({"bnhw": ours, "openvino int8": never}, ["bnhw", "torch int8"])
    assert list(built) == ["bnhw"]
    assert errors == {"torch int8": "not installed, or without its checkpoint"}
    figures, _ = network.measure(built, IMAGES, 3, 1)
    assert figures[0].agreement is None


@pytest.mark.parametrize("padding", ["symmetric", "tf_same"])
@pytest.mark.parametrize("affine", [False, True])
def test_torch_runs_the_same_network_in_each_type(tmp_path: Path, padding: Padding, affine: bool) -> None:
    torch.manual_seed(0)
    config = WideResNetConfig(
        depth=8, width=0.5, image_size=(8, 8), normalisation="batch_norm", batch_norm_affine=affine, padding=padding
    )
    made = WideResNet(config)
    made(to_tensor(IMAGES))  # statistics of its own
    checkpoint = tmp_path / "small.safetensors"
    save_checkpoint(made, checkpoint)
    with torch.no_grad():
        exact = load_checkpoint(checkpoint)(to_tensor(IMAGES))
        assert not any(
            type(module).__module__.startswith("bnhw.export.layers")
            for module in standard(checkpoint, IMAGES).modules()
        )
    for name, build in torch_builders(checkpoint, IMAGES, 1).items():
        error = np.abs(build()(IMAGES) - exact.numpy()).max() / exact.abs().max().item()
        assert error < {"torch fp32": 1e-4, "torch bf16": 0.1, "torch int8": 0.2}[name], name
