"""Technologies: the shipped ones, how constants scale, and every message about a file that is wrong."""

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnhw.errors import BadInput
from bnhw.hardware.technology import RULES, Constants, Level, SramCell, named, node_factor
from bnhw.hardware.technology_file import load_technology, parse_technology, shipped_technologies

SHIPPED = {"22nm": 22, "28nm": 28, "45nm": 45, "65nm": 65}
AT_45 = load_technology("45nm")

MINIMAL = """
name = "mine"
node_nm = 28
voltage_v = 0.9
nominal_voltage_v = 0.9
sram_cell = "high_performance"
source = "measured"
reference = "reference"
"""


def test_shipped_technologies_are_found_by_name_and_warn_of_nothing() -> None:
    assert shipped_technologies() == tuple(SHIPPED)
    for name, node in SHIPPED.items():
        technology = load_technology(name)
        assert (technology.name, technology.node_nm, technology.warnings) == (name, node, ())
        assert technology.sram_cell is SramCell.LOW_STANDBY_POWER


def test_every_constant_has_a_rule_and_a_unit_that_its_name_ends_in() -> None:
    assert list(RULES) == [field.name for field in fields(Constants)]
    endings = {"fJ/bit": "_fj_per_bit", "fJ/bit2": "_fj_per_bit_product", "pJ/bit": "_pj_per_bit"}
    endings |= {"uW/KiB": "_uw_per_kib", "bit/MAC": "_bits_per_mac"}
    for name, rule in RULES.items():
        assert rule.unit == "1" or name.endswith(endings[rule.unit])


def test_every_shipped_constant_has_its_source_and_the_reference_point() -> None:
    for _, constant in named(AT_45.constants):
        assert len(constant.source) > 20
        assert (constant.node_nm, constant.voltage_v) == (45, 0.9)


def test_at_the_reference_point_constants_are_as_written() -> None:
    for level in Level:
        for name, value in named(AT_45.scaled(level)):
            assert value == getattr(getattr(AT_45.constants, name), level.value)


def test_the_worked_example_of_stillmaker_and_baas() -> None:
    """65 nm at 1.3 V to 32 nm at 0.9 V, with the coefficients of the corrigendum: 0.1756."""
    factors = {factor.node_nm: factor for factor in AT_45.energy_factors}
    assert factors[32].at(0.9) / factors[65].at(1.3) == pytest.approx(0.1756, abs=0.00005)


def test_the_curve_of_65_nm_rises_again_below_0_59_v_which_is_why_the_voltage_enters_by_its_square() -> None:
    curve = next(factor for factor in AT_45.energy_factors if factor.node_nm == 65)
    lowest = -curve.a1 / (2 * curve.a2)
    assert lowest == pytest.approx(0.586, abs=0.001)
    assert curve.at(0.45) > curve.at(lowest)
    at_65 = load_technology("65nm")
    energies = [at_65.with_voltage(v).scaled(Level.NOMINAL).full_adder_fj_per_bit for v in (0.45, 0.586, 0.9)]
    assert energies == pytest.approx([3.3 * 1.5144 * (v / 0.9) ** 2 for v in (0.45, 0.586, 0.9)], rel=1e-4)


@pytest.mark.parametrize(
    ("node", "scale"),
    [(65, 1.514), (45, 1), (40, 0.867), (32, 0.654), (28, 0.532), (22, 0.348), (20, 0.287), (16, 0.226)],
)
def test_node_scales_are_those_of_the_published_coefficients(node: float, scale: float) -> None:
    factors = AT_45.energy_factors
    assert node_factor(factors, node) / node_factor(factors, 45) == pytest.approx(scale, abs=0.0005)


@given(st.floats(7, 90), st.floats(7, 90))
def test_a_smaller_node_never_takes_more(first: float, second: float) -> None:
    small, large = sorted((first, second))
    assert 0 < node_factor(AT_45.energy_factors, small) <= node_factor(AT_45.energy_factors, large)


@given(st.floats(0.1, 5))
def test_voltage_enters_by_its_square_where_a_constant_scales(voltage: float) -> None:
    for name, value in named(AT_45.with_voltage(voltage).scaled(Level.HIGH)):
        factor = (voltage / 0.9) ** 2 if RULES[name].scaled else 1
        assert value == pytest.approx(getattr(AT_45.constants, name).high * factor)


def test_what_does_not_scale() -> None:
    assert {name for name, rule in RULES.items() if not rule.scaled} == {
        "flip_flop_bits_per_mac",
        "sram_capacity_exponent",
        "sram_port_exponent",
        "sram_write_factor",
        "dram_pj_per_bit",
    }


@pytest.mark.parametrize("voltage", [0, -1, 0.05, 5.01, float("nan"), float("inf")])
def test_an_impossible_voltage_is_refused(voltage: float) -> None:
    with pytest.raises(BadInput, match=r"voltage_v: found .*, expected 0\.1 to 5\.0 V"):
        AT_45.with_voltage(voltage)


def test_a_node_beyond_the_table_is_refused() -> None:
    with pytest.raises(BadInput, match=r"node_nm: found 5, expected 7 to 90, the nodes of energy_factors"):
        node_factor(AT_45.energy_factors, 5)


