"""The format of a plan's table: flat int64 records, named by the positions of their fields.

The table starts with a header (`H_*`) and the position of each step's record. Steps before `H_OWN` run image by
image; from there on a group of images goes through every step together, so that weights are expanded once for all of
them. Every image of a group has a table of its own, `H_SIZE` long, which differs in the places of tensors only.

Addresses are byte offsets into the constants or into the arena of one thread. A tensor lies in the arena as blocks of
64 channels, each a padded plane of (rows, columns, 64) elements, the last block possibly 16 or 32 channels wide;
sixteen channels are a chunk. An element of one byte is `(code - bias) << shift`, of two or four the code itself
(bias and shift are 0).
"""

LANES = 16
"""Channels in a chunk, pixels in a tile."""
BLOCK = 64
"""Channels in a block, bytes of one pixel that a tile multiplication takes."""
PANEL_BYTES = 2048
"""Weights of one such step and two chunks, one byte each."""
TILE_BYTES = 1024
SLOT_BYTES = 4 * TILE_BYTES
"""Sums of two tiles of pixels and two chunks: a slot holds [tile][chunk][pixel][channel] int32."""
SLOTS = 5
SLACK_BYTES = 1 << 16
"""Behind the arena's tensors: tiles and patches read past the last pixel."""

H_STEPS, H_OWN, H_GROUP, H_SIZE = range(4)
"""Number of steps, the first that a group runs together, images of a group, numbers in one image's table."""
H_FIELDS = 4

# Every step starts with its kind.
(
    CONVOLVE,
    MAP,
    GATHER,
    SPLIT,
    IMAGE,
    LOOK_UP,
    COPY,
    POOL_SUM,
    POOL_MAXIMUM,
    OUTPUT,
    PRODUCT,
    PACK,
    TRANSFORM,
    TABULATE,
) = range(14)

# A tensor.
T_BASE, T_SIZE, T_BIAS, T_SHIFT, T_ROW, T_ORIGIN, T_BLOCKS, T_PLANE, T_LAST, T_HEIGHT, T_WIDTH, T_CHANNELS = range(12)
"""Arena offset; bytes of an element; bias and shift; pixels of a padded row; pixel of the first code; whole blocks;
bytes of one block's plane; channels of the last, narrower block; height, width and channels."""
T_FIELDS = 12

# CONVOLVE
(
    C_KIND,
    C_SOURCE,  # arena offset
    C_PITCH,  # pixels between those of a tile
    C_STEPS,  # tile multiplications of one sum
    C_TAPS,  # table: (byte offset, bytes of a pixel, rows of weights) of each step
    C_TAPS_STRIDE,  # from one pair of chunks to the next, 0 where they share the taps
    C_STAGES,  # table: (first step, end, whether the sums are shifted by 8 bits before)
    C_STAGE_COUNT,
    C_WEIGHTS,  # constants
    C_BINARY,  # `WEIGHT_*`
    C_STARTS,  # constants: int32 [planes][chunks][16], what sums start from
    C_CHUNKS,
    C_TILES,  # table: (pixel, row, column, pixels that count) of each tile
    C_TILE_COUNT,  # even
    C_GROUP,  # tiles whose sums stay in the cache
    C_TAIL,  # table
    C_TAIL_COUNT,
    C_WIDTH,  # of the result
    C_PLANES,  # of bytes, or of bits where bits are counted
    C_CLASSES,  # constants: int64 of each pixel of the result, bytes in C_STARTS, then [classes][chunks][16]
) = range(20)
C_FIELDS = 20
WEIGHT_BYTES, WEIGHT_BITS, WEIGHT_WORDS, WEIGHT_WORDS_BIPOLAR, WEIGHT_CHANNELS, WEIGHT_FEW, WEIGHT_FEW_SIGNS = range(7)
"""How weights lie: int8; a bit each in the order of tiles; a word of 64 or 32 channels for each output, whose bits are
counted with planes of packed codes, or with packed bipolar codes; int32 [pairs of chunks][steps][32], each for one
channel; int8 [chunks][steps][4][16][4], each chunk's for sixteen channels of its own, any or only -1, 0 and 1."""
STEP_CHANNELS_BYTES = 128
"""Weights of one step and two chunks, each for one channel."""
FEW_QUADS, FEW_BYTES = 4, 256
"""Weights of one step and one chunk, for sixteen channels: fours of channels, and bytes."""
STEP_WORDS_BYTES = 256
"""Weights of one step and two chunks, a bit each."""
TILE_FIELDS = 4

