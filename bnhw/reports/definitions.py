"""What every figure of a report means: its name, its unit, its definition. Tables and pages quote this table."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A figure as people read it; `unit` is empty for names and plain counts."""

    name: str
    unit: str = ""
    text: str


DEFINITIONS: Mapping[str, Definition] = {
    "macs_full": Definition(
        name="MACs, full",
        text="Multiply-accumulate operations of all convolutions for one image, taps on padding included.",
    ),
    "macs_trimmed": Definition(
        name="MACs",
        text="Multiply-accumulate operations of all convolutions for one image, only taps that lie inside the image.",
    ),
    "multipliers_per_image": Definition(
        name="multiplications", text="Multiplications for one image, in the array and behind it."
    ),
    "multipliers_in_array_per_image": Definition(
        name="multiplications in the array",
        text="Multiplications of convolutions for one image; a convolution with 1-bit weights has none.",
    ),
    "weight_bits": Definition(
        name="weights", unit="bits", text="Storage of all convolution weights, without padding to words."
    ),
    "constant_bits": Definition(
        name="constants",
        unit="bits",
        text="Storage of requantise constants, thresholds, lookup tables and maps of position classes, without padding "
        "to words.",
    ),
    "peak_activation_bits": Definition(
        name="live activations",
        unit="bits",
        text="Tensors that must be in memory at once, operands, results and skip connections included; in total, the "
        "most over all instructions. Independent of the engine's word sizes.",
    ),
    "cycles_total": Definition(
        name="cycles", text="Clock cycles for one image, all causes together; steps do not overlap."
    ),
    "compute": Definition(name="compute", unit="cycles", text="Cycles in which the array works on a convolution."),
    "weight_load": Definition(
        name="weight load",
        unit="cycles",
        text="Cycles that wait for weights from outside, 0 while all are on chip; with weight-stationary dataflow also "
        "those that put words of weights into the array.",
    ),
    "activation_load": Definition(
        name="activation load",
        unit="cycles",
        text="Cycles that read tensors where the array does not work: steps without a convolution, and operands of "
        "additions and products that the array's own reads do not hide.",
    ),
    "writeback": Definition(name="writeback", unit="cycles", text="Cycles that wait for the write port."),
    "drain": Definition(
        name="drain", unit="cycles", text="Cycles that fetch a step's descriptor and empty the pipeline behind it."
    ),
    "stall": Definition(
        name="stall",
        unit="cycles",
        text="Cycles that wait for the post unit (more thresholds than comparators, more lookups than tables) or, with "
        "weight-stationary dataflow, for partial sums.",
    ),
    "utilisation": Definition(
        name="utilisation",
        unit="%",
        text="Real MACs over what the array could do in all cycles: MACs / (cycles x pe x simd).",
    ),
    "latency_us": Definition(
        name="latency", unit="us", text="Cycles for one image over the clock; transfers to and from the host left out."
    ),
    "images_per_second": Definition(
        name="images per second", text="The clock over the cycles for one image; one image after the other."
    ),
    "border_macs": Definition(
        name="MACs on padding", text="MACs of the array on taps outside the image: full minus real MACs."
    ),
    "repeated_macs": Definition(
        name="repeated MACs",
        text="MACs of the array in further passes over the same taps: activations wider than a lane, second phases of "
        "grouped convolutions with 1-bit weights.",
    ),
    "idle_macs": Definition(
        name="MACs of idle lanes",
        text="MACs that the array executes where there is no weight: channels that are not multiples of pe and simd, "
        "or lie outside a group.",
    ),
    "reads_bits": Definition(
        name="bits read", unit="bits", text="Bits that pass a memory's read ports for one image, whole words."
    ),
    "writes_bits": Definition(
        name="bits written", unit="bits", text="Bits that pass a memory's write port for one image, whole words."
    ),
    "energy_pj": Definition(
        name="energy",
        unit="pJ",
        text="Operations, bits moved and cycles times the technology's constants, for one image. The range spans the "
        "low and high ends of all constants together.",
    ),
    "tops_per_watt": Definition(
        name="TOPS/W", text="Two operations a real MAC, over the energy of the whole engine for one image."
    ),
    "post_share": Definition(
        name="energy of the post stage",
        unit="%",
        text="The energy of what comes behind the accumulators (batch norm or what is left of it, thresholds, lookups, "
        "additions, pools) over the energy of the whole engine, both nominal.",
    ),
    "multiplications_avoided": Definition(
        name="multiplications avoided",
        text="Baseline: the same network with weights of several bits (one multiplication for each product with a "
        "weight) and a batch norm or scale in each requantise or threshold step (one multiplication a number). Avoided "
        "is the share of it that the program does without.",
    ),
    "weight_memory_ratio": Definition(
        name="weight memory",
        text="Storage of the same weights with 8 bits each over the storage of the program's weights.",
    ),
    "operational_intensity": Definition(
        name="operations per bit",
        text="Two operations a real MAC over the bits that pass the ports of the activation and residual memories, "
        "read and written.",
    ),
    "macs_executed": Definition(
        name="MACs executed",
        text="What the array executes while it works, padding and idle lanes included: array cycles x pe x simd.",
    ),
    "multiply": Definition(name="multiplications", text="Products of two numbers, of any width."),
    "add": Definition(name="additions", text="Additions and subtractions, of any width."),
    "mux": Definition(
        name="multiplexers",
        text="Choices between x and -x by a 1-bit weight: what takes the place of a multiplication.",
    ),
    "xnor": Definition(name="XNOR", text="Products of a 1-bit weight and a 1-bit activation."),
    "popcount": Definition(name="popcount bits", text="Bits that are counted instead of added."),
    "shift": Definition(name="shifts", text="Shifts by a number of places that is not wired."),
    "compare": Definition(name="comparisons", text="Comparisons: clamps (two each), thresholds, maxima."),
    "lookup": Definition(name="lookups", text="Reads of a lookup table."),
}
"""By JSON key, or by kind of operation."""
