"""The table of recipes: the numbers of the papers, spelled out once more."""

import hashlib
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from bnhw.errors import BadInput  # noqa: E402
from bnhw.export.normalisations import ParameterRole  # noqa: E402
from bnhw.export.recipes import PAPER_3_SEEDS, RECIPES, Recipe, find_recipe, spread_seed  # noqa: E402
from bnhw.export.schedules import Constant, LogarithmicClipping  # noqa: E402


def test_paper_1() -> None:
    recipe = RECIPES["paper-1"]
    assert (recipe.optimiser, recipe.momentum, recipe.weight_decay, recipe.batch_size) == ("sgd", 0.9, 5e-4, 125)
    assert (recipe.schedule.rate(0), recipe.schedule.rate(1)) == (0.1, 1e-5)
    assert (recipe.epochs, RECIPES["paper-1-imagenet"].epochs) == (300, 60)
    assert (recipe.augmentation.cutout, recipe.augmentation.padding, recipe.augmentation.flip) == (18, 4, True)
    assert RECIPES["paper-1-imagenet"].augmentation.cutout == 0
    assert recipe.reestimate_batch_norm
    assert recipe.clipping is None
    assert set(recipe.decayed) == set(ParameterRole)


@pytest.mark.parametrize(
    ("name", "rate", "epochs"),
    [("monotone", 0.01, 90), ("step", 0.001, 90), ("cyclic", 0.001, 90), ("warm-up", 0.005, 120)],
)
def test_paper_2(name: str, rate: float, epochs: int) -> None:
    """Rates of tables 4 and 6; 120 epochs for the warm-up; clipping from 5."""
    recipe = RECIPES[f"paper-2-{name}"]
    assert (recipe.schedule.peak, recipe.epochs) == (rate, epochs)
    assert recipe.clipping == LogarithmicClipping(5.0)


def test_paper_3() -> None:
    recipe, base = RECIPES["paper-3"], RECIPES["paper-3-base"]
    assert (recipe.optimiser, recipe.momentum, recipe.weight_decay, recipe.batch_size) == ("sgd", 0.9, 1e-4, 128)
    assert recipe.decayed == (ParameterRole.WEIGHT,)
    assert (recipe.gain_rate_divisor, base.gain_rate_divisor) == (100, 1)
    assert recipe.epochs == 180
    assert (recipe.schedule.rate(0), recipe.schedule.rate(1)) == (0.1, 0)
    assert recipe.schedule.rate(0.5) == pytest.approx(0.05)
    assert (recipe.validation_part, recipe.choose_best) == (0.1, True)
    assert (recipe.augmentation.flip, recipe.augmentation.padding, recipe.augmentation.cutout) == (True, 0, 0)


def test_paper_4() -> None:
    recipe = RECIPES["paper-4"]
    assert (recipe.optimiser, recipe.epochs, recipe.batch_size) == ("adam", 15, 20)
    assert {recipe.schedule.rate(k / 15) for k in range(15)} == {1e-3}


def test_mnist_has_shifts_and_no_flips() -> None:
    augmentation = RECIPES["mnist"].augmentation
    assert (augmentation.flip, augmentation.cutout, augmentation.padding, augmentation.fill) == (False, 0, 1, "zero")


def test_seeds_go_through_md5() -> None:
    assert list(PAPER_3_SEEDS) == list(range(1, 16))
    digest = hashlib.md5(b"3", usedforsecurity=False).digest()
    assert spread_seed(3) == int.from_bytes(digest[:8], "big")
    assert len({spread_seed(seed, "epoch", k) for seed in PAPER_3_SEEDS for k in range(20)}) == 300
    assert spread_seed(1, "epoch", 2) != spread_seed(1, "epoch", 2, "order")
    for seed in PAPER_3_SEEDS:
        torch.Generator().manual_seed(spread_seed(seed))


def test_an_unknown_recipe_is_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(BadInput, match=r"recipe 'paper-5' is unknown; choose one of paper-1, .*, mnist"):
        find_recipe("paper-5")
    assert find_recipe("mnist") is RECIPES["mnist"]


def test_impossible_recipes_are_refused_with_every_reason() -> None:
    with pytest.raises(
        BadInput, match=r"recipe: epochs is 0, expected at least 1; .*momentum is 1.0.*; choose_best is True"
    ):
        Recipe(source="", epochs=0, batch_size=1, schedule=Constant(1.0), momentum=1.0, choose_best=True)


def test_the_table_of_the_documentation_has_every_recipe_and_its_numbers() -> None:
    text = (Path(__file__).parent.parent / "docs" / "training.md").read_text()
    lines = text.split("<!-- recipe table -->\n")[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0].strip("`") for row in rows] == list(RECIPES)
    for name, optimiser, rate, epochs, batch, decay, _ in rows:
        recipe = RECIPES[name.strip("`")]
        assert optimiser == {"sgd": f"SGD {recipe.momentum}", "adam": "Adam"}[recipe.optimiser]
        assert f"{recipe.schedule.peak:g}" in rate
        assert (int(epochs), int(batch)) == (recipe.epochs, recipe.batch_size)
        assert float(decay.split(",")[0]) == recipe.weight_decay
        assert ("weights alone" in decay) == (recipe.decayed == (ParameterRole.WEIGHT,))
