"""The trained networks of `benchmarks/mnist` and `benchmarks/cifar10`: what they are said to reach, they reach."""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from bnhw.datasets import Dataset, load_train_and_test  # noqa: E402 - after the skip
from bnhw.export.checkpoints import load_wide_resnet  # noqa: E402
from bnhw.export.layers import BinaryConv2d  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from trained_twins import CHECKPOINTS, NORMALISATIONS, measure  # noqa: E402 - a script, not a package

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_mnist = pytest.mark.skipif(not (DATA / "mnist.npz").is_file(), reason=f"MNIST is not in {DATA}")

SHAPES = {"mnist": (14, 1, 200_000), "cifar10": (20, 4, 600_000)}
"""Depth, width, and most bytes of a checkpoint."""
CIFAR = (DATA / "cifar10_train_jpegq75_bytes.npz", DATA / "cifar10_test_jpegq75_decoded.npz")
needs_cifar = pytest.mark.skipif(not all(path.is_file() for path in CIFAR), reason=f"CIFAR-10 is not in {DATA}")

every = pytest.mark.parametrize("name", NORMALISATIONS)


@every
@pytest.mark.parametrize("data", CHECKPOINTS)
def test_the_twins_have_one_bit_weights_and_differ_in_batch_norm_alone(data: str, name: str) -> None:
    network = load_wide_resnet(CHECKPOINTS[data][name])
    depth, width, most_bytes = SHAPES[data]
    assert (network.config.depth, network.config.width) == (depth, width)
    assert all(isinstance(layer, BinaryConv2d) for layer in network.convolutions())
    assert bool(network.batch_norms()) == (name == "batch_norm")
    assert CHECKPOINTS[data][name].stat().st_size < most_bytes


@needs_mnist
@pytest.mark.slow
@every
def test_the_twins_reach_99_2_per_cent_and_their_integers_the_same_within_a_tenth(name: str) -> None:
    train, test = load_train_and_test(DATA, name="mnist")
    for row in measure(CHECKPOINTS["mnist"][name], train, test, act_bits=8, modes=("multiply:16", "auto")):
        assert row.float_accuracy >= 99.2
        assert abs(row.integer_accuracy - row.float_accuracy) <= 0.1
        assert row.multiplications == 0 or row.requantise == "multiply:16"


@needs_cifar
@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("shifted_relu", 88.0), ("batch_norm", 89.0)])
def test_the_cifar_twins_keep_their_accuracy_in_integers(name: str, least: float) -> None:
    train, test = load_train_and_test(*CIFAR)
    some = Dataset(images=test.images[::5], labels=test.labels[::5], classes=test.classes, split=test.split)
    (row,) = measure(CHECKPOINTS["cifar10"][name], train, some, act_bits=8, modes=("auto",))
    assert row.float_accuracy >= least
    assert abs(row.integer_accuracy - row.float_accuracy) <= 0.3
    assert row.agreement >= 99.0
    assert row.multiplications == 0
