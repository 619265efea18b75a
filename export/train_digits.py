"""Train the network of the demo: a 1-bit wide residual network without batch norm on 8 x 8 digits.

    python -m bnhw.export.train_digits --out DIR [--epochs N] [--seed S] [--threads N]

writes `digits.safetensors` (signs only) and `digits.onnx` into DIR. The method is that of paper 1 (arXiv
1907.06916, sections III-A, III-B and III-D): SGD with momentum 0.9, weight decay 5e-4, mini-batches of 125,
a learning rate that falls from 0.1 to 1e-5 along a cosine, and a softmax temperature. Images are shifted by
up to one pixel; there is no flipping and no cutout. No choice was made on the test images.
"""

import argparse
import copy
import math
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from bnhw.demo.digits import CHECKPOINT, ONNX, Digits, load_digits
from bnhw.errors import BadInput, BnhwError
from bnhw.export.checkpoints import load_wide_resnet, save_checkpoint
from bnhw.export.to_onnx import to_onnx
from bnhw.export.zoo import WideResNet, WideResNetConfig

BATCH_SIZE = 125
FIRST_RATE = 0.1
LAST_RATE = 1e-5
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
TEMPERATURE = 32.0  # in the range of section III-D; chosen with a part of the training images held out
MAX_SHIFT_PIXELS = 1


def train_digits(digits: Digits, *, epochs: int, seed: int) -> WideResNet:
    """Train on `digits.train_images` and return the network in eval mode; the same seed gives the same bits
    on one machine with one number of threads. The global random state of torch is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WideResNet(digits_config(digits))
        _train(model, digits.train_images, digits.train_labels, epochs=epochs, first_rate=FIRST_RATE)
    return model.eval()


def fine_tune(
    model: WideResNet,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    *,
    epochs: int,
    seed: int,
    first_rate: float = FIRST_RATE,
) -> WideResNet:
    """Train a copy of `model` further on images (N, H, W, C) and return it in eval mode.

    The method is that of `train_digits`; the learning rate starts at `first_rate`. From a checkpoint of signs alone a
    high rate is needed: every weight stands a whole weight scale away from its other sign.
    """
    tuned = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _train(tuned, images, labels, epochs=epochs, first_rate=first_rate)
    return tuned.eval()


def _train(
    model: WideResNet,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    *,
    epochs: int,
    first_rate: float,
) -> None:
    """Train `model` itself; random numbers come from torch's global state."""
    if epochs < 1:
        raise BadInput(f"epochs is {epochs}; expected at least 1")
    inputs, targets = as_tensor(images), torch.from_numpy(labels.astype(np.int64))
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=first_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    steps = math.ceil(len(inputs) / BATCH_SIZE)
    start = time.monotonic()
    for epoch in range(epochs):
        losses = []
        for step, batch in enumerate(torch.split(torch.randperm(len(inputs)), BATCH_SIZE)):
            rate = cosine_rate((epoch * steps + step) / (epochs * steps), first_rate=first_rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = functional.cross_entropy(model(shift_randomly(inputs[batch])), targets[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimizer.step()
            losses.append(float(loss.detach()))
        _report(epoch + 1, epochs, sum(losses) / steps, time.monotonic() - start)


def digits_config(digits: Digits) -> WideResNetConfig:
    """Depth 20, width 1, shifted ReLU; the input is normalised by the training images' mean and deviation."""
    return WideResNetConfig(
        depth=20,
        width=1,
        classes=10,
        input_channels=1,
        image_size=(8, 8),
        normalisation="shifted_relu",
        weights="1bit",
        temperature=TEMPERATURE,
        input_mean=(round(float(digits.train_images.mean()), 4),),
        input_std=(round(float(digits.train_images.std()), 4),),
    )


def cosine_rate(progress: float, *, first_rate: float = FIRST_RATE) -> float:
    """Learning rate after the part `progress` (0 to 1) of the training: half a cosine (section III-A)."""
    return LAST_RATE + (first_rate - LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2


def shift_randomly(images: Tensor) -> Tensor:
    """Move every image of (N, C, H, W) by -1, 0 or 1 pixel down and right; pixels that come in are 0."""
    height, width = images.shape[-2:]
    padded = functional.pad(images, (MAX_SHIFT_PIXELS,) * 4)
    offsets = torch.randint(2 * MAX_SHIFT_PIXELS + 1, (len(images), 2))
    return torch.stack([padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(offsets.tolist())])


def as_tensor(images: npt.NDArray[np.uint8]) -> Tensor:
    """Images uint8 (N, H, W, C) as float32 (N, C, H, W), raw values."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32))


def count_correct(model: WideResNet, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> int:
    """Number of images (N, H, W, C) that `model` gives the right label."""
    with torch.no_grad():
        guesses = model(as_tensor(images)).argmax(dim=1).numpy()
    return int((guesses == labels).sum())


def write_demo(model: WideResNet, digits: Digits, folder: Path, *, epochs: int, seed: int) -> dict[str, object]:
    """Measure `model`, write it as checkpoint and ONNX file into `folder`, return the metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT.name
    metadata: dict[str, object] = {
        "data": "sklearn.datasets.load_digits, split by bnhw.demo.digits.is_test",
        "epochs": epochs,
        "seed": seed,
        "train_images": len(digits.train_images),
        "train_correct": count_correct(model, digits.train_images, digits.train_labels),
        "test_images": len(digits.test_images),
        "test_correct": count_correct(model, digits.test_images, digits.test_labels),
    }
    save_checkpoint(model, checkpoint, signs_only=True, metadata=metadata)
    written = load_wide_resnet(checkpoint)
    to_onnx(written, folder / ONNX.name, input_shape=written.config.input_shape)
    return metadata


def _report(epoch: int, epochs: int, loss: float, elapsed_s: float) -> None:
    left_s = elapsed_s / epoch * (epochs - epoch)
    print(f"epoch {epoch}/{epochs}  loss {loss:.4f}  {left_s:.0f} s left", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bnhw.export.train_digits", description="Train the demo.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the two files")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads for torch")
    options = parser.parse_args(arguments)
    try:
        torch.set_num_threads(options.threads)
        digits = load_digits()
        model = train_digits(digits, epochs=options.epochs, seed=options.seed)
        metadata = write_demo(model, digits, options.out, epochs=options.epochs, seed=options.seed)
    except BnhwError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{metadata['test_correct']} of {metadata['test_images']} test images right", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
