"""The published figures that the energy model is held against, each with the trace that stands for the chip's work.

Where a figure is quoted in TOPS/W, one MAC is two operations.
"""

from dataclasses import dataclass
from enum import Enum

from bnhw.count import Action, ActionKind
from bnhw.hardware.energy import Group
from bnhw.hardware.trace import Cycles, MemoryKind, MemoryShape, StepTrace, Trace

BINAREYE_ACC_BITS = 12
"""A sum of 1024 products of +1 and -1."""


class Figure(Enum):
    """What a published figure is given in."""

    FJ_PER_MAC = "fJ/MAC"
    UJ_PER_FRAME = "uJ/frame"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationPoint:
    """One published figure and how the model computes its counterpart.

    covers: the groups that are compared. published_covers: what the figure says it is of. held_out: not looked at when
    the constants were chosen. must_warn: the model is known to be wrong there, so that instead of a band a warning is
    asked for. accepted: lowest and highest value of the model, half and twice the published figure if not given.
    logic_factor: a saving that a chip claims on adders and multiplexers.
    """

    name: str
    technology: str
    voltage_v: float
    trace: Trace
    figure: Figure
    published: float
    source: str
    published_covers: str
    covers: tuple[Group, ...] = (Group.CORE,)
    held_out: bool = False
    must_warn: bool = False
    accepted: tuple[float, float] | None = None
    logic_factor: float = 1.0

    @property
    def band(self) -> tuple[float, float]:
        """Lowest and highest accepted value of the model."""
        return self.accepted or (self.published / 2, self.published * 2)


def _peak(name: str, datapath: str, *, act_bits: int, macs: int) -> Trace:
    """One cycle of a full array: nothing but MACs."""
    step = _step(name, macs=macs)
    return _trace(name, (step,), {}, datapath=datapath, act_bits=act_bits)


def _step(
    name: str,
    *,
    macs: int,
    comparisons: int = 0,
    reads: dict[MemoryKind, int] | None = None,
    writes: dict[MemoryKind, int] | None = None,
) -> StepTrace:
    compare = Action(kind=ActionKind.COMPARE, widths=(BINAREYE_ACC_BITS,))
    actions = {compare: comparisons} if comparisons else {}
    return StepTrace(
        name=name,
        kind="convolve",
        instructions=(name,),
        cycles=Cycles(),
        actions=actions,
        post_actions=actions,
        macs_full=macs,
        macs_trimmed=macs,
        macs_executed=macs,
        reads_bits=reads or {},
        writes_bits=writes or {},
    )


def _trace(
    name: str, steps: tuple[StepTrace, ...], memories: dict[MemoryKind, MemoryShape], *, datapath: str, act_bits: int
) -> Trace:
    return Trace(
        model=name,
        arch=name,
        steps=steps,
        memories=memories,
        datapath=datapath,
        act_bits=act_bits,
        weight_bits=1,
        acc_bits=BINAREYE_ACC_BITS,
        pe=1,
        simd=1,
        clock_mhz=1.0,
    )


