"""The training loop: resumed = straight, recipes do what they say, errors."""

import csv
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from torch import Tensor, nn  # noqa: E402

from bnhw.errors import BadInput, TrainingDiverged  # noqa: E402
from bnhw.export.augmentation import Augmentation  # noqa: E402
from bnhw.export.normalisation_layers import STATISTICS_LAYERS  # noqa: E402
from bnhw.export.normalisations import ParameterRole, roles_of_parameters  # noqa: E402
from bnhw.export.optimisers import build_optimiser, set_rate  # noqa: E402
from bnhw.export.recipes import RECIPES, Recipe  # noqa: E402
from bnhw.export.schedules import Constant, ConstantClipping, Cosine  # noqa: E402
from bnhw.export.training import TrainingData, TrainingOutcome, count_steps, train  # noqa: E402
from bnhw.export.training_log import COLUMNS, EpochRecord, as_csv, write_plot  # noqa: E402

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 60)
IMAGES = (RNG.integers(0, 100, (60, 6, 6, 1)) + 50 * LABELS[:, None, None, None]).astype(np.uint8)
DATA = TrainingData(
    train_images=IMAGES[:45], train_labels=LABELS[:45], test_images=IMAGES[45:], test_labels=LABELS[45:]
)
RECIPE = Recipe(
    source="this test",
    epochs=3,
    batch_size=8,
    schedule=Cosine(0.05, 1e-4),
    weight_decay=1e-3,
    augmentation=Augmentation(flip=True, padding=1, cutout=2),
    reestimate_batch_norm=True,
    clipping=ConstantClipping(2.0),
    validation_part=0.2,
    choose_best=True,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small operations gain nothing from more, and lose much where processors are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Killed(Exception):  # noqa: N818 - what happened, as in bnhw/errors.py
    """Stands for the end of the process."""


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.BatchNorm2d(1, affine=False),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(144, 4),
    )


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def kill_after(epochs: int) -> Callable[[tuple[EpochRecord, ...]], None]:
    def stop(records: tuple[EpochRecord, ...]) -> None:
        if len(records) == epochs:
            raise Killed

    return stop


def without_seconds(outcome: TrainingOutcome) -> list[EpochRecord]:
    return [replace(record, seconds=0.0) for record in outcome.records]


@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPES["paper-4"], epochs=3)], ids=["sgd", "adam"])
@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_killed_training_continues_to_the_same_bits(recipe: Recipe, done: int, tmp_path: Path) -> None:
    straight, resumed = network(), network()
    outcome = train(straight, recipe, DATA, seed=7)
    state = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train(resumed, recipe, DATA, seed=7, state=state, on_epoch=kill_after(done))
    torch.rand(5)  # whatever else drew from the global generator meanwhile
    again = network(seed=1)
    continued = train(again, recipe, DATA, seed=7, state=state)
    assert same(tensors(straight), tensors(again))
    assert without_seconds(continued) == without_seconds(outcome)
    assert (continued.test, continued.epoch) == (outcome.test, outcome.epoch)


