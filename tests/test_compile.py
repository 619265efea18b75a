"""From ONNX files to programs that every set of kernels runs alike."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graph_helpers import largest_error
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from model_builder import ModelBuilder, Tensor, as_nhwc, random_pixels
from model_strategies import SEEDS, Model, Network, models, networks, small_network

import bnhw
from bnhw.compare import first_difference, measure_fidelity
from bnhw.compiler import check, compile_model
from bnhw.count import count_program, total
from bnhw.dtypes import Array, IntegerType
from bnhw.errors import BadInput, ComparisonFailed, PassFailed, UnsupportedModel
from bnhw.float_model import float_logits
from bnhw.importer import import_onnx, read_onnx
from bnhw.machine import Machine
from bnhw.onnx_machine import OnnxMachine
from bnhw.ops import Sign
from bnhw.options import CompileOptions
from bnhw.passes.pipeline import normalise_input
from bnhw.program import Convolve, Program, Requantise
from bnhw.program_file import program_to_bytes
from bnhw.verify import evaluate, evaluate_outputs

DATA = Path(__file__).parents[2] / "shared" / "data"
TFC = DATA / "qonnx" / "TFC_1W1A.onnx"
MNIST = DATA / "mnist.npz"
TRAINING = DATA / "cifar10_train_first4000_lossless.npz"
LOSSLESS = DATA / "cifar10_test_first20_lossless.npz"
PUBLISHED = (
    DATA / "CIFAR10_allparams.mat",
    DATA / "TrainedWideResNet20-10_CIFAR10_1-bit-per-weight-4MB.mat",
)

FAST_KERNELS = ("auto", "multiplexer", "bit_serial")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def compiled(
    folder: Path, model: onnx.ModelProto, pixels: Array, options: CompileOptions | None = None
) -> tuple[Path, Program]:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path, compile_model(path, pixels, options)


def expect_all_kernels_alike(program: Program, pixels: Array) -> None:
    reference = Machine(program, "reference")
    for kernels in FAST_KERNELS:
        comparison = first_difference(reference, Machine(program, kernels), pixels)
        assert comparison.difference is None, comparison.difference
        assert comparison.tensors == len(program.instructions)


@st.composite
def options_of(draw: st.DrawFn) -> CompileOptions:
    return CompileOptions(
        act_bits=draw(st.integers(2, 8)),
        weight_bits=draw(st.integers(2, 8)),
        input_bits=draw(st.integers(4, 12)),
        residual_bits=draw(st.integers(10, 20)),
        requantise=draw(
            st.sampled_from(("multiply", "multiply:20", "multiply:24", "csd:2", "csd:3", "shift", "threshold"))
        ),
    )


NETWORKS = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@NETWORKS
@given(networks(), options_of())
def test_reference_and_all_kernels_agree_on_every_tensor(
    folder: Path, network: Network, options: CompileOptions
) -> None:
    try:
        _, program = compiled(folder, network.onnx, network.pixels, options)
    except PassFailed as error:
        assume("negative gain" not in str(error) or options.requantise != "shift")
        raise
    expect_all_kernels_alike(program, network.pixels[:2])


def has_refusable_reason(error: PassFailed, options: CompileOptions) -> bool:
    """What a random model may hit: gains that a shift cannot give, ratios beyond the multiplier."""
    text = str(error)
    return ("negative gain" in text or "too large for a shift" in text) and options.requantise == "shift"


@settings(deadline=None, max_examples=60)
@given(models(), options_of(), SEEDS)
def test_random_models_compile_and_run_alike_on_all_kernels(
    folder: Path, model: Model, options: CompileOptions, seed: int
) -> None:
    _, channels, height, width = model.images.shape
    pixels = np.random.default_rng(seed).integers(0, 256, (3, height, width, channels)).astype(np.uint8)
    try:
        _, program = compiled(folder, model.onnx, pixels, options)
    except PassFailed as error:
        assume(not has_refusable_reason(error, options))
        raise
    expect_all_kernels_alike(program, pixels[:1])


@pytest.mark.parametrize("shifted_relu", [False, True])
@pytest.mark.parametrize("bits", [(1, 1, 1), (8, 1, 8)])
@pytest.mark.parametrize("groups", [1, 2])
def test_eight_bits_are_faithful_to_the_float_model(
    folder: Path, shifted_relu: bool, bits: tuple[int, int, int], groups: int
) -> None:
    network = small_network(
        seed=11, widths=(10, 20, 70), shifted_relu=shifted_relu, bits=bits, groups=groups, images=64
    )
    path, program = compiled(folder, network.onnx, network.pixels[:32])
    unseen = network.pixels[32:]
    logits = Machine(program).run(unseen)
    fidelity = measure_fidelity(logits.logits, logits.scale, float_logits(path, program, unseen))
    assert fidelity.signal_to_noise_db > 20
    assert fidelity.agreement >= 0.9


def test_more_activation_bits_are_more_faithful(folder: Path) -> None:
    network = small_network(seed=3, widths=(16, 32), images=48)
    ratios = []
    for bits in (2, 4, 8):
        options = CompileOptions(act_bits=bits)
        path, program = compiled(folder, network.onnx, network.pixels, options)
        result = Machine(program).run(network.pixels)
        reals = float_logits(path, program, network.pixels)
        ratios.append(measure_fidelity(result.logits, result.scale, reals).signal_to_noise_db)
    assert ratios[0] + 6 < ratios[1] < ratios[2] - 6


@pytest.mark.parametrize("requantise", ["multiply:16", "csd:2", "shift", "threshold"])
def test_same_model_and_images_give_the_same_bytes(folder: Path, requantise: str) -> None:
    network = small_network(seed=5, bits=(8, 1, 8))
    options = CompileOptions(requantise=requantise)
    first, second = (program_to_bytes(compiled(folder, network.onnx, network.pixels, options)[1]) for _ in range(2))
    assert first == second


def test_order_of_the_calibration_images_does_not_matter(folder: Path) -> None:
    network = small_network(seed=6)
    forth, back = (
        program_to_bytes(compiled(folder, network.onnx, pixels)[1]) for pixels in (network.pixels, network.pixels[::-1])
    )
    assert forth == back


@pytest.mark.parametrize(("mean", "std"), [((0.0,), (255.0,)), ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7))])
def test_normalisation_options_mean_the_same_as_a_normalisation_in_the_model(
    folder: Path, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    def model(*, inside: bool) -> tuple[onnx.ModelProto, Array]:
        builder = ModelBuilder(seed=8)
        value: Tensor = builder.image
        if inside:
            shift, factor = (builder.per_channel(value, np.resize(n, 3)) for n in (mean, std))
            value = builder.apply(builder.apply(value, "Sub", shift), "Div", factor)
        weights = np.random.default_rng(1).choice(np.array((-1, 1), np.float32), (8, 3, 3, 3)) / np.float32(4)
        value = builder.convolution(value, weights, pads=(1, 1, 1, 1))
        value = builder.convolution(builder.apply(value, "Relu"), np.ones((4, 8, 1, 1), np.float32))
        return builder.model(builder.reduce_mean(value, keep=False)), as_nhwc(random_pixels(builder, 8))

    inside, pixels = model(inside=True)
    outside, _ = model(inside=False)
    options = CompileOptions(input_mean=mean, input_std=std)
    programs = [compiled(folder, inside, pixels)[1], compiled(folder, outside, pixels, options)[1]]
    first, second = (Machine(program).run(pixels) for program in programs)
    np.testing.assert_allclose(first.logits * first.scale, second.logits * second.scale, rtol=1e-5, atol=1e-4)
    tables = [next(iter(p.constants.values())) for p in programs]
    assert largest_error(*tables) <= 1  # a stored mean is float32: one code at a tie


def test_program_says_where_it_comes_from(folder: Path) -> None:
    network = small_network(seed=5, bits=(1, 8, 1))
    path, program = compiled(folder, network.onnx, network.pixels, CompileOptions(act_bits=5))
    assert program.provenance.source_name == "model"
    assert program.provenance.source_sha256 == read_onnx(path).sha256
    assert program.provenance.options["act_bits"] == "5"
    assert program.provenance.options["calibration_images"] == str(len(network.pixels))
    assert any("multipliers" in note for note in program.provenance.notes)


def test_progress_ends_at_the_number_of_images(folder: Path) -> None:
    network = small_network(seed=5, images=20)
    path, _ = compiled(folder, network.onnx, network.pixels)
    done: list[int] = []
    compile_model(path, network.pixels, progress=done.append)
    assert done[-1] == 20
    assert done == sorted(done)


def test_check_needs_no_images_and_lists_every_problem(folder: Path) -> None:
    path = folder / "checked.onnx"
    path.write_bytes(small_network(bits=(8, 1, 1)).onnx.SerializeToString())
    checked = check(path)
    assert any("multipliers" in note for note in checked.notes)
    builder = ModelBuilder()
    value = builder.add(builder.apply(builder.image, "Atan"), builder.apply(builder.image, "Erf"))
    path.write_bytes(builder.model(builder.reduce_mean(value, keep=False)).SerializeToString())
    with pytest.raises(UnsupportedModel) as caught:
        check(path)
    assert len(caught.value.problems) == 2


def test_normalisation_for_other_colours_is_bad_input(folder: Path) -> None:
    network = small_network()
    with pytest.raises(BadInput, match="input_std has 2 numbers for 3 colours"):
        compiled(folder, network.onnx, network.pixels, CompileOptions(input_std=(1.0, 2.0)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pixels: pixels[:0],
        lambda pixels: pixels.astype(np.float32),
        lambda pixels: pixels[:, :-1],
        lambda pixels: pixels.transpose(0, 3, 1, 2),
        lambda pixels: pixels[0],
    ],
)
def test_calibration_images_that_do_not_fit_are_bad_input(folder: Path, spoil: Any) -> None:
    network = small_network()
    with pytest.raises(BadInput):
        compiled(folder, network.onnx, spoil(network.pixels))


def test_wrong_kernel_is_found_before_a_program_is_handed_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnhw.kernels import portable

    requantise = portable.requantise

    def off_by_one(*arguments: Any) -> Any:
        result = requantise(*arguments)
        result[0, 0, 0, 0] ^= 1
        return result

    monkeypatch.setattr(portable, "requantise", off_by_one)
    network = small_network()
    with pytest.raises(ComparisonFailed, match="self-check before writing failed: first difference in Requantise"):
        compiled(folder, network.onnx, network.pixels)


def test_public_functions_do_the_whole_flow(folder: Path) -> None:
    network = small_network(seed=2)
    path = folder / "public.onnx"
    path.write_bytes(network.onnx.SerializeToString())
    program = bnhw.compile(path, calibration=network.pixels, options=bnhw.CompileOptions(act_bits=8))
    program.save(folder / "public.bnhw")
    result = bnhw.run(bnhw.load(folder / "public.bnhw"), network.pixels, threads=2)
    np.testing.assert_array_equal(result.logits, Machine(program, "reference").run(network.pixels).logits)


# A network of others: 1-bit weights and activations, QONNX.


needs_qonnx = pytest.mark.skipif(not (TFC.is_file() and MNIST.is_file()), reason=f"no {TFC.name} or MNIST in {DATA}")


@pytest.fixture(scope="module")
def tfc() -> tuple[Program, Array]:
    pixels = np.load(MNIST)["test_images"][:200]
    return compile_model(TFC, pixels, CompileOptions(input_std=(255.0,))), pixels


@needs_qonnx
def test_tfc_has_the_published_counts(tfc: tuple[Program, Array]) -> None:
    program, _ = tfc
    counts = total(count_program(program))
    assert counts.macs_full == counts.macs_trimmed == counts.weight_bits == 59008
    assert counts.multipliers == 0
    convolutions = [i for i in program.instructions if isinstance(i, Convolve)]
    assert [i.weight_bits for i in convolutions] == [1, 1, 1, 1]
    assert all(program.tensor[i.inputs[0]].bipolar for i in convolutions)


@needs_qonnx
def test_tfc_accumulators_hold_every_sum(tfc: tuple[Program, Array]) -> None:
    """FINN says INT10 and INT7 for these layers, ours are one bit wider.

    784 signs sum to -784..784, which takes 11 bits, and 64 signs to -64..64, which takes 8: +64 does not fit
    into 7 bits of two's complement. FINN stores the popcount, 0..784 and 0..64, and its 10 and 7 bits follow
    from that: dot = 2 popcount - K is even or odd throughout, so that half the numbers never occur.
    """
    program, _ = tfc
    accumulators = [program.tensor[i.output].dtype for i in program.instructions if isinstance(i, Convolve)]
    assert accumulators == [IntegerType(bits=bits, signed=True) for bits in (11, 8, 8, 8)]


@needs_qonnx
def test_tfc_is_lossless(tfc: tuple[Program, Array]) -> None:
    program, pixels = tfc
    options = CompileOptions(input_std=(255.0,))
    graph = normalise_input(import_onnx(read_onnx(TFC).model, name="TFC_1W1A"), options)
    images = pixels[:, None].astype(np.float32)
    values = dict(evaluate(graph, images))
    signs = [node.output for node in graph.nodes if isinstance(node.attributes, Sign)]
    coded = [t.name for t in program.tensors if t.bipolar]
    made = {s.instruction.output: s.value for s in Machine(program, "reference").steps(pixels[..., None])}
    assert len(signs) == len(coded) == 4
    for sign, code in zip(signs, coded, strict=True):
        assert code.startswith(sign)
        np.testing.assert_array_equal(2 * made[code].reshape(200, -1) - 1, values[sign].reshape(200, -1))
    result = Machine(program).run(pixels)
    expected = evaluate_outputs(graph, images)
    np.testing.assert_array_equal(result.predictions, expected.argmax(axis=1))
    assert np.abs(result.logits * result.scale - expected).max() <= 0.5001 * result.scale  # one shift for all classes
    expect_all_kernels_alike(program, pixels[:3])


# The published networks.


@pytest.mark.slow
@pytest.mark.skipif(not TRAINING.is_file(), reason=f"no CIFAR-10 images in {DATA}")
@pytest.mark.parametrize("checkpoint", PUBLISHED, ids=["keras", "matlab"])
def test_published_network_from_checkpoint_to_integers(checkpoint: Path, tmp_path: Path) -> None:
    if not checkpoint.is_file():
        pytest.skip(f"no {checkpoint.name} in {DATA}")
    pytest.importorskip("torch", reason="bnhw.export needs torch")
    from bnhw.export.checkpoints import load_checkpoint
    from bnhw.export.to_onnx import to_onnx

    path = tmp_path / "published.onnx"
    to_onnx(load_checkpoint(checkpoint), path, input_shape=(3, 32, 32))
    training, test = np.load(TRAINING)["images"], np.load(LOSSLESS)
    program = compile_model(path, training[:200])
    counts = total(count_program(program))
    assert counts.weight_bits == 26_737_120
    assert all(i.weight_bits == 1 for i in program.instructions if isinstance(i, Convolve))
    assert any(isinstance(i, Requantise) and i.position_classes for i in program.instructions)  # divisors 9, 6, 4

    machine = Machine(program)
    unseen = training[200:700]
    result = machine.run(unseen, threads=2)
    fidelity = measure_fidelity(result.logits, result.scale, float_logits(path, program, unseen))
    assert fidelity.agreement >= 0.995
    assert (machine.run(test["images"], threads=2).predictions == test["labels"]).all()
    for executor in (machine, OnnxMachine(program, threads=2)):
        comparison = first_difference(Machine(program, "reference"), executor, test["images"][:2])
        assert comparison.difference is None
