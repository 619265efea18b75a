"""How much accuracy do 2 to 4 bits keep: with scales alone, and after quantisation-aware fine-tuning?

    python benchmarks/fine_tuning.py [--bits 4 3 2] [--epochs 60] [--mnist MNIST.npz --train-images 10000]

A trained shifted-ReLU network (the demo's, or a small one trained here on MNIST) is compiled by its calibrated ranges
alone, with multipliers (multiply:16), and again after fine-tuning with quantised activations and power-of-two
constants, in mode `shift`, which leaves no multiplier. Every figure is measured on test images; the logits of the
fine-tuned program are compared with the network's own, and `equal logits` says in how many images all of them agree.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bnhw.compiler import compile_model
from bnhw.demo.digits import CHECKPOINT, Digits, load_digits
from bnhw.dtypes import Array
from bnhw.export.checkpoints import load_wide_resnet
from bnhw.export.quantise_aware import quantise_aware
from bnhw.export.to_onnx import to_onnx
from bnhw.export.train_digits import as_tensor, count_correct, fine_tune
from bnhw.export.zoo import WideResNet, WideResNetConfig
from bnhw.machine import Machine
from bnhw.options import CompileOptions
from bnhw.program import Program

CALIBRATION_IMAGES = 500


def load_mnist(path: Path, *, train_images: int) -> Digits:
    """The first images of MNIST at half their size (14 x 14), in the form of the demo's digits."""
    arrays = {name: _halved(array) if array.ndim == 3 else array for name, array in np.load(path).items()}
    images, labels = arrays["train_images"][:train_images, ..., None], arrays["train_labels"][:train_images]
    test_images, test_labels = arrays["test_images"][:2000, ..., None], arrays["test_labels"][:2000]
    return Digits(train_images=images, train_labels=labels, test_images=test_images, test_labels=test_labels)


def _halved(images: Array) -> Array:
    """Images uint8 (N, H, W) with each 2 x 2 pixels averaged."""
    count, height, width = images.shape
    means = images.reshape(count, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    return np.asarray(means.astype(np.uint8))


def train_mnist(digits: Digits, *, epochs: int) -> WideResNet:
    """A small shifted-ReLU network, trained from nothing."""
    config = WideResNetConfig(
        depth=8, base_width=8, input_channels=1, image_size=(14, 14), temperature=4.0,
        input_mean=(round(float(digits.train_images.mean()), 4),),
        input_std=(round(float(digits.train_images.std()), 4),),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WideResNet(config)
    return fine_tune(model, digits.train_images, digits.train_labels, epochs=epochs, seed=0)


def compiled(model: WideResNet, digits: Digits, *, bits: int, requantise: str) -> Program:
    """The integer program."""
    options = CompileOptions(act_bits=bits, requantise=requantise)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        to_onnx(model, path, input_shape=model.config.input_shape)
        return compile_model(path, digits.train_images[:CALIBRATION_IMAGES], options)


def percent(correct: int, images: int) -> str:
    """A share of the images."""
    return f"{100 * correct / images:6.2f} %"


def program_logits(program: Program, images: Array) -> Array:
    """Real logits (images, classes) of the integer program."""
    result = Machine(program).run(images, threads=1)
    return np.asarray(result.logits * result.scale)


def measure(model: WideResNet, digits: Digits, *, bits: int, epochs: int) -> None:
    """Print one row of the table."""
    images, labels = digits.test_images, digits.test_labels
    plain = program_logits(compiled(model, digits, bits=bits, requantise="multiply:16"), images).argmax(axis=1)
    start = time.monotonic()
    aware = quantise_aware(model, as_tensor(digits.train_images[:CALIBRATION_IMAGES]), bits=bits)
    aware = fine_tune(aware, digits.train_images, digits.train_labels, epochs=epochs, seed=0)
    elapsed_s = time.monotonic() - start
    logits = program_logits(compiled(aware, digits, bits=bits, requantise="shift"), images)
    with torch.no_grad():
        own = aware(as_tensor(images)).numpy()
    equal = int((logits.astype(np.float32) == own).all(axis=1).sum())
    row = (
        percent(int((plain == labels).sum()), len(labels)),
        percent(count_correct(aware, images, labels), len(labels)),
        percent(int((logits.argmax(axis=1) == labels).sum()), len(labels)),
    )
    print(
        f"{bits:4}  {row[0]:>14}  {row[1]:>17}  {row[2]:>15}  {equal:5} of {len(labels)}  {elapsed_s:6.0f} s",
        flush=True,
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument(
        "--mnist", type=Path, help="mnist.npz with train_images, train_labels, test_images, test_labels"
    )
    parser.add_argument("--train-images", type=int, default=10000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.mnist is None:
        digits, model = load_digits(), load_wide_resnet(CHECKPOINT)
    else:
        digits = load_mnist(options.mnist, train_images=options.train_images)
        model = train_mnist(digits, epochs=options.epochs)
    right = count_correct(model, digits.test_images, digits.test_labels)
    print(
        f"float activations: {percent(right, len(digits.test_labels))} of {len(digits.test_labels)} test images right"
    )
    print("bits  ranges alone    fine-tuned float  fine-tuned ints  equal logits      time")
    for bits in options.bits:
        measure(model, digits, bits=bits, epochs=options.epochs)


if __name__ == "__main__":
    main()
