"""What an engine executes: steps, each one descriptor, with everything that the descriptor says. See docs/engine.md."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from bnhw.dtypes import Array
from bnhw.hardware.arch import Arch
from bnhw.hardware.trace import MemoryKind
from bnhw.ops import Window
from bnhw.program import Program


class MainKind(Enum):
    """What the array or the lanes do in a step."""

    CONVOLVE = "convolve"
    SUM = "sum"
    MAXIMUM = "maximum"
    MULTIPLY = "multiply"


class PostKind(Enum):
    """What the post unit does with each sum."""

    NONE = "none"
    ARITHMETIC = "arithmetic"
    THRESHOLD = "threshold"
    LOOKUP = "lookup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor of (height, width, channels) lies, from word `base` on; it takes `size` words.

    A pixel takes `pixel_words` addresses a plane: blocks of pe channels in the residual memory, words of simd channels
    in the activation memory. The stored number of a code is code - low, in `planes` planes of `lane_bits` bits.
    """

    tensor: str
    memory: MemoryKind
    base: int
    shape: tuple[int, int, int]
    bits: int
    low: int
    bipolar: bool
    lane_bits: int
    planes: int
    blocks: int
    pixel_words: int

    @property
    def size(self) -> int:
        """Words of the whole tensor."""
        return self.shape[0] * self.shape[1] * self.pixel_words * self.planes


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A tensor that a step reads. On lanes, a stored number u has the value u - offset.

    first_block: block k of the result reads block k - first_block of this tensor; outside it, the value is 0.
    one_pixel: the same single pixel serves all pixels of the result.
    """

    place: Place
    offset: int = 0
    first_block: int = 0
    one_pixel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWords:
    """The words of the input that one block of output channels reads: `words` from `first` on."""

    first: int
    words: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolveUnit:
    """The array's part of a step.

    instruction: output of the program's `Convolve`, whose weights these are. blocks: by output block. phases: 1 or 2.
    padding: the input of a padded tap as a stored number. doubled: the array's input is twice the stored bit, and 1
    at padded taps (bipolar codes). zero_padding: a padded tap adds nothing at all (bipolar codes on xnor).
    base: first word in the weight memory.
    """

    instruction: str
    groups: int
    blocks: tuple[BlockWords, ...]
    phases: int
    padding: int
    doubled: bool
    zero_padding: bool
    base: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArithmeticUnit:
    """q = clamp((raw * M + B) >> S, low, high), M, B, S int64 (classes, channels or 1), raw folded into them.

    base, class_stride, block_stride: words in the constant memory. position_classes: int64 (height, width) or None;
    classes_base: its first word in the class memory.
    """

    multiplier: Array
    offset: Array
    shift: Array
    low: int
    high: int
    base: int
    class_stride: int
    block_stride: int
    position_classes: Array | None
    classes_base: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ThresholdUnit:
    """q = low + number of levels that agree: raw >= T, or raw <= T in a falling channel.

    thresholds: int64 (classes, channels or 1, levels), raw folded into them, clipped to one beyond what an accumulator
    holds. falling: int64 (channels or 1,). A word of the threshold memory holds `comparators` levels of pe channels;
    class_stride, block_stride count such words. position_classes as in `ArithmeticUnit`.
    """

    thresholds: Array
    falling: Array
    low: int
    base: int
    class_stride: int
    block_stride: int
    position_classes: Array | None
    classes_base: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LookUpUnit:
    """q = table[channel or 0][u]; table int64 (channels or 1, entries), row after row from word `base` on."""

    table: Array
    base: int


PostUnit = ArithmeticUnit | ThresholdUnit | LookUpUnit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddUnit:
    """q = clamp(q + b, low, high); clamped sums are counted for the instruction."""

    instruction: str
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One descriptor. name: the tensor written; instructions: outputs of those fused, in order.

    source: operand a, of main. second: operand b, of MULTIPLY or of `add`. window: over the image; 1x1 with stride 1
    where there is none. result: written from block first_block on, `blocks` blocks, `channels` channels; the stored
    number is q - write_offset. rows, columns: output pixels.
    """

    name: str
    instructions: tuple[str, ...]
    main: MainKind
    post_kind: PostKind
    source: Operand
    second: Operand | None
    window: Window
    convolve: ConvolveUnit | None
    post: PostUnit
    add: AddUnit | None
    result: Place
    write_offset: int
    first_block: int
    blocks: int
    channels: int
    rows: int
    columns: int

    @property
    def position_classes(self) -> Array | None:
        """The row of constants of each output pixel, or None where one serves all."""
        return self.post.position_classes if isinstance(self.post, ArithmeticUnit | ThresholdUnit) else None

    @property
    def pixels(self) -> int:
        """Output pixels."""
        return self.rows * self.columns

    @property
    def taps(self) -> int:
        """Taps of the window."""
        return self.window.kernel[0] * self.window.kernel[1]

    @property
    def block_table(self) -> bool:
        """Whether blocks read different words, each told by a word behind the descriptor."""
        whole = BlockWords(first=0, words=self.source.place.pixel_words)
        return self.convolve is not None and any(block != whole for block in self.convolve.blocks)

    @property
    def descriptor_words(self) -> int:
        """Words of the descriptor memory that the step takes: its descriptor and the block table."""
        return 1 + (self.blocks if self.block_table else 0)

    def lanes(self, block: int, pe: int) -> int:
        """Channels of an output block (0 is the step's first)."""
        return min(pe, self.channels - block * pe)


@dataclass(frozen=True, kw_only=True, eq=False)
class EngineProgram:
    """A program as an engine executes it. required_words: of each memory; images refuse where there are fewer."""

    program: Program
    arch: Arch
    steps: tuple[Step, ...]
    places: Mapping[str, Place]
    required_words: Mapping[MemoryKind, int]
