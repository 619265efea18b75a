"""The trained networks of `benchmarks/mnist`: what they are said to reach, they reach."""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from bnhw.datasets import load_train_and_test  # noqa: E402 - after the skip
from bnhw.export.checkpoints import load_wide_resnet  # noqa: E402
from bnhw.export.layers import BinaryConv2d  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from mnist_twins import CHECKPOINTS, measure  # noqa: E402 - a script, not a package

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_mnist = pytest.mark.skipif(not (DATA / "mnist.npz").is_file(), reason=f"MNIST is not in {DATA}")

every = pytest.mark.parametrize("name", CHECKPOINTS)


@every
def test_the_twins_have_one_bit_weights_and_differ_in_batch_norm_alone(name: str) -> None:
    network = load_wide_resnet(CHECKPOINTS[name])
    assert (network.config.depth, network.config.width) == (14, 1)
    assert all(isinstance(layer, BinaryConv2d) for layer in network.convolutions())
    assert bool(network.batch_norms()) == (name == "batch_norm")
    assert CHECKPOINTS[name].stat().st_size < 200_000


@needs_mnist
@pytest.mark.slow
@every
def test_the_twins_reach_99_2_per_cent_and_their_integers_the_same_within_a_tenth(name: str) -> None:
    train, test = load_train_and_test(DATA, name="mnist")
    for row in measure(name, train, test, act_bits=8, modes=("multiply:16", "auto")):
        assert row.float_accuracy >= 99.2
        assert abs(row.integer_accuracy - row.float_accuracy) <= 0.1
        assert row.multiplications == 0 or row.requantise == "multiply:16"
