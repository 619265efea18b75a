"""What one MAC, one operation and one bit of a memory take, in fJ: the formulas of docs/energy.md, and nothing else."""

import math

from bnhw.count import Action, ActionKind
from bnhw.errors import BadInput
from bnhw.hardware.technology import Constants, SramCell
from bnhw.hardware.trace import MemoryKind, MemoryShape, Trace

REFERENCE_BYTES, REFERENCE_PORT_BITS = 8192, 64
"""The memory that `sram_fj_per_bit` speaks of."""

FITTED_BYTES, FITTED_PORT_BITS = 1 << 20, 256
"""The largest bank and the widest port among the memories that the exponents were fitted to."""

FJ_PER_PJ = 1000.0

Prices = Constants[float]


def mac_fj(prices: Prices, trace: Trace) -> float:
    """One place of the array for one cycle: select or multiply, add, clock.

    mux, xnor: E_FA (w + 1) + E_XOR w + n E_FF, with w bits of activation; the adder tree has w + 1 bits on average.
    and: the same with AND gates, and the sum of the inputs that all PEs share: E_FA (w + 1) (1 + 1 / pe).
    mul: the product of w and k bits, w + k bits wide in the same kind of tree, and k - 1 more clocked bits of weight.
    Raises BadInput for another datapath.
    """
    width = trace.act_bits
    adders = prices.full_adder_fj_per_bit * (width + 1)
    clocked = prices.flip_flop_fj_per_bit * prices.flip_flop_bits_per_mac
    match trace.datapath:
        case "mux" | "xnor":
            return adders + prices.select_fj_per_bit * width + clocked
        case "and":
            return adders * (1 + 1 / trace.pe) + prices.and_gate_fj_per_bit * width + clocked
        case "mul":
            product = prices.multiplier_fj_per_bit_product * width * trace.weight_bits
            weights = prices.flip_flop_fj_per_bit * (trace.weight_bits - 1)
            return product + prices.full_adder_fj_per_bit * (width + trace.weight_bits) + clocked + weights
    raise BadInput(f"datapath: found {trace.datapath!r}, expected mux, and, xnor or mul, which have a price")


def action_fj(prices: Prices, action: Action) -> float:
    """One operation outside the array.

    A barrel shifter is a multiplexer a bit and stage. A lookup has no logic: it is a read of the lookup memory.
    """
    widths = action.widths
    match action.kind:
        case ActionKind.ADD:
            return prices.full_adder_fj_per_bit * widths[0]
        case ActionKind.COMPARE:
            return prices.comparator_fj_per_bit * widths[0]
        case ActionKind.MULTIPLY:
            return prices.multiplier_fj_per_bit_product * widths[0] * widths[1]
        case ActionKind.SHIFT:
            return prices.select_fj_per_bit * widths[0] * (widths[0] - 1).bit_length()
        case ActionKind.MUX:
            return prices.select_fj_per_bit * widths[0]
        case ActionKind.XNOR:
            return prices.select_fj_per_bit
        case ActionKind.POPCOUNT:
            return 2 * prices.full_adder_fj_per_bit
        case ActionKind.LOOKUP:
            return 0.0


def dram_fj(prices: Prices) -> float:
    """A bit read from or written to DRAM, whatever its size."""
    return prices.dram_pj_per_bit * FJ_PER_PJ


def read_fj(prices: Prices, shape: MemoryShape) -> float:
    """A bit read on chip: A (bytes of a bank / 8 Ki)^0.5 (port bits / 64)^-0.35, at least a flip-flop's energy."""
    return max(_sram_fj(prices, shape), prices.flip_flop_fj_per_bit)


def write_fj(prices: Prices, shape: MemoryShape) -> float:
    """A bit written on chip: like a bit read, in SRAM times the write factor."""
    return max(_sram_fj(prices, shape) * prices.sram_write_factor, prices.flip_flop_fj_per_bit)


def _sram_fj(prices: Prices, shape: MemoryShape) -> float:
    capacity = math.pow(shape.bank_bytes / REFERENCE_BYTES, prices.sram_capacity_exponent)
    port = math.pow(shape.port_bits / REFERENCE_PORT_BITS, prices.sram_port_exponent)
    return prices.sram_fj_per_bit * capacity * port


def leakage_fj_per_cycle(prices: Prices, cell: SramCell, trace: Trace) -> float:
    """Leakage of all on-chip memories during one clock cycle."""
    kibibytes = sum(
        shape.capacity_bits / 8 / 1024 for kind, shape in trace.memories.items() if kind is not MemoryKind.DRAM
    )
    match cell:
        case SramCell.LOW_STANDBY_POWER:
            microwatts = prices.low_standby_power_leakage_uw_per_kib * kibibytes
        case SramCell.HIGH_PERFORMANCE:
            microwatts = prices.high_performance_leakage_uw_per_kib * kibibytes
    return microwatts / trace.clock_mhz * FJ_PER_PJ


def fit_warnings(trace: Trace) -> tuple[str, ...]:
    """On-chip memories in use that are larger or wider than those that the exponents were fitted to."""
    used = {kind for step in trace.steps for kind in (*step.reads_bits, *step.writes_bits)} - {MemoryKind.DRAM}
    shapes = {kind.value: shape for kind, shape in trace.memories.items() if kind in used}
    large = [f"{name} {s.bank_bytes / 1024:g}" for name, s in shapes.items() if s.bank_bytes > FITTED_BYTES]
    wide = [f"{name} {s.port_bits}" for name, s in shapes.items() if s.port_bits > FITTED_PORT_BITS]
    fitted = "the price of a bit was fitted up to"
    found = []
    if large:
        found.append(f"KiB a bank: {', '.join(large)}; {fitted} {FITTED_BYTES // 1024}")
    if wide:
        found.append(f"bits a port: {', '.join(wide)}; {fitted} {FITTED_PORT_BITS}")
    return tuple(found)
