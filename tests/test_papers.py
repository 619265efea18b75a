"""Every system of the four papers, from its first training step to integers: one test over `list_systems`.

Untrained deep networks amplify noise from layer to layer without any integer (see
`test_an_untrained_network_amplifies_noise_without_any_integer`), so that they may stay below `LEAST_DB`. What 8-bit
codes are held to there is that no layer adds more than `DROP_DB`, and the table of layers shows where the ratio goes.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")


from torch import nn  # noqa: E402 - after the skip

from bnhw.compare import first_difference, measure_fidelity  # noqa: E402
from bnhw.compiler import check, compile_model  # noqa: E402
from bnhw.dtypes import Array  # noqa: E402
from bnhw.export.networks import NetworkConfig, build_network  # noqa: E402
from bnhw.export.normalisations import Normalisation  # noqa: E402
from bnhw.export.paper_cases import Case  # noqa: E402
from bnhw.export.papers import list_systems  # noqa: E402
from bnhw.export.recipes import Recipe  # noqa: E402
from bnhw.export.reduction import first_channels, reduce_network  # noqa: E402
from bnhw.export.to_onnx import to_onnx  # noqa: E402
from bnhw.export.training import TrainingData, train  # noqa: E402
from bnhw.fidelity import CLEAN_DB, DROP_DB, decibels, measure_layers, reference_graph  # noqa: E402
from bnhw.float_model import float_logits  # noqa: E402
from bnhw.graph import Graph  # noqa: E402
from bnhw.graph_onnx import GraphRunner  # noqa: E402
from bnhw.importer import read_onnx  # noqa: E402
from bnhw.machine import Machine  # noqa: E402
from bnhw.options import CompileOptions  # noqa: E402
from bnhw.program import Program  # noqa: E402

LEAST_DB = 25.0
FLOAT_NOTE, PRODUCT_NOTE = "have no 1-bit weights, rounded to 8 bits", "products of two computed values, on multipliers"
"""All that `bnhw check` says: of float weights, and of data-dependent scales."""

DATA_DEPENDENT = (Normalisation.RBN, Normalisation.IEBN)
MANY_LAYERS = 20

SYSTEMS = list_systems()


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large the networks are: None leaves the preset's channels and blocks. sides: of images, by stem.

    images: for the training step and for calibration.
    """

    channels: int | None
    units: int | None
    small_side: int
    large_side: int
    images: int


SMALL = Size(channels=8, units=1, small_side=16, large_side=64, images=32)
FULL = Size(channels=None, units=None, small_side=32, large_side=64, images=8)


def sized_config(case: Case, size: Size) -> NetworkConfig:
    side = size.small_side if case.side == 32 else size.large_side
    config = case.system.config(side=side, classes=10)
    width = 1.0 if size.channels is None else size.channels / first_channels(config)
    return reduce_network(config, width=width, units=size.units)


def name_of(paper: int, case: Case, size: Size) -> str:
    norm = case.system.normalisation
    dropout = "-dropout" if norm.dropout else ""
    kind = f"{norm.kind}{dropout}-{norm.input}"
    return f"{'full' if size is FULL else 'small'}-{paper}-{case.system.network}-{kind}-{case.system.weights}"


