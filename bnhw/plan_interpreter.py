"""What plans are made for: the abilities of an interpreter, and what it runs fastest."""

from dataclasses import dataclass

from bnhw.kernels.fused.fields import BLOCK
from bnhw.kernels.select import COUNTED_CHANNELS, TABULATED_PLANES, TRANSFORMED_PLANES, counted_planes, tabulates

ALL_STEPS = 1 << 30
MOST_IMAGES = 8
"""Of a group, see `bnhw.kernels.fused.fields`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """One of `bnhw.kernels.fused.run_*`; the defaults are what all of them can do.

    most_planes, word_channels: see `bnhw.plan_words.choose_words`.
    by_channel: whether it knows convolutions of one channel each, and of few; else these are multiplied with weights of
        0 for all others.
    stage_steps: most steps between which sums stay in registers or tiles.
    narrow_pixels: convolutions of at most so many pixels expand their weights once for several images.
    transforms: whether it knows Winograd's transforms.
    tabulates: whether it knows tables of sums, and they are fast.
    transformed_planes, tabulated_planes: most planes that are counted where it could do that.
    """

    most_planes: int = 0
    word_channels: int = BLOCK
    by_channel: bool = False
    stage_steps: int = 12
    narrow_pixels: int = 128
    transforms: bool = False
    transformed_planes: int = 0
    tabulates: bool = False
    tabulated_planes: int = 0


def interpreter_of(kernels: str) -> Interpreter:
    """The interpreter of one of `bnhw.kernels.select.FUSED_CHOICES`, on this machine.

    Without tiles, 12 steps' weights leave room in the first cache. Putting tiles down and taking them up again costs
    as much as four steps, so that sums stay in them to the end; measured on layers of 18 to 90 steps (Emerald Rapids).
    """
    planes, channels = counted_planes(kernels), COUNTED_CHANNELS[kernels]
    if kernels == "amx":
        return Interpreter(most_planes=planes, word_channels=channels, stage_steps=ALL_STEPS, narrow_pixels=256)
    return Interpreter(
        most_planes=planes,
        word_channels=channels,
        by_channel=True,
        transforms=True,
        transformed_planes=TRANSFORMED_PLANES[kernels],
        tabulates=tabulates(kernels),
        tabulated_planes=TABULATED_PLANES.get(kernels, 0),
    )