# TRANSFORM: a 3x3 convolution by patches, see `bnhw.kernels.fused.winograd`.
(
    N_KIND,
    N_FROM,  # T of the source
    N_SEGMENTS,  # table: `SEGMENT_FIELDS` of each segment
    N_SEGMENT_COUNT,
    N_PATCHES,  # of an image
    N_PORTION,  # segments whose transformed patches stay in the second cache
    N_GROUP,  # segments whose sums do
    N_CHANNELS,  # of the source, with those that fill its last block up
    N_WEIGHTS,  # constants
    N_BINARY,  # `WEIGHT_BITS` or `WEIGHT_BYTES`
    N_STARTS,  # constants: int32 [chunks][16], what sums start from
    N_CHUNKS,
    N_TAIL,  # table
    N_TAIL_COUNT,
    N_WIDTH,  # of the result
) = range(15)
N_FIELDS = 15
E_PIXEL, E_FIRST, E_PATCHES, E_ROW, E_TILES, E_TILE_COUNT = range(6)
"""A segment is up to four patches side by side: pixel of the first one's first tap, number of the first patch, patches,
pixels between its rows in a slot, table of its tiles as of a convolution, and how many, an even number."""
SEGMENT_FIELDS = 6
POSITIONS = 36
"""Of a transformed patch."""
PATCH_BYTES = POSITIONS * 2 * 64
"""Sums of a patch and two chunks: [position][chunk][channel] int32."""
GROUP_PATCHES = 64
"""Most patches of a group; multiplications may write the sums of three more."""
FILTER_PADDING, PATCHES_PADDING = 128, 64
"""Bytes between the positions of transformed weights, and of patches, so that they fall into different sets."""
SIGNS_BYTES, TAPS_BYTES = 9 * 8, 9 * 64
"""Weights of two channels and two chunks: of each tap a bit, or a byte, for every [chunk][output][channel]."""

# TABULATE: a convolution of weights of one bit by tables, see `bnhw.kernels.fused.tabulated`.
(
    U_KIND,
    U_FROM,  # T of the source
    U_GROUPS,  # table: (bytes from the source's first pixel, bytes of a pixel) of three pairs of channels of each group
    U_GROUP_COUNT,
    U_PLANES,  # of bytes, the highest first
    U_PLANE_BYTES,  # from one to the next
    U_CENTRE,  # taken from every code
    U_TABLE_GROUPS,  # whose tables are built at once
    U_TABLES_BYTES,  # from one group's tables to the next
    U_TAPS,
    U_OFFSETS,  # constants: int64 of each step, bytes from a pixel's table of the first group to that of the step
    U_STEPS,  # whose sums stay in 16 bits
    U_PITCH,  # bytes between the tables of neighbouring pixels of the result
    U_WEIGHTS,  # constants: six bits of 32 outputs by [run of table groups][run of steps][part][step][pair of chunks]
    U_PARTS,  # table: how many pairs of chunks look up together
    U_PART_COUNT,
    U_STARTS,  # constants: int32 [planes][pairs of chunks][32], what sums start from, or go on with
    U_PAIR_BYTES,  # from slots of one pair of chunks to the next
    U_IMAGES,  # of a group whose tables and sums stay in the second cache
    U_PORTIONS,  # table: `V_FIELDS` of each
    U_PORTION_COUNT,
    U_CHUNKS,
    U_TAIL,  # table
    U_TAIL_COUNT,
    U_WIDTH,  # of the result
) = range(25)
U_FIELDS = 25
GROUP_FIELDS = 6
"""Of three pairs of channels; those that do not exist have pixels of 0 bytes."""
V_PIXEL, V_PIXELS, V_QUADS, V_QUAD_COUNT, V_TILES, V_SLOTS = range(6)
"""A portion of an image: first pixel of the source and pixels whose tables are built, table of quads, how many (an even
number), table of tiles as of a convolution, and slots, each of two tiles."""
V_FIELDS = 6
Q_PIXEL, Q_SLOT = range(2)
"""Four pixels side by side: the first one's first tap, counted in the portion, and bytes of the slots to its sums."""
Q_FIELDS = 2
QUAD = 4
TABLE_BYTES = 128
"""Sums of six channels of a pixel, of 16 bits each."""
INDEX_BYTES = 64
"""Indices of 32 output channels, of 16 bits each."""
CELL_BYTES = 64
"""Of a pair of centres, which stands for channels that do not exist."""
MOST_STEPS, MOST_PAIRS = 42, 5
INDICES_BYTES = MOST_STEPS * MOST_PAIRS * INDEX_BYTES
"""Of steps whose sums stay in 16 bits, and pairs of chunks that look up together."""

