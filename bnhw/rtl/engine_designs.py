"""What is synthesised of an engine: one processing element's parts, or all of it but its memories."""

from collections.abc import Mapping

from bnhw.hardware.arch import Arch, Datapath, Post
from bnhw.hardware.arch_file import load_arch
from bnhw.rtl.area import Target
from bnhw.rtl.build import source_files, verilog_folder
from bnhw.rtl.designs import Design
from bnhw.rtl.parameters import parameters

ENGINE_TARGETS = (Target.LIBERTY,)
"""Where whole engines are measured, which takes minutes each."""

ENGINE_GROUP = ("Whole engines without their memories", ("engine, mux8", "engine, mul8x8"))
"""The table of `small_engines`: title, names of designs."""


def part_designs(arch: Arch) -> tuple[Design, ...]:
    """One processing element's parts of an engine, every number an input. Raises ArchMismatch as `parameters` does."""
    values = parameters(arch)
    designs = [
        Design(
            name="dot",
            title=f"{arch.datapath.value}, sum of a cycle of {arch.simd} lanes",
            module="dot",
            parameters=_chosen(values, "DATAPATH", "SIMD", "ACT_BITS", "WEIGHT_BITS", "SUM_BITS"),
            multiplies=arch.datapath is Datapath.MUL,
        ),
        Design(
            name="post_arithmetic",
            title=f"{arch.post.value}, requantise with constants",
            module="post_arithmetic",
            parameters={
                **_chosen(values, "POST", "ACC_BITS", "OFFSET_BITS", "SHIFT_BITS", "MULTIPLIER_BITS", "RESULT_BITS"),
                "CSD_DIGITS": max(1, arch.csd_digits),
                "EXPONENTS": arch.multiplier_bits,
            },
            multiplies=arch.post is Post.MULTIPLY,
        ),
    ]
    if arch.comparators:
        comparisons = {
            "ACC_BITS": arch.threshold_bits,
            "COMPARATORS": arch.comparators,
            "COUNT_BITS": arch.comparators.bit_length(),
        }
        title = f"{arch.comparators} thresholds"
        designs.append(Design(name="post_threshold", title=title, module="post_threshold", parameters=comparisons))
    return tuple(designs)


def _chosen(values: Mapping[str, int], *names: str) -> dict[str, int]:
    return {name: values[name] for name in names}


def whole_engine(name: str, title: str, arch: Arch) -> Design:
    """All of an engine but its memories. Raises ArchMismatch as `parameters` does."""
    return Design(
        name=name,
        title=title,
        module="engine",
        parameters=parameters(arch),
        multiplies=Datapath.MUL is arch.datapath or arch.post is Post.MULTIPLY,
        sources=tuple(
            path.name
            for path in source_files(verilog_folder())
            if path.suffix != ".cpp" and path.stem not in ("engine", "testbench")
        ),
        black_boxes=("memory",),
        targets=ENGINE_TARGETS,
    )


def small_engines() -> tuple[Design, ...]:
    """The two shipped engines that differ in their multipliers alone, cut down to 4 x 16 and to arithmetic."""
    cut = {"pe": 4, "simd": 16, "comparators": 0, "lookups": 0, "product_bits": 0}
    mux, mul = ENGINE_GROUP[1]
    return (
        whole_engine(
            mux,
            "4 processing elements of 16 lanes, multiplexers and csd:4",
            load_arch("engine-16x64").with_options(**cut),
        ),
        whole_engine(
            mul,
            "the same with multipliers of 8-bit weights and multiply:18",
            load_arch("engine-16x64-mul8").with_options(**cut),
        ),
    )
