"""`benchmarks/op_counts.py`: rows are those of their programs, and a stopped run continues."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from bnhw.count import ActionKind, count_program, total  # noqa: E402 - after the skip
from bnhw.export.reduction import reduce_network  # noqa: E402
from bnhw.hardware.arch_file import load_arch  # noqa: E402
from bnhw.hardware.energy import price  # noqa: E402
from bnhw.hardware.schedule import schedule  # noqa: E402
from bnhw.hardware.technology_file import load_technology  # noqa: E402
from bnhw.program import Requantise  # noqa: E402
from bnhw.program_file import load_program  # noqa: E402

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import op_counts  # noqa: E402 - a script, not a package
from op_counts_hardware import engine_for, hardware_row  # noqa: E402
from op_counts_networks import Job, list_jobs  # noqa: E402
from op_counts_tables import as_markdown, part_sum, with_twins  # noqa: E402

DOCUMENT = (ROOT / "docs" / "op-counts.md").read_text()


def small(job: Job) -> Job:
    return replace(job, config=reduce_network(job.config, width=0.0625, units=1))


@pytest.fixture(scope="module")
def wanted() -> list[Any]:
    jobs = {j.name: small(j) for j in list_jobs() if j.network == "wrn-20-4"}
    names = (
        ("Baseline 1, 1bit", "multiply:16"),
        ("Baseline 1, float", "multiply:16"),
        ("Baseline 1, 1bit", "auto"),
        ("sReLU only, powers of two, 1bit", "auto"),
    )
    return [(jobs[f"paper 1, wrn-20-4, {name}"], op_counts.compile_options(mode, 8)) for name, mode in names]


@pytest.fixture(scope="module")
def study(wanted: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = op_counts.Study(tmp_path_factory.mktemp("op-counts"), 2)
    made.run(wanted)
    return made


def test_rows_hold_the_counts_of_their_programs(study: Any, wanted: list[Any]) -> None:
    for job, options in wanted:
        row = study.rows[study.key(job, options)]
        assert row["problem"] == ""
        layers = count_program(load_program(study.folder / f"{row['key']}.bnhw"))
        counts = total(layers)
        totals = row["totals"]
        assert totals["multiplications"] == counts.multipliers
        assert totals["weight_bits"] == counts.weight_bits
        assert totals["constant_bits"] == counts.constant_bits
        assert totals["additions"] == sum(n for a, n in counts.actions.items() if a.kind is ActionKind.ADD)
        for name, number in totals.items():
            assert number == part_sum(row, name, array=True) + part_sum(row, name, array=False), name


def test_one_bit_weights_leave_no_multiplication_and_an_eighth_of_the_bits(study: Any) -> None:
    rows = with_twins(list(study.rows.values()))
    ones = [row for row in rows if row["weights"] == "1bit" and row["of_8_bit_twin"]]
    assert ones
    for row in ones:
        assert part_sum(row, "multiplications", array=True) == 0
        assert row["of_8_bit_twin"]["weight_bits"] == 0.125
        assert row["requantise"] == "multiply:16" or row["totals"]["multiplications"] == 0


def test_powers_of_two_in_place_of_batch_norm_save_additions_and_constants(study: Any) -> None:
    auto = [row for row in study.rows.values() if row["requantise"] == "auto" and row["weights"] == "1bit"]
    (found,) = (row for row in auto if row["normalisation"] == "sReLU only, powers of two")
    (twin,) = (row for row in auto if row["base"])
    for name in ("additions", "constant_bits"):  # at 32x32 the table of the image's colours is most of the constants
        saved = part_sum(found, name, image="16x16", array=False) / part_sum(twin, name, image="16x16", array=False)
        assert saved < 0.6, name


def test_batch_norms_of_random_networks_have_constants_of_their_own(study: Any, wanted: list[Any]) -> None:
    """With the initial gains, shifts and statistics all channels would be alike, and batch norm free."""
    job, options = next(one for one in wanted if one[0].base and one[0].weights == "1bit")
    program = study.program(job, options)
    steps = [i for i in program.instructions if isinstance(i, Requantise) and i.multiplier]
    differing = [len(set(program.constants[step.multiplier].ravel().tolist())) > 1 for step in steps]
    assert sum(differing) >= len(steps) / 2


def test_a_stopped_run_continues_without_compiling_again(
    study: Any, wanted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = study.file.read_text()
    monkeypatch.setattr(op_counts, "build_program", lambda *_: pytest.fail("compiled again"))
    again = op_counts.Study(study.folder, 2)
    again.run(wanted)
    assert study.file.read_text() == before
    again.file.write_text("".join(line + "\n" for line in before.splitlines()[:-1]))
    third = op_counts.Study(study.folder, 2)
    third.run(wanted)
    lines = [json.loads(line) for line in third.file.read_text().splitlines()]
    assert [line["key"] for line in lines] == [json.loads(line)["key"] for line in before.splitlines()]
    assert len(json.loads((study.folder / "op-counts.json").read_text())) == len(wanted)


def test_engines_multiply_only_where_weights_or_steps_do(study: Any, wanted: list[Any]) -> None:
    for job, options in wanted:
        weight_bits = 1 if job.weights == "1bit" else 8
        program = study.program(job, options)
        engine = engine_for(load_arch("engine-16x64"), program, weight_bits=weight_bits, requantise=options.requantise)
        assert (engine.pe, engine.simd) == (16, 64)
        assert engine.datapath.value == ("mux" if weight_bits == 1 else "mul")
        assert engine.post.value == ("csd" if options.requantise == "auto" else "multiply")


def test_cycles_and_energy_are_those_of_schedule_and_price(study: Any, wanted: list[Any]) -> None:
    study.run_on(wanted, "engine-16x64", "28nm")
    rows = json.loads((study.folder / "op-counts.json").read_text())
    technology = load_technology("28nm")
    for (job, options), row in zip(wanted, rows, strict=True):
        assert row["hardware_problem"] == ""
        program, weight_bits = study.program(job, options), 1 if job.weights == "1bit" else 8
        engine = engine_for(load_arch("engine-16x64"), program, weight_bits=weight_bits, requantise=options.requantise)
        trace = schedule(program, engine)
        assert row["cycles"]["total"] == trace.cycles.total
        assert row["energy_pj"]["total"]["nominal"] == float(price(trace, technology).total.nominal)
    by_name = {(row["weights"], row["requantise"]): row for row in rows if row["base"]}
    one, eight = by_name["1bit", "multiply:16"], by_name["float", "multiply:16"]
    assert one["of_8_bit_twin"]["energy"] == round(
        one["energy_pj"]["total"]["nominal"] / eight["energy_pj"]["total"]["nominal"], 4
    )
    assert one["of_8_bit_twin"]["energy"] < 1
    assert "technology `28nm`" in (study.folder / "op-counts.md").read_text()
    before = (study.folder / "hardware.jsonl").read_text()
    study.run_on(wanted, "engine-16x64", "28nm")
    assert (study.folder / "hardware.jsonl").read_text() == before


def test_an_engine_that_cannot_run_a_network_is_named_in_the_table(study: Any, wanted: list[Any]) -> None:
    job, options = wanted[0]
    row = study.rows[study.key(job, options)]
    small_engine = load_arch("engine-16x64").with_options(acc_bits=8)
    found = hardware_row(study.program(job, options), row, small_engine, load_technology("28nm"))
    assert "acc_bits" in found["hardware_problem"]
    assert "acc_bits" in as_markdown([{**row, **found}])


def test_a_network_that_does_not_compile_is_named_in_the_table(study: Any) -> None:
    row = {**next(iter(study.rows.values())), "problem": "no way"}
    assert f"{row['normalisation']}, 1 bit, `multiply:16`: no way" in as_markdown([row])
    assert with_twins([row])[0]["of_8_bit_twin"] is None


def test_the_command_line_names_rows_and_refuses_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    op_counts.main(["--list", "--networks", "wrn-20-10"])
    names = capsys.readouterr().out.splitlines()
    assert len(names) == 13
    assert "paper 1, wrn-20-10, Mean-only BN, float" in names
    with pytest.raises(SystemExit, match="no network has these papers, names and texts"):
        op_counts.main(["--list", "--networks", "wrn-20"])
    with pytest.raises(SystemExit):
        op_counts.main([])
    assert "--out: the folder of the counts is needed" in capsys.readouterr().err


def test_the_document_holds_every_row_of_both_networks() -> None:
    lines = [line.strip("| ").split(" | ") for line in DOCUMENT.splitlines() if line.startswith("| wrn")]
    jobs = [j for j in list_jobs() if j.paper == 1 and j.network in {"wrn-20-4", "wrn-20-10"}]
    for job in jobs:
        named = [job.network, job.normalisation, "1 bit" if job.weights == "1bit" else "8 bit"]
        found = [line for line in lines if line[:3] == named]
        assert len(found) == 4, named  # counts and cycles, in both requantise modes
        bits = job.config.weight_count * (1 if job.weights == "1bit" else 8)
        assert sum(f"{bits:,}" in line for line in found) == 2
