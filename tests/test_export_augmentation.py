"""Augmentation of whole batches against one image at a time, and what is drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from torch import Generator, Tensor  # noqa: E402

from bnhw.errors import BadInput  # noqa: E402
from bnhw.export.augmentation import Augmentation, Changes, apply_changes, augment, centre_crop, draw_changes  # noqa: E402

augmentations = st.builds(
    Augmentation,
    flip=st.booleans(),
    padding=st.integers(0, 4),
    cutout=st.integers(0, 7),
    fill=st.just("zero"),
)


def generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def changed_slowly(image: Tensor, changes: Changes, index: int, cutout: int, size: tuple[int, int]) -> Tensor:
    """One image (C, H, W), with lists and loops; what is not in the image is 0."""
    pixels = image.flip(2) if changes.flipped[index] else image
    result: Tensor = torch.zeros((image.shape[0], *size), dtype=image.dtype)
    for row in range(size[0]):
        for column in range(size[1]):
            y, x = row + int(changes.top[index]), column + int(changes.left[index])
            cut = (
                0 <= row - int(changes.cut_top[index]) < cutout and 0 <= column - int(changes.cut_left[index]) < cutout
            )
            if 0 <= y < image.shape[1] and 0 <= x < image.shape[2] and not cut:
                result[:, row, column] = pixels[:, y, x]
    return result


@settings(max_examples=60)
@given(augmentations, st.integers(0, 5), st.integers(1, 3), st.tuples(*[st.integers(1, 9)] * 4), st.integers(0, 99))
def test_a_batch_is_changed_as_image_by_image(
    augmentation: Augmentation, count: int, channels: int, lengths: tuple[int, int, int, int], seed: int
) -> None:
    image_size = (max(lengths[0], lengths[2]), max(lengths[1], lengths[3]))
    size = (min(lengths[0], lengths[2]), min(lengths[1], lengths[3]))
    images = torch.randint(1, 256, (count, channels, *image_size), generator=generator(seed), dtype=torch.uint8)
    changes = draw_changes(augmentation, count, image_size, size, generator(seed))
    fast = apply_changes(images, changes, augmentation, size, generator(seed))
    assert fast.shape == (count, channels, *size)
    assert fast.dtype == images.dtype
    for index in range(count):
        assert torch.equal(fast[index], changed_slowly(images[index], changes, index, augmentation.cutout, size))


def test_the_same_generator_gives_the_same_images_and_another_gives_others() -> None:
    images = torch.arange(8 * 3 * 64, dtype=torch.float32).reshape(8, 3, 8, 8) % 256
    augmentation = Augmentation(flip=True, padding=2, cutout=3)
    first, second, third = (augment(images, augmentation, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_nothing_asked_for_changes_nothing() -> None:
    images = torch.rand(3, 1, 5, 4)
    before = generator(0).get_state()
    random = generator(0)
    assert augment(images, Augmentation(), random) is images
    assert torch.equal(random.get_state(), before)


def test_every_place_is_drawn_and_none_beyond() -> None:
    """Shifts by -4..4 pixels, a patch of 18 of which at least one pixel hits 32 (paper 1)."""
    changes = draw_changes(Augmentation(flip=True, padding=4, cutout=18), 4000, (32, 32), (32, 32), generator(0))
    assert set(changes.top.tolist()) == set(changes.left.tolist()) == set(range(-4, 5))
    assert set(changes.cut_top.tolist()) == set(changes.cut_left.tolist()) == set(range(-17, 32))
    assert abs(int(changes.flipped.sum()) - 2000) < 200


def test_larger_images_are_cropped_without_padding() -> None:
    changes = draw_changes(Augmentation(padding=4), 2000, (9, 8), (6, 8), generator(0))
    assert set(changes.top.tolist()) == set(range(4))
    assert set(changes.left.tolist()) == {0}


def test_noise_is_what_fills_padding_and_patch_and_nothing_else() -> None:
    images = torch.full((500, 2, 16, 16), -1.0)
    changed = augment(images, Augmentation(padding=3, cutout=5), generator(3))
    noise = changed[changed != -1]
    assert set(np.unique(noise.numpy())) == set(range(256))
    assert 0 < len(noise) / changed.numel() < 0.45
    channels_alike = (changed[:, 0] == changed[:, 1])[changed[:, 0] != -1]
    assert float(channels_alike.float().mean()) < 0.05


def test_centre_crop_is_the_middle() -> None:
    images = torch.arange(2 * 5 * 6).reshape(2, 1, 5, 6)
    assert torch.equal(centre_crop(images, (3, 4)), images[:, :, 1:4, 1:5])
    assert centre_crop(images, (5, 6)) is images


def test_what_cannot_be_is_refused() -> None:
    images = torch.zeros(1, 1, 4, 4)
    with pytest.raises(BadInput, match="padding is -1 pixels, expected 0 or more"):
        Augmentation(padding=-1)
    with pytest.raises(BadInput, match="cutout is -2 pixels, expected 0 or more"):
        Augmentation(cutout=-2)
    with pytest.raises(BadInput, match="images are 4 x 4 pixels, the network's input 5 x 4"):
        augment(images, Augmentation(), generator(0), size=(5, 4))
    with pytest.raises(BadInput, match="images are 4 x 4 pixels, the network's input 4 x 5"):
        centre_crop(images, (4, 5))
