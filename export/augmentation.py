"""Random changes of training images, for a whole batch at once on the device of its tensor.

The design is that of paper 1 (section III-A), which takes it from McDonnell, "Training wide residual networks for
deployment using a single bit for each weight" (arXiv 1802.08530): flips, crops of padded images, and cutout, with
random pixel values in the padding and in the patch cut out.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bnhw.errors import BadInput

Fill = Literal["noise", "zero"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What is done to a training image; the defaults do nothing. Raises `BadInput` for lengths below 0.

    flip: left and right are exchanged in half of the images.
    padding: pixels added on every side before a crop of the network's size is taken at a random place. Images that are
        larger than the network's input are cropped without padding.
    cutout: side of the square that is cut out at a random place; a part of it, never all, may lie outside the image.
    fill: pixels of the padding and of the square are "noise", whole numbers 0 to 255, each its own, or "zero".
    """

    flip: bool = False
    padding: int = 0
    cutout: int = 0
    fill: Fill = "noise"

    def __post_init__(self) -> None:
        for name in ("padding", "cutout"):
            value = getattr(self, name)
            if value < 0:
                raise BadInput(f"{name} is {value} pixels, expected 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What was drawn for each of N images: int64 tensors of shape (N,), `flipped` bool.

    top, left: the image's row and column that comes to the upper left corner; negative in the padding.
    cut_top, cut_left: the upper left corner of the square that is cut out, in the new image.
    """

    flipped: Tensor
    top: Tensor
    left: Tensor
    cut_top: Tensor
    cut_left: Tensor


def augment(
    images: Tensor, augmentation: Augmentation, generator: torch.Generator, *, size: tuple[int, int] | None = None
) -> Tensor:
    """Random variants of images (N, C, H, W) with values 0 to 255, in their type, shape (N, C, *size).

    `size` is by default (H, W). `generator` belongs to the device of `images`. Raises `BadInput` where `size` is larger
    than the image.
    """
    height, width = images.shape[-2:]
    size = size or (height, width)
    if size[0] > height or size[1] > width:
        raise BadInput(
            f"images are {height} x {width} pixels, the network's input {size[0]} x {size[1]}; use larger images or "
            "another input size"
        )
    if augmentation == Augmentation() and size == (height, width):
        return images
    changes = draw_changes(augmentation, len(images), (height, width), size, generator)
    return apply_changes(images, changes, augmentation, size, generator)


def draw_changes(
    augmentation: Augmentation,
    count: int,
    image_size: tuple[int, int],
    size: tuple[int, int],
    generator: torch.Generator,
) -> Changes:
    """Draw changes for `count` images; every allowed place has the same probability."""

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (count,), generator=generator, device=generator.device)

    padding = augmentation.padding if image_size == size else 0
    flipped = draw(0, int(augmentation.flip)).bool()
    top, left = (draw(-padding, full - wanted + padding) for full, wanted in zip(image_size, size, strict=True))
    cut_top, cut_left = (draw(min(0, 1 - augmentation.cutout), wanted - 1) for wanted in size)
    return Changes(flipped=flipped, top=top, left=left, cut_top=cut_top, cut_left=cut_left)


def apply_changes(
    images: Tensor, changes: Changes, augmentation: Augmentation, size: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Flip, then crop, then cut out; the generator gives the noise."""
    count, channels, height, width = images.shape
    device = images.device
    new_rows, new_columns = (torch.arange(length, device=device) for length in size)
    rows = new_rows + changes.top[:, None]
    columns = new_columns + changes.left[:, None]
    kept = _within(rows, 0, height)[:, :, None] & _within(columns, 0, width)[:, None, :]
    if augmentation.cutout:
        cut_rows = _within(new_rows - changes.cut_top[:, None], 0, augmentation.cutout)
        cut_columns = _within(new_columns - changes.cut_left[:, None], 0, augmentation.cutout)
        kept &= ~(cut_rows[:, :, None] & cut_columns[:, None, :])
    columns = torch.where(changes.flipped[:, None], width - 1 - columns, columns)
    moved = images[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        rows.clamp(0, height - 1)[:, None, :, None],
        columns.clamp(0, width - 1)[:, None, None, :],
    ]
    if augmentation.fill == "zero":
        return moved * kept[:, None]
    noise = torch.randint(256, moved.shape, generator=generator, device=device, dtype=torch.uint8).to(images.dtype)
    return torch.where(kept[:, None], moved, noise)


def _within(values: Tensor, low: int, end: int) -> Tensor:
    return (values >= low) & (values < end)


def centre_crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of images (N, C, H, W), shape (N, C, *size). Raises `BadInput` where they are smaller."""
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    if size[0] > height or size[1] > width:
        raise BadInput(
            f"images are {height} x {width} pixels, the network's input {size[0]} x {size[1]}; use larger images or "
            "another input size"
        )
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return images[:, :, top : top + size[0], left : left + size[1]]