def test_a_training_leaves_the_global_generator_alone() -> None:
    model = network()
    before = torch.random.get_rng_state()
    train(model, replace(RECIPE, epochs=1), DATA, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_seed_gives_another_network() -> None:
    first, second = network(), network()
    train(first, RECIPE, DATA, seed=1)
    train(second, RECIPE, DATA, seed=2)
    assert not same(tensors(first), tensors(second))


def test_training_learns_and_ends_in_eval_mode() -> None:
    model = network()
    steps: list[int] = []
    recipe = replace(RECIPE, epochs=12, augmentation=Augmentation())
    outcome = train(model, recipe, DATA, seed=0, progress=steps.append)
    assert outcome.records[-1].train_loss < outcome.records[0].train_loss / 2
    assert outcome.test.accuracy > 0.6
    assert not model.training
    assert steps == list(range(1, count_steps(recipe, DATA) + 1))


def test_the_best_epoch_on_the_held_out_images_is_chosen() -> None:
    recipe = replace(RECIPE, epochs=8, reestimate_batch_norm=False, schedule=Constant(0.3), clipping=None)
    seen: list[dict[str, Tensor]] = []
    model = network()
    outcome = train(model, recipe, DATA, seed=3, on_epoch=lambda _: seen.append(tensors(model)))
    accuracies = [record.validation_accuracy or 0.0 for record in outcome.records]
    assert outcome.epoch == 1 + accuracies.index(max(accuracies))
    assert outcome.epoch < 8  # or the test would not tell it from the last
    assert same(tensors(model), seen[outcome.epoch - 1])
    assert not same(seen[-1], seen[outcome.epoch - 1])


def test_held_out_images_are_a_part_of_every_class_and_never_trained_on() -> None:
    """A batch as large as all that is left shows how many images an epoch has."""
    recipe = replace(RECIPE, validation_part=0.4, batch_size=1)
    left = sum(int(n) - round(0.4 * int(n)) for n in np.bincount(LABELS[:45]))
    assert count_steps(recipe, DATA) == 3 * left


def test_batch_norm_statistics_are_set_after_the_last_epoch() -> None:
    recipe = replace(RECIPE, choose_best=False, validation_part=0.0)
    plain, renewed = network(), network()
    train(plain, replace(recipe, reestimate_batch_norm=False), DATA, seed=0)
    train(renewed, recipe, DATA, seed=0)
    layers = [name for name, module in plain.named_modules() if isinstance(module, STATISTICS_LAYERS)]
    names = [f"{layer}.{statistic}" for layer in layers for statistic in ("running_mean", "running_var")]
    left, right = tensors(plain), tensors(renewed)
    assert all(torch.equal(left[n], right[n]) for n in left if n not in names and "tracked" not in n)
    assert all(not torch.equal(left[name], right[name]) for name in names)


def test_bfloat16_trains_and_is_another_arithmetic() -> None:
    exact, mixed = network(), network()
    train(exact, RECIPE, DATA, seed=0, precision="float32")
    outcome = train(mixed, RECIPE, DATA, seed=0, precision="bfloat16")
    assert all(math.isfinite(record.train_loss) for record in outcome.records)
    assert not same(tensors(exact), tensors(mixed))
    assert all(p.dtype == torch.float32 for p in mixed.parameters())


def test_larger_images_are_cropped_to_the_network_s_input() -> None:
    data = TrainingData(
        train_images=np.pad(IMAGES, ((0, 0), (1, 2), (3, 0), (0, 0))),
        train_labels=LABELS,
        test_images=IMAGES,
        test_labels=LABELS,
    )
    seen = []
    model = network()
    model.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    train(model, RECIPE, data, seed=0, input_size=(6, 6))
    assert set(seen) == {(6, 6)}


def test_decay_is_for_weights_alone_and_gains_learn_slowly_in_paper_3() -> None:
    model = network()
    roles = roles_of_parameters(model)
    optimiser = build_optimiser(model, RECIPES["paper-3"])
    set_rate(optimiser, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(p)]: (group["weight_decay"], group["lr"]) for group in optimiser.param_groups for p in group["params"]
    }
    expected = {ParameterRole.WEIGHT: (1e-4, 0.1), ParameterRole.GAIN: (0.0, 0.001), ParameterRole.SHIFT: (0.0, 0.1)}
    assert found == {name: expected[role] for name, role in roles.items()}
    assert set(roles.values()) == set(ParameterRole)