def _per_mac(tera_operations_per_joule: float) -> float:
    """FJ a MAC of two operations."""
    return 2e3 / tera_operations_per_joule


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer of 1-bit weights without padding: `kernel` x `kernel`, square output of `side`."""

    kernel: int
    inputs: int
    outputs: int
    side: int

    @property
    def macs(self) -> int:
        """For one frame."""
        return self.weight_bits * self.side**2

    @property
    def weight_bits(self) -> int:
        """One a weight."""
        return self.kernel**2 * self.inputs * self.outputs


BINAREYE_LAYERS = (
    *(Layer(kernel=2, inputs=256, outputs=256, side=side) for side in (31, 30, 29, 28, 13, 12, 5, 4)),
    Layer(kernel=1, inputs=4096, outputs=10, side=1),
)
"""The CIFAR-10 network of BinarEye; maxima over 2 x 2 pixels stand behind the outputs of 28 and 12."""

BINAREYE_INPUT_SIDES = (32, 31, 30, 29, 14, 13, 6, 5, 4)
"""Side of what each layer reads, 256 channels of one bit."""


def _binareye_frame() -> Trace:
    """Each weight is read once a frame (it stays at its neuron), each activation is written once and read once."""
    word = 256
    memories = {
        MemoryKind.WEIGHTS: MemoryShape(
            capacity_bits=sum(layer.weight_bits for layer in BINAREYE_LAYERS), port_bits=word
        ),
        MemoryKind.ACTIVATIONS: MemoryShape(capacity_bits=2 * 32 * 32 * word, port_bits=word, banks=2),
    }
    steps = tuple(
        _step(
            f"layer {number}",
            macs=layer.macs,
            comparisons=layer.side**2 * layer.outputs,
            reads={MemoryKind.WEIGHTS: layer.weight_bits, MemoryKind.ACTIVATIONS: side**2 * word},
            writes={MemoryKind.ACTIVATIONS: side**2 * word},
        )
        for number, (layer, side) in enumerate(zip(BINAREYE_LAYERS, BINAREYE_INPUT_SIDES, strict=True), start=1)
    )
    return _trace("BinarEye", steps, memories, datapath="xnor", act_bits=1)


YODANN_SOURCE = "arXiv 1606.05487 and ISVLSI 2016, abstracts; 12-bit activations (Q2.9) recalled, not read again"
YODANN = _peak("YodaNN", "mux", act_bits=12, macs=32 * 7 * 7)
UNPU_SOURCE = "JSSC 2019, abstract: 50.6 TOPS/W at 0.63 V"
UNPU = _peak("UNPU", "mux", act_bits=16, macs=1)
BINAREYE_SOURCE = "arXiv 1804.05554, abstract; 0.66 V recalled, not certain"

VALIDATION_POINTS = (
    ValidationPoint(
        name="YodaNN at 1.2 V",
        technology="65nm",
        voltage_v=1.2,
        trace=YODANN,
        figure=Figure.FJ_PER_MAC,
        published=2e6 * 153e-3 / 1510,  # 153 mW at 1510 billion operations a second
        source=YODANN_SOURCE,
        published_covers="core at peak throughput",
    ),
    ValidationPoint(
        name="YodaNN at 0.6 V",
        technology="65nm",
        voltage_v=0.6,
        trace=YODANN,
        figure=Figure.FJ_PER_MAC,
        published=_per_mac(61.2),
        source=YODANN_SOURCE,
        published_covers="core at peak throughput",
        held_out=True,
    ),
    ValidationPoint(
        name="UNPU, 1-bit weights",
        technology="65nm",
        voltage_v=0.63,
        trace=UNPU,
        figure=Figure.FJ_PER_MAC,
        published=_per_mac(50.6),
        source=UNPU_SOURCE,
        published_covers="peak throughput",
    ),
    ValidationPoint(
        name="UNPU, its lookup tables counted",
        technology="65nm",
        voltage_v=0.63,
        trace=UNPU,
        figure=Figure.FJ_PER_MAC,
        published=_per_mac(50.6),
        source=f"{UNPU_SOURCE}; its tables save 53.6 % at 1-bit weights, here of adders and multiplexers",
        published_covers="peak throughput",
        logic_factor=1 - 0.536,
    ),
    ValidationPoint(
        name="BinarEye, core",
        technology="28nm",
        voltage_v=0.66,
        trace=_peak("BinarEye", "xnor", act_bits=1, macs=64 * 2 * 2 * 256),
        figure=Figure.FJ_PER_MAC,
        published=_per_mac(230),
        source=BINAREYE_SOURCE,
        published_covers="core at peak throughput",
    ),
    ValidationPoint(
        name="BinarEye, CIFAR-10 frame",
        technology="28nm",
        voltage_v=0.66,
        trace=_binareye_frame(),
        figure=Figure.UJ_PER_FRAME,
        published=14.4,
        accepted=(7.2, 29.0),
        source=f"{BINAREYE_SOURCE}; network: BertMoons/BinarEye, CIFAR10/cifar10.py",
        published_covers="whole chip, also control and leakage, which are not compared",
        covers=(Group.CORE, Group.ON_CHIP_MEMORIES),
    ),
    ValidationPoint(
        name="XNORBIN at 0.8 V",
        technology="65nm",
        voltage_v=0.8,
        trace=_peak("XNORBIN", "xnor", act_bits=1, macs=1),
        figure=Figure.FJ_PER_MAC,
        published=_per_mac(95),
        source="arXiv 1803.05849, abstract: 95 TOPS/W",
        published_covers="accelerator",
        held_out=True,
    ),
    ValidationPoint(
        name="ChewBaccaNN at 0.4 V",
        technology="22nm",
        voltage_v=0.4,
        trace=_peak("ChewBaccaNN", "xnor", act_bits=1, macs=16 * 7 * 7),
        figure=Figure.FJ_PER_MAC,
        published=_per_mac(223),
        source="arXiv 2005.07137, abstract: 223 TOPS/W",
        published_covers="accelerator with its memories",
        must_warn=True,
    ),
    ValidationPoint(
        name="XNE at 0.4 V",
        technology="22nm",
        voltage_v=0.4,
        trace=_peak("XNE", "xnor", act_bits=1, macs=128),
        figure=Figure.FJ_PER_MAC,
        published=2 * 21.6,
        source="arXiv 1807.03010, abstract: 21.6 fJ an operation",
        published_covers="microcontroller system with its memories",
        must_warn=True,
    ),
)
"""All of them, in the order of the table."""