def test_warnings_begin_where_no_chip_confirms_the_model() -> None:
    assert AT_45.with_voltage(0.6).warnings == ()
    assert AT_45.with_voltage(1.0).warnings == ()
    (below,) = AT_45.with_voltage(0.59).warnings
    assert below.startswith("0.59 V is below 0.6 V")
    (above,) = AT_45.with_voltage(1.01).warnings
    assert above == "1.01 V is above the nominal 1 V of 45nm: no chip confirms the model there"
    for node, outside in ((65, False), (22, False), (66, True), (21.9, True)):
        technology = parse_technology(MINIMAL.replace("28", str(node)), origin="mine")
        assert technology.warnings == (
            (f"{node:g} nm is outside 22 to 65 nm: no chip confirms the model there",) if outside else ()
        )


def test_a_file_of_one_s_own_takes_the_reference_and_replaces_single_constants(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    own = 'low = 1\nnominal = 2\nhigh = 3\nunit = "fJ/bit"\nnode_nm = 28\nvoltage_v = 0.8\nsource = "measured"\n'
    path.write_text(f"{MINIMAL}\n[constants.full_adder_fj_per_bit]\n{own}")
    technology = load_technology(path)
    scaled = technology.scaled(Level.NOMINAL)
    assert scaled.full_adder_fj_per_bit == pytest.approx(2 * (0.9 / 0.8) ** 2)
    assert scaled.select_fj_per_bit == pytest.approx(1.0 * technology.node_scale(45))
    assert technology.sram_cell is SramCell.HIGH_PERFORMANCE


def problems(text: str) -> list[str]:
    """What the message about a file lists, and that its count is right."""
    with pytest.raises(BadInput) as caught:
        parse_technology(text, origin="mine.toml")
    head, *lines = str(caught.value).splitlines()
    assert head == f"mine.toml: {len(lines)} {'problem' if len(lines) == 1 else 'problems'} in this technology:"
    assert [line.split(". ")[0].strip() for line in lines] == [str(i + 1) for i in range(len(lines))]
    return [line.split(". ", 1)[1] for line in lines]


def without(line: str) -> str:
    return "\n".join(one for one in MINIMAL.splitlines() if not one.startswith(line))


ADDER = "constants.full_adder_fj_per_bit"
FACTOR = '[[energy_factors]]\nnode_nm = {}\na2 = {}\na1 = 0\na0 = 0\nsource = "x"\n'


def constant(name: str = "full_adder_fj_per_bit", unit: str = "fJ/bit", **changes: str) -> str:
    values = {"low": "1", "nominal": "2", "high": "3", "unit": f'"{unit}"', "node_nm": "45", "voltage_v": "0.9"}
    values = {**values, "source": '"x"', **changes}
    body = "".join(f"{key} = {value}\n" for key, value in values.items() if value)
    return f"{MINIMAL}\n[constants.{name}]\n{body}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (without("name"), "name: missing, expected text"),
        (MINIMAL.replace('"mine"', '" "'), "name: found ' ', expected text"),
        (MINIMAL.replace('"mine"', "3"), "name: found 3, expected text"),
        (without("source"), "source: missing, expected text"),
        (without("node_nm"), "node_nm: missing, expected 1 to 1000"),
        (MINIMAL.replace("28", "true"), "node_nm: found True, expected 1 to 1000"),
        (MINIMAL.replace("28", "nan"), "node_nm: found nan, expected 1 to 1000"),
        (MINIMAL.replace("28", "0.5"), "node_nm: found 0.5, expected 1 to 1000"),
        (MINIMAL.replace("28", "1" + "0" * 400), f"node_nm: found 1{'0' * 56}..., expected 1 to 1000"),
        (MINIMAL.replace("28", "120"), "node_nm: found 120, expected 7 to 90, the nodes of energy_factors"),
        (without("voltage_v"), "voltage_v: missing, expected 0.1 to 5"),
        (MINIMAL.replace("\nvoltage_v = 0.9", '\nvoltage_v = "0.9"'), "voltage_v: found '0.9', expected 0.1 to 5"),
        (without("nominal_voltage_v"), "nominal_voltage_v: missing, expected 0.1 to 5"),
        (MINIMAL.replace("nominal_voltage_v = 0.9", "nominal_voltage_v = inf"), "nominal_voltage_v: found inf, exp"),
        (without("sram_cell"), "sram_cell: missing, expected 'low_standby_power' or 'high_performance'"),
        (MINIMAL.replace("high_performance", "fast"), "sram_cell: found 'fast', expected 'low_standby_power' or 'high"),
        (MINIMAL.replace('"high_performance"', "[]"), "sram_cell: found [], expected 'low_standby_power' or 'high"),
        (MINIMAL.replace('"reference"', '"../x"'), "reference: found '../x', expected 'reference'"),
        (MINIMAL + "nodes = 3", "nodes: not known; expected constants, energy_factors, name, node_nm, nominal_vo"),
        (MINIMAL + "constants = 3", "constants: found 3, expected a table"),
        (MINIMAL + "[constants]\nadder = 3", "constants.adder: not known; expected and_gate_fj_per_bit, comparator_fj"),
        (MINIMAL + f"[{ADDER}]", f"{ADDER}: found {{}}, expected a table with low, nominal, high, unit, node_nm, vol"),
        (MINIMAL + f"[constants]\n{ADDER[10:]} = 3.3", f"{ADDER}: found 3.3, expected a table with low, nominal, high"),
        (constant(low=""), f"{ADDER}.low: missing, expected a number above 0, at most 1e+09"),
        (constant(low="0"), f"{ADDER}.low: found 0, expected a number above 0, at most 1e+09"),
        (constant(high="1e10"), f"{ADDER}.high: found 10000000000.0, expected a number above 0, at most 1e+09"),
        (constant(nominal="4"), f"{ADDER}.nominal: found 4, expected 1 (low) to 3 (high)"),
        (constant(low="2.5"), f"{ADDER}.nominal: found 2, expected 2.5 (low) to 3 (high)"),
        (constant(unit="pJ/bit"), f"{ADDER}.unit: found 'pJ/bit', expected 'fJ/bit'"),
        (constant(node_nm=""), f"{ADDER}.node_nm: missing, expected 1 to 1000"),
        (constant(node_nm="500"), f"{ADDER}.node_nm: found 500, expected 7 to 90, the nodes of energy_factors"),
        (constant(voltage_v="0"), f"{ADDER}.voltage_v: found 0, expected 0.1 to 5"),
        (constant(source=""), f"{ADDER}.source: missing, expected text"),
        (constant(typical="2"), f"{ADDER}.typical: not known; expected high, low, node_nm, nominal, source, unit, vol"),
        (
            constant("sram_port_exponent", "1", low="-0.4", nominal="-0.4", high="-0.3"),
            "constants.sram_port_exponent.high: found -0.3, expected -0.4 as for low: it has no range",
        ),
        (
            constant("sram_port_exponent", "1", low="3", nominal="3", high="3"),
            "constants.sram_port_exponent.low: found 3, expected -2 to 2",
        ),
        (MINIMAL + "energy_factors = 3", "energy_factors: expected at least two tables; or set reference = "),
        (MINIMAL + FACTOR.format(45, 1), "energy_factors: expected at least two tables; or set reference = "),
        (MINIMAL + FACTOR.format(45, 1) * 2, "energy_factors: expected every node_nm once"),
        (
            MINIMAL + FACTOR.format(20, 1) + FACTOR.format(60, -1),
            "energy_factors[1].a2, a1, a0: found the factor -0.81 at 0.9 V, expected at least 1e-06",
        ),
        (MINIMAL + FACTOR.format(20, 1) + FACTOR.format(60, '"1"'), "energy_factors[1].a2: found '1', expected -1e+06"),
        (MINIMAL + FACTOR.format(20, 1) + FACTOR.format(60, "1\na3 = 4"), "energy_factors[1].a3: not known; expected"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(text: str, problem: str) -> None:
    assert any(found.startswith(problem) for found in problems(text)), problems(text)


def test_a_file_without_constants_misses_every_one_of_them_and_no_zero_is_put_in() -> None:
    found = problems(without("reference"))
    assert [line.split(":")[0] for line in found] == ["energy_factors", *(f"constants.{name}" for name in RULES)]
    assert all("missing, expected a table with low, nominal, high" in line for line in found[1:])


@pytest.mark.parametrize("name", RULES)
def test_every_single_constant_is_needed(name: str) -> None:
    assert problems(_reference_without(name)) == [
        f"constants.{name}: missing, expected a table with low, nominal, high, unit, node_nm, voltage_v, source"
    ]


def _reference_without(name: str) -> str:
    """A file that holds all of the reference but one constant."""
    from bnhw.hardware import technology_file

    text = (Path(technology_file.__file__).parent / "technologies" / "reference.toml").read_text()
    before, rest = text.split(f"[constants.{name}]\n")
    whole = without("reference") + "\n" + before + rest[rest.index("\n[") + 1 :]
    assert name not in tomllib.loads(whole)["constants"]
    return whole


def test_all_problems_are_told_at_once() -> None:
    assert len(problems("name = 3\nnode_nm = 0\nreference = 'reference'\nsram_cell = 'x'\nextra = 1")) == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name = ", r"mine.toml: no TOML: Invalid value \(at"),
        (b"\xff", r"mine.toml: no UTF-8 text at byte 0; is this a TOML file\?"),
        (b"a = " + b"[" * 100_000, r"mine.toml: no TOML: "),
        (b" " * ((1 << 20) + 1), r"mine.toml: 1048577 bytes, at most 1048576 are read; is this the right file\?"),
    ],
)
def test_what_is_no_toml_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        load_technology(path)


@pytest.mark.parametrize("name", ["14nm", "reference", "no/such.toml"])
def test_an_unknown_name_tells_the_shipped_ones(name: str) -> None:
    with pytest.raises(BadInput, match=f"{name}: no such file; give a TOML file or one of 22nm, 28nm, 45nm, 65nm"):
        load_technology(name)