def test_a_loss_that_is_no_number_is_an_error_that_says_what_to_try(tmp_path: Path) -> None:
    recipe = replace(RECIPE, schedule=Constant(1e30), clipping=None)
    state = tmp_path / "state.safetensors"
    with pytest.raises(
        TrainingDiverged, match=r"no longer a number in epoch 1, batch .*try a tenth of the learning rate"
    ):
        train(network(), recipe, DATA, seed=0, state=state)
    assert not state.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 8}, "seed: 7 in the file, 8 asked for"),
        ({"recipe": replace(RECIPE, epochs=9)}, r"recipe: .*epochs=3.* in the file, .*epochs=9"),
        ({"precision": "bfloat16"}, "precision: float32 in the file, bfloat16 asked for"),
    ],
)
def test_a_state_of_another_training_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    train(network(), RECIPE, DATA, seed=7, state=state, precision="float32")
    arguments: dict[str, object] = {"recipe": RECIPE, "seed": 7, "precision": "float32", **change}
    recipe = arguments.pop("recipe")
    with pytest.raises(BadInput, match=message):
        train(network(), recipe, DATA, state=state, **arguments)  # type: ignore[arg-type]  # one table for all


def test_a_state_of_another_network_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    train(network(), RECIPE, DATA, seed=7, state=state)
    other = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    before = tensors(other)
    with pytest.raises(BadInput, match=r"state.safetensors: not a training state of this network .*remove the file"):
        train(other, RECIPE, DATA, seed=7, state=state)
    assert same(before, tensors(other))
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(BadInput, match=r"state.safetensors: damaged or not a training state"):
        train(network(), RECIPE, DATA, seed=7, state=state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "device 'tpu' is unknown; choose cpu or cuda"),
        ({"precision": "float8"}, "precision 'float8' is unknown; choose one of auto, float32, bfloat16"),
        ({"input_size": (7, 6)}, "images are 6 x 6 pixels, the network's input 7 x 6"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        train(network(), RECIPE, DATA, seed=0, **arguments)  # type: ignore[arg-type]  # one table for all


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused() -> None:
    with pytest.raises(BadInput, match="torch sees no CUDA device"):
        train(network(), RECIPE, DATA, seed=0, device="cuda")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": IMAGES.astype(np.float32)}, "train images are float32"),
        ({"test_images": IMAGES[:0]}, r"test images are uint8 \(0, 6, 6, 1\), expected uint8"),
        ({"train_labels": LABELS[:3]}, r"train labels are int64 \(3,\), expected 45 integers"),
        ({"test_labels": LABELS[45:] - 9}, "test labels go down to -[0-9], expected 0 or more"),
    ],
)
def test_data_of_another_form_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        replace(DATA, **change)  # type: ignore[arg-type]  # one table for all


def records() -> tuple[EpochRecord, ...]:
    return train(network(), RECIPE, DATA, seed=0).records


def test_the_csv_has_one_line_an_epoch() -> None:
    lines = list(csv.DictReader(as_csv(records()).splitlines()))
    assert len(lines) == 3
    assert tuple(lines[0]) == COLUMNS
    assert [line["epoch"] for line in lines] == ["1", "2", "3"]
    assert float(lines[0]["learning_rate"]) == 0.05
    assert all(float(line[name]) >= 0 for line in lines for name in COLUMNS)
    assert as_csv([replace(records()[0], validation_loss=None)]).splitlines()[1].split(",")[6] == ""


@pytest.mark.parametrize(("name", "start"), [("plot.svg", b"<?xml"), ("plot.png", b"\x89PNG")])
def test_the_plot_is_a_picture(name: str, start: bytes, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_plot(records(), tmp_path / name, title="digits")
    assert (tmp_path / name).read_bytes().startswith(start)


def test_the_state_is_readable_without_torch(tmp_path: Path) -> None:
    from safetensors import safe_open

    state = tmp_path / "state.safetensors"
    train(network(), RECIPE, DATA, seed=7, state=state)
    with safe_open(state, framework="numpy") as file:
        header = json.loads(file.metadata()["training"])
    assert [record["epoch"] for record in header["records"]] == [1, 2, 3]
    assert header["settings"]["seed"] == "7"