def sized_cases() -> list[Any]:
    """All systems small, and all as in the papers; ResNets that differ in depth or width alone are one when small."""
    small = {repr(sized_config(case, SMALL)): (paper, case) for paper, case in reversed(SYSTEMS)}
    quick = [pytest.param(*one, SMALL, id=name_of(*one, SMALL)) for one in reversed(small.values())]
    full = [pytest.param(*one, FULL, id=name_of(*one, FULL), marks=pytest.mark.slow) for one in SYSTEMS]
    return [*quick, *full]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def smooth_pixels(config: NetworkConfig, count: int, seed: int) -> Array:
    """uint8 images (count, height, width, channels): a colour of their own, coarse patches and a little noise.

    Where all images are alike, so are their logits, and a batch norm behind them leaves the noise alone.
    """
    channels, height, width = config.input_shape
    generator = np.random.default_rng(seed)
    coarse = generator.integers(-80, 81, (count, -(-height // 4), -(-width // 4), channels))
    coarse = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    colour = generator.integers(30, 226, (count, 1, 1, channels))
    return np.asarray(np.clip(colour + coarse + generator.integers(-20, 21, coarse.shape), 0, 255), np.uint8)


def one_step(recipe: Recipe) -> Recipe:
    """The recipe for one batch, then batch-norm statistics of the same batch: one step alone would hardly move them."""
    return replace(recipe, epochs=1, batch_size=64, validation_part=0.0, choose_best=False, reestimate_batch_norm=True)


def trained(case: Case, config: NetworkConfig, images: Array) -> nn.Module:
    torch.manual_seed(0)
    network = build_network(config)
    labels = np.arange(len(images)) % 10
    data = TrainingData(train_images=images, train_labels=labels, test_images=images[:1], test_labels=labels[:1])
    before = {name: value.clone() for name, value in network.named_parameters()}
    train(network, one_step(case.recipe), data, seed=1)
    assert any(not torch.equal(value, before[name]) for name, value in network.named_parameters())
    return network


@pytest.mark.parametrize(("paper", "case", "size"), sized_cases())
def test_a_system_of_a_paper_trains_exports_and_compiles_faithfully(
    paper: int, case: Case, size: Size, tmp_path: Path
) -> None:
    config = sized_config(case, size)
    seen = smooth_pixels(config, size.images, 0)
    network = trained(case, config, seen)
    path = tmp_path / "model.onnx"
    to_onnx(network, path, input_shape=config.input_shape)
    check_notes(case, check(path).notes)
    program = compile_model(path, seen)
    images = smooth_pixels(config, 4, 1)
    assert first_difference(Machine(program, "reference"), Machine(program, "auto"), images).difference is None
    result = Machine(program).run(images)
    fidelity = measure_fidelity(result.logits, result.scale, float_logits(path, program, images))
    if fidelity.signal_to_noise_db < LEAST_DB:
        check_noise_grows_slowly(path, seen, images)


def check_notes(case: Case, notes: Sequence[str]) -> None:
    expected = [FLOAT_NOTE] * (case.system.weights == "float")
    expected += [PRODUCT_NOTE] * (case.system.normalisation.kind in DATA_DEPENDENT)
    assert len(notes) == len(expected)
    assert all(text in note for text, note in zip(expected, notes, strict=True)), notes


def check_noise_grows_slowly(path: Path, seen: Array, images: Array, bits: tuple[int, ...] = (8,)) -> None:
    """Where logits are below `LEAST_DB`, their noise has come little by little, from many layers.

    With ranges that hold these images, too: few were seen in calibration, and one clipped value outweighs all rounding.

    A layer has dropped where it does so both in all and in what varies: a norm takes what all images share from the
    signal and not from the noise, which is no fault of its codes, and what is nearly constant has no signal but its
    mean. Means over a whole image are left out, since near 0 they have no signal.
    """
    program = compile_model(path, np.concatenate([seen, images]), CompileOptions(act_bits=bits, ranges="min-max"))
    graph = reference_graph(read_onnx(path), program)
    layers = measure_layers(program, graph, images)
    shared = shared_db(program, graph, images)
    varying = {layer.name: min(layer.signal_to_noise_db - shared[layer.name], CLEAN_DB) for layer in layers}
    varying[program.input] = CLEAN_DB
    drops = [
        min(layer.drop_db, min(varying[name] for name in instruction.inputs) - varying[layer.name])
        for layer, instruction in zip(layers, program.instructions, strict=True)
    ]
    table = "\n".join(
        f"{layer.signal_to_noise_db:6.1f} dB, drop {drop:5.1f}, clipped {layer.clipped}: {layer.kind} {layer.name}"
        for layer, drop in zip(layers, drops, strict=True)
    )
    whole = [drop for layer, drop in zip(layers, drops, strict=True) if layer.kind != "SumGlobal"]
    assert max(whole) <= DROP_DB, table
    assert len(whole) > MANY_LAYERS, table


def test_one_layer_of_three_bits_among_eight_is_found_in_a_network_below_the_least_ratio(tmp_path: Path) -> None:
    _, case = next(one for one in SYSTEMS if one[1].system.network == "resnet-50" and "rbn" in name_of(*one, SMALL))
    config = sized_config(case, SMALL)
    seen, images = smooth_pixels(config, SMALL.images, 0), smooth_pixels(config, 4, 1)
    path = tmp_path / "model.onnx"
    to_onnx(trained(case, config, seen), path, input_shape=config.input_shape)
    for bits, expected in (((8,) * 14, nullcontext()), ((8,) * 7 + (3,) + (8,) * 6, pytest.raises(AssertionError))):
        with expected:
            check_noise_grows_slowly(path, seen, images, bits)


def shared_db(program: Program, graph: Graph, images: Array) -> dict[str, float]:
    """The power of each tensor's float value over the power of what is left without the mean of every channel."""
    names = {instruction.output: instruction.output for instruction in program.instructions}
    (names[program.output],) = graph.outputs
    values = GraphRunner(graph, names.values()).run(images.transpose(0, 3, 1, 2).astype(np.float32))
    found = {}
    for tensor, name in names.items():
        value = values[name].astype(np.float64)
        rest = value - value.mean(axis=(0, 2, 3), keepdims=True)
        found[tensor] = decibels(float((value**2).sum()), float((rest**2).sum()))
    return found