# MAP: the tail alone; the first operation loads.
M_KIND, M_CHUNKS, M_TILES, M_TILE_COUNT, M_TAIL, M_TAIL_COUNT, M_WIDTH = range(7)
M_FIELDS = 7

# Operations of a tail.
O_KIND, O_FROM, O_TO, O_CONSTANTS, O_TENSOR, O_CLASSES, O_STRIDE, O_LEVELS = range(8)
"""Kind; slots read and written; constants; tensor; offset of the int64 class of each pixel (-1: one class); bytes from
one class to the next; levels of a threshold, the counter of an addition, or low bits that a requantise step multiplies
apart."""
O_FIELDS = 8
LOAD, STORE, REQUANTISE, REQUANTISE_WIDE, THRESHOLD, ADD, REQUANTISE_STORE, RESIDUAL, SHIFT_STORE = range(9)
"""The last three are several in one pass over both tiles. `REQUANTISE_STORE` writes a tensor of 1 or 2 bytes.
`RESIDUAL` requantises, adds a tensor of 2 bytes, stores the saturated sum in another (if any), requantises again and
stores codes of 1 byte; counters as for `ADD`. `SHIFT_STORE` writes a tensor of 1 byte, min(max((sum + offset) >> shift,
low), high), where `O_LEVELS` is high + 256 * low; constants as for `REQUANTISE_STORE`."""
O_SUM, O_CODES, O_LOW_BITS = O_CLASSES, O_STRIDE, O_TO
"""Of `RESIDUAL`: the tensors of the sum (-1: none) and of the codes, and the low bits of its first requantise step."""
RESIDUAL_BYTES = 2 * 5 * 64 + 2 * 64
"""Of a chunk: as `REQUANTISE_BYTES`, `ADD_BYTES`, and again `REQUANTISE_BYTES`."""
REQUANTISE_BYTES = 5 * 64
"""Of a chunk: lowest and highest sum, multiplier, offset, shift; int32."""
REQUANTISE_WIDE_BYTES = 64 + 128 + 128 + 64 + 64
"""Of a chunk: multiplier int32, offset int64, shift int64, lowest and highest code int32."""
ADD_BYTES = 2 * 64
"""Of a chunk: lowest and highest sum; int32."""

# GATHER: 64-byte pieces of a tensor in the order that tiles read them.
G_KIND, G_PIECES, G_COUNT = range(3)
"""Table: (source, target, rows, bytes from row to row, columns, bytes from column to column) of each piece."""
G_FIELDS = 3
PIECE_FIELDS = 6

# SPLIT: codes of more than 8 bits as planes of 8; T of source, T of the lowest plane, bytes of a plane, planes, bias
S_KIND, S_FROM, S_TO, S_PLANES, S_PLANE_BYTES, S_BIAS = range(6)
S_FIELDS = 6

# PACK: bytes of a tensor as bits, one word of each plane for 64 channels of each pixel, borders included
K_KIND, K_FROM, K_TO, K_PLANES, K_FIRST = range(5)
"""T of the source; arena offset of [block][pixel][plane] uint64; planes; the bit of a byte that is the first plane."""
K_FIELDS = 5

# IMAGE: the next image into a tensor. OUTPUT: a tensor of one pixel into the logits.
I_KIND, I_TENSOR = range(2)
I_FIELDS = 2

# LOOK_UP
L_KIND, L_FROM, L_TO, L_CONSTANTS, L_ENTRIES, L_ROWS = range(6)
"""Constants: int32 (rows, entries); rows is 1 or the channels."""
L_FIELDS = 6

# COPY: channels of one tensor into another, from channel `Y_FIRST` on; a source of -1 fills them with `Y_CODE`.
Y_KIND, Y_FROM, Y_TO, Y_FIRST, Y_COUNT, Y_CODE = range(6)
Y_FIELDS = 6

# POOL_SUM, POOL_MAXIMUM
(P_KIND, P_FROM, P_TO, P_HEIGHT, P_WIDTH, P_DOWN, P_ACROSS, P_TOP, P_LEFT, P_ZERO) = range(10)
P_FIELDS = 10

# PRODUCT: T of a value, T of its gate, of the same shape or of one pixel, T of the result; both zero points.
X_KIND, X_FROM, X_GATE, X_TO, X_ZERO, X_GATE_ZERO = range(6)
