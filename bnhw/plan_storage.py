"""Where a plan's tensors lie in the arena, and how their codes are stored.

The layout is that of `bnhw.kernels.fused.fields`. Borders and the channels that fill a block up hold the zero
point, for good: a place is shared only between tensors of the same form.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from bnhw.kernels.fused.fields import BLOCK, LANES, T_FIELDS
from bnhw.ops import Pads
from bnhw.program import Tensor

ALIGNMENT_BYTES = 64


class Area(Enum):
    """Parts of the arena: tensors and panels of gathered pixels, of all images or of each image of a group."""

    SHARED = "shared"
    SHARED_PANEL = "shared panel"
    OWN = "own"
    OWN_PANEL = "own panel"


def panel_of(area: Area) -> Area:
    """Where pixels are gathered that lie in an area."""
    return Area.OWN_PANEL if area is Area.OWN else Area.SHARED_PANEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a tensor is stored: whatever two tensors must have in common to share a place.

    size: bytes of an element. bias, shift: an element of one byte is (code - bias) << shift. fill: the element of
    borders, of each plane. pads: pixels around the image.
    """

    shape: tuple[int, int, int]
    size: int
    bias: int
    shift: int
    fill: tuple[int, ...]
    pads: Pads

    @property
    def blocks(self) -> tuple[int, int]:
        """Whole blocks of 64 channels, and the channels of the last one (0, 16 or 32)."""
        whole, rest = divmod(self.shape[2], BLOCK)
        if rest > 2 * LANES:
            return whole + 1, 0
        return whole, -(-rest // LANES) * LANES

    @property
    def row_pixels(self) -> int:
        """Pixels of a padded row."""
        return self.pads[1] + self.shape[1] + self.pads[3]

    @property
    def pixels(self) -> int:
        """Pixels of a padded plane."""
        return (self.pads[0] + self.shape[0] + self.pads[2]) * self.row_pixels

    @property
    def origin(self) -> int:
        """The first code's pixel."""
        return self.pads[0] * self.row_pixels + self.pads[1]

    @property
    def channels(self) -> int:
        """Channels of all blocks."""
        whole, last = self.blocks
        return whole * BLOCK + last

    @property
    def plane_bytes(self) -> int:
        """Bytes of all blocks of one plane of codes."""
        return self.pixels * self.channels * self.size

    @property
    def size_bytes(self) -> int:
        """Bytes of all planes."""
        return self.plane_bytes * len(self.fill)

    def block(self, number: int) -> tuple[int, int]:
        """(byte offset of a block, bytes of one of its pixels)."""
        whole, last = self.blocks
        pitch = (BLOCK if number < whole else last) * self.size
        return number * self.pixels * BLOCK * self.size, pitch


def code_form(tensor: Tensor, pads: Pads) -> Form:
    """The form of a tensor's codes, in the fewest bytes."""
    low, high = tensor.dtype.low, tensor.dtype.high
    if tensor.dtype.bits <= 8:
        bias = 0 if tensor.bipolar else low
        fill = 1 if tensor.bipolar else tensor.zero_point - bias
        return Form(shape=tensor.shape, size=1, bias=bias, shift=int(tensor.bipolar), fill=(fill,), pads=pads)
    size = 2 if low >= -(1 << 15) and high < 1 << 15 else 4
    return Form(shape=tensor.shape, size=size, bias=0, shift=0, fill=(tensor.zero_point,), pads=pads)


def planes_form(tensor: Tensor, pads: Pads) -> Form:
    """The form of codes of more than 8 bits for convolutions: planes of bytes of code - lowest, the lowest first."""
    zero = tensor.zero_point - tensor.dtype.low
    fill = tuple(zero >> at & 255 for at in range(0, tensor.dtype.bits, 8))
    return Form(shape=tensor.shape, size=1, bias=0, shift=0, fill=fill, pads=pads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A tensor's form and its offset in the arena."""

    form: Form
    offset: int

    def fields(self) -> list[int]:
        """The tensor's record in the table."""
        form = self.form
        whole, last = form.blocks
        height, width, channels = form.shape
        block_bytes = form.pixels * BLOCK * form.size
        record = [self.offset, form.size, form.bias, form.shift, form.row_pixels, form.origin]
        record += [whole, block_bytes, last, height, width, channels]
        assert len(record) == T_FIELDS
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """Bytes of the arena that hold one element before anything runs."""

    offset: int
    size_bytes: int
    element_bytes: int
    element: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """Places of tensors in an area, what they are filled with, and the bytes they take together."""

    places: Mapping[str, Place]
    fills: tuple[Fill, ...]
    size_bytes: int


def place_tensors(
    forms: Mapping[str, Form], uses: Sequence[tuple[Sequence[str], Sequence[str]]], *, share: bool = True
) -> Placing:
    """Give every tensor a place, one behind the other or where another lay.

    uses: of every step, the names it reads and writes; names without a form lie elsewhere. share: whether a place is
    given to another tensor after the last use of the one before.
    """
    last_use = {name: at for at, (reads, writes) in enumerate(uses) for name in (*writes, *reads)}
    free: dict[Form, list[int]] = defaultdict(list)
    places: dict[str, Place] = {}
    fills: list[Fill] = []
    end = 0
    for at, (reads, writes) in enumerate(uses):
        for name in writes:
            if name not in forms:
                continue
            form = forms[name]
            if free[form]:
                places[name] = Place(form=form, offset=free[form].pop())
                continue
            places[name] = Place(form=form, offset=end)
            fills += _fills(form, end)
            end += -(-form.size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        for name in dict.fromkeys((*reads, *writes)) if share else ():
            if last_use[name] == at and name in places:
                free[places[name].form].append(places[name].offset)
    return Placing(places=places, fills=tuple(fills), size_bytes=end)


def _fills(form: Form, offset: int) -> list[Fill]:
    size = form.plane_bytes
    return [
        Fill(offset=offset + at * size, size_bytes=size, element_bytes=form.size, element=element)
        for at, element in enumerate(form.fill)
    ]


def move_fills(fills: tuple[Fill, ...], start: int) -> list[Fill]:
    """The same so many bytes further on."""
    return [replace(fill, offset=fill.offset + start) for fill in fills]


def move_place(place: Place, start: int) -> Place:
    """The same so many bytes further on."""
    return replace(place, offset=place.offset + start)
