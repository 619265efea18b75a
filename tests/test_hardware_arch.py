"""Descriptions of engines: what is read, what is refused and how, what hardware follows."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

import bnhw.hardware
from bnhw.count import Action, ActionKind
from bnhw.errors import BadInput
from bnhw.hardware.arch import Dataflow, Datapath, Dram, Post, instances
from bnhw.hardware.arch_file import load_arch, parse_arch, shipped_archs
from bnhw.hardware.arch_rules import ON_CHIP, PARAMETERS
from bnhw.hardware.trace import MemoryKind

FOLDER = Path(bnhw.hardware.__file__).parent / "archs"
TEXT = (FOLDER / "engine-16x64.toml").read_text()


def changed(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new)


@pytest.mark.parametrize("name", shipped_archs())
@pytest.mark.parametrize("datapath", [d.value for d in Datapath])
@pytest.mark.parametrize("post", [p.value for p in Post])
@pytest.mark.parametrize("dataflow", [d.value for d in Dataflow])
def test_every_shipped_engine_takes_every_datapath_post_and_dataflow(
    name: str, datapath: str, post: str, dataflow: str
) -> None:
    arch = load_arch(name).with_options(datapath=datapath, post=post, dataflow=dataflow)
    assert (arch.datapath.value, arch.post.value, arch.dataflow.value) == (datapath, post, dataflow)


def test_shipped_engines_are_what_their_names_say() -> None:
    sizes = {name: (arch.pe, arch.simd) for name in shipped_archs() if (arch := load_arch(name))}
    assert sizes == {"engine-16x64": (16, 64), "engine-16x64-mul8": (16, 64), "engine-64x1024": (64, 1024)}
    assert load_arch("engine-16x64-mul8").weight_bits == 8
    assert load_arch("engine-64x1024").datapath is Datapath.XNOR


@pytest.mark.parametrize("name", shipped_archs())
def test_values_hold_all_of_the_file_and_make_the_same_engine(name: str) -> None:
    arch = load_arch(name)
    values = arch.values()
    written = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    assert {key: values[key] for key in written if key != "memories"} == {
        key: value for key, value in written.items() if key != "memories"
    }
    assert set(values) == {*PARAMETERS, "description", "memories", "dram"}
    assert arch.with_options() == arch


def test_a_file_is_read_like_a_shipped_engine(tmp_path: Path) -> None:
    path = tmp_path / "engine-16x64.toml"
    path.write_text(TEXT)
    assert load_arch(path) == load_arch("engine-16x64")


def test_every_problem_is_listed_at_once() -> None:
    text = changed("pe = 16", "pe = 0").replace('"mux"', '"muxx"').replace("act_bits = 8", "actbits = 8")
    text = text.replace("clock_mhz = 200", "clock_mhz = nan").replace("weights = { words = 8192 }", "weights = 5")
    text = text.replace("residuals = { words = 16384 }", "residual = { words = 1 }").replace(
        "overlap = true", "overlap = 1"
    )
    with pytest.raises(BadInput) as caught:
        parse_arch(text, "broken")
    message = str(caught.value)
    for line in (
        "engine 'broken' cannot be built",
        "actbits is no parameter; did you mean 'act_bits'?",
        "act_bits is missing; an integer of 1 to 16 is allowed",
        "pe is 0; an integer of 1 to 4096 is allowed",
        "datapath is 'muxx'; one of 'mux', 'and', 'xnor', 'mul' is allowed; did you mean 'mux'?",
        "clock_mhz is nan; a number of 0.001 to 10000 is allowed",
        "memories.residual is no parameter; did you mean 'residuals'?",
        "memories.residuals is missing",
        "memories.weights is 5; a table with words is expected",
        "dram.overlap is 1; true or false is allowed",
    ):
        assert line in message
    assert message.count("\n  - ") == 9


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("simd = 64", "simd = 40", "pe = 16 and simd = 40 do not go together: simd is a multiple of pe"),
        ("lookups = 4", "lookups = 3", "lookups divides pe"),
        ("act_bits = 8", "act_bits = 1", "act_bits is 1 with xnor and at least 2"),
        ("weight_bits = 1", "weight_bits = 4", "weight_bits is 2 to 8 with mul and 1 with other datapaths"),
        ("csd_digits = 4", "csd_digits = 0", "csd_digits is 1 to 8 with post csd and 0 with others"),
        ("pe = 16", "pe = 16.0", "pe is 16.0; an integer"),
        ("pe = 16", "pe = true", "pe is True; an integer"),
        ("pe = 16", "pe = 99999999999999999999", "pe is 99999999999999999999"),
        ("thresholds = { words = 1024 }", "", "memories.thresholds is missing"),
        ("lookups = { words = 4096 }", "", "memories.lookups is missing"),
        ("weights = { words = 8192 }", "weights = { words = 8192, read_ports = 2 }", "only the residual memory"),
        ("weights = { words = 8192 }", "weights = { words = 1e9 }", "memories.weights.words is 1000000000.0"),
        ("weights = { words = 8192 }", "weights = { word = 3 }", "memories.weights.word is no parameter; did you mean"),
        ("bits_per_cycle = 64", "bits = 64", "dram.bits is no parameter; known are bits_per_cycle, overlap"),
        ("bits_per_cycle = 64", "", "dram.bits_per_cycle is None; an integer of 1 to 65536"),
        ("[memories]", "[memory]", "memory is no parameter; did you mean 'memories'?"),
        ("[dram]", "[dram", "no TOML"),
        ('description = "edge', 'description = 5 #"', "description is 5; a text is allowed"),
    ],
)
def test_refusal_names_field_value_and_what_is_allowed(old: str, new: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_arch(changed(old, new), "broken")
    assert message in str(caught.value)


def test_unknown_engine_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no such file.*engine-16x64, engine-16x64-mul8, engine-64x1024"):
        load_arch(tmp_path / "engine-17x64")


def test_file_that_is_no_text_or_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read as text"):
        load_arch(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(BadInput, match="1048577 bytes, at most 1048576 are read"):
        load_arch(tmp_path / "b.toml")


def test_options_are_checked_like_a_file() -> None:
    with pytest.raises(BadInput, match=r"pee is no parameter; did you mean 'pe'\?\n.*simd is a multiple of pe"):
        load_arch("engine-16x64").with_options(pee=16, pe=7)
    with pytest.raises(BadInput, match="act_bits is 1 with xnor"):
        load_arch("engine-16x64").with_options(datapath="xnor", act_bits=4)
    with pytest.raises(BadInput, match="simd is a multiple of pe"):
        replace(load_arch("engine-16x64"), simd=65)


def test_option_of_a_memory_leaves_the_others() -> None:
    arch = load_arch("engine-16x64").with_options(memories={"weights": {"words": 5, "banks": 5}}, name="small")
    assert arch.name == "small"
    assert (arch.memories[MemoryKind.WEIGHTS].words, arch.memories[MemoryKind.RESIDUALS].words) == (5, 16384)


def test_an_option_changes_only_what_it_names() -> None:
    residuals = {"words": 20, "banks": 4, "read_ports": 2}
    arch = load_arch("engine-16x64").with_options(memories={"residuals": residuals})
    assert arch.with_options(memories={"residuals": {"words": 20}}) == arch
    fewer = arch.with_options(memories={"residuals": {"banks": 2}}).memories[MemoryKind.RESIDUALS]
    assert (fewer.words, fewer.banks, fewer.read_ports) == (20, 2, 2)
    wider = load_arch("engine-16x64:dram.bits_per_cycle=128").dram
    assert wider == Dram(bits_per_cycle=128, overlap=True)
    waiting = load_arch("engine-16x64:dram.overlap=false,memories.weights.words=7")
    assert waiting.dram == Dram(bits_per_cycle=64, overlap=False)
    assert waiting.memories[MemoryKind.WEIGHTS].words == 7
    assert arch.with_options(dram=None).dram is None


def test_names_longer_than_a_file_may_have_are_names() -> None:
    text = (
        "engine-16x64:" + ",".join(f"{name}.words={1000 + n}" for n, name in enumerate(ON_CHIP)) + ",pe=16" + " " * 99
    )
    assert len(text) > 255
    assert load_arch(text).memories[MemoryKind.WEIGHTS].words == 1000 + ON_CHIP.index("weights")
    with pytest.raises(BadInput, match=r"cannot be read|no such file"):
        load_arch("x" * 300)


def test_every_bank_has_a_word() -> None:
    with pytest.raises(BadInput, match=r"memories\.weights\.banks is 6, words 5; every bank has a word or more"):
        load_arch("engine-16x64:weights.words=5,weights.banks=6")
    load_arch("engine-16x64:weights.words=5,weights.banks=5")


def test_an_engine_with_other_parameters_is_written_behind_a_colon(tmp_path: Path) -> None:
    text = "engine-16x64:post=multiply, clock_mhz=250.5,weights.words=32768,weights.banks=2"
    changed = {"post": "multiply", "clock_mhz": 250.5, "memories": {"weights": {"words": 32768, "banks": 2}}}
    assert load_arch(text) == load_arch("engine-16x64").with_options(**changed, name=text)
    (tmp_path / "own.toml").write_text(TEXT)
    assert load_arch(f"{tmp_path / 'own.toml'}:pe=8").pe == 8
    (tmp_path / "odd:pe=8").write_text(TEXT)
    assert load_arch(tmp_path / "odd:pe=8").pe == 16, "a file of just this name is that file"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("pe=16,simd", "'simd' is no parameter; PARAMETER=VALUE is expected between commas"),
        ("pee=16", "pee is no parameter; did you mean 'pe'"),
        ("pe=8,pe=16", "pe is given twice; give it once"),
        ("name=foo", "name is no parameter; known are"),
        ("self=1", "self is no parameter"),
        ("memories=5", "memories is no parameter"),
        ("dram=5", "dram is no parameter"),
        ("dram.overlap=maybe", "dram.overlap is 'maybe'; true or false is allowed"),
        ("weights.words=99999999", "an integer of 1 to 16777216 is allowed"),
        ("post=cds", "did you mean 'csd'"),
        ("weight.words=5", "weight"),
    ],
)
def test_what_stands_behind_the_colon_is_checked(changes: str, message: str) -> None:
    with pytest.raises(BadInput, match=message.replace("'", ".")):
        load_arch(f"engine-16x64:{changes}")


def test_tables_nested_beyond_all_measure_are_no_engine() -> None:
    with pytest.raises(BadInput, match="no TOML"):
        parse_arch("a = " + "[" * 100_000, "deep")


def test_multiplexer_engine_has_no_multiplier_and_the_baseline_one_a_lane() -> None:
    def multipliers(name: str, **options: object) -> dict[tuple[int, ...], int]:
        found = instances(load_arch(name).with_options(**options))
        return {action.widths: n for action, n in found.items() if action.kind is ActionKind.MULTIPLY}

    assert multipliers("engine-16x64") == {}
    assert multipliers("engine-64x1024") == {}
    assert multipliers("engine-16x64-mul8") == {(8, 8): 1024, (32, 18): 16, (13, 13): 16}
    assert multipliers("engine-16x64", post="multiply") == {(32, 18): 16}


def test_instances_of_each_datapath() -> None:
    def number(kind: ActionKind, *widths: int, **options: object) -> int:
        return instances(load_arch("engine-16x64").with_options(**options)).get(Action(kind=kind, widths=widths), 0)

    assert number(ActionKind.MUX, 8) == 1024
    assert number(ActionKind.MUX, 8, datapath="and") == 1024
    assert number(ActionKind.XNOR, datapath="xnor") == number(ActionKind.POPCOUNT, datapath="xnor") == 1024
    assert number(ActionKind.COMPARE, 33) == 15 * 16
    assert number(ActionKind.LOOKUP) == 4
    assert number(ActionKind.ADD, 32, datapath="and") - number(ActionKind.ADD, 32) == 64
    assert number(ActionKind.ADD, 50, csd_digits=3) == 2 * 16 + 16
    assert number(ActionKind.SHIFT, 50, csd_digits=3) == 3 * 16 + 16


def test_memory_shapes_follow_from_the_parameters() -> None:
    shapes = load_arch("engine-16x64").memory_shapes
    activations = shapes[MemoryKind.ACTIVATIONS]
    assert (activations.port_bits, activations.banks, activations.capacity_bits) == (128, 4, 8192 * 512)
    assert shapes[MemoryKind.WEIGHTS].port_bits == 1024
    assert shapes[MemoryKind.LOOKUPS].capacity_bits == 4 * 4096 * 16
    assert shapes[MemoryKind.CONSTANTS].port_bits == 16 * (4 * (2 + 5) + 48 + 6)
    assert shapes[MemoryKind.THRESHOLDS].port_bits == 16 * (15 * 33 + 1)
