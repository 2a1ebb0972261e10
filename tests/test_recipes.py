"""The recipes against the figures of the authors' code, typed in here once more."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attnbench import recipes
from attnbench.errors import AttnbenchError

# Images an update, peak, warm-up epochs, warm-up rate, lowest rate, epochs run, weight decay, limit of the
# gradient, drop path, repeats, running mean, changes per, late by one, interpolation, crop.
OFFICIAL: dict[str, tuple[Any, ...]] = {
    "biformer_stl": (1024, 1e-3, 5, 1e-6, 1e-5, 300, 0.05, 0, 0.1, 3, 0.99996, "epoch", 1, "bicubic", 0.875),
    "biformer_s": (1024, 1e-3, 5, 1e-6, 1e-5, 300, 0.05, 0, 0.15, 3, 0.99996, "epoch", 1, "bicubic", 0.875),
    "swin_t": (1024, 1e-3, 20, 1e-6, 1e-5, 300, 0.05, 5, 0.2, 1, 0, "update", 1, "bicubic", 0.875),
    "dat_t": (1024, 1e-3, 20, 1e-6, 1e-5, 300, 0.05, 5, 0.2, 1, 0, "update", 1, "bicubic", 0.875),
    "cswin_t": (2048, 2e-3, 20, 1e-6, 1e-5, 310, 0.05, 0, 0.2, 1, 0.99984, "epoch", 0, "random", 0.9),
    "twins_svt_s": (2048, 2e-3, 5, 1e-6, 1e-5, 300, 0.05, 5, 0.2, 1, 0, "epoch", 1, "bicubic", 0.875),
    "nat_t": (1024, 1e-3, 20, 1e-6, 5e-6, 310, 0.05, 5, 0.2, 1, 0, "update", 0, "random", 0.875),
    "deit_s": (1024, 1e-3, 5, 1e-6, 1e-5, 300, 0.05, 0, 0.1, 3, 0.99996, "epoch", 1, "bicubic", 0.875),
    "lv_vit_s": (1024, 1.6e-3, 5, 1e-6, 1e-5, 310, 0.05, 0, 0.1, 1, 0.99992, "epoch", 0, "random", 0.9),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_figures_are_those_of_the_released_code(name: str) -> None:
    recipe = recipes.get(name)
    warmup, peak, lowest = recipe.optimizer.rates(recipe.global_batch)
    found = (
        recipe.global_batch,
        peak,
        recipe.schedule.warmup_epochs,
        warmup,
        lowest,
        recipe.schedule.total_epochs,
        recipe.optimizer.weight_decay,
        recipe.optimizer.clip_grad,
        recipe.drop_path,
        recipe.augmentation.repeats,
        recipe.ema_decay,
        recipe.schedule.per,
        recipe.schedule.late,
        recipe.augmentation.interpolation,
        recipe.evaluation.crop_pct,
    )
    assert _same(found, OFFICIAL[name])
    assert recipe.oddities
    assert recipe.source
    mixing = (recipe.augmentation.mixup, recipe.augmentation.cutmix)
    assert mixing == ((0.0, 0.0) if name == "lv_vit_s" else (0.8, 1.0))
    assert (recipe.augmentation.smoothing, recipe.augmentation.erasing) == (0.1, 0.25)
    assert recipe.augmentation.auto_augment == "rand-m9-mstd0.5-inc1"


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return all(
        x == y if isinstance(y, str) else x == pytest.approx(y, rel=1e-12) for x, y in zip(a, b, strict=True)
    )


def test_the_rate_follows_the_batch_as_each_authors_code_has_it() -> None:
    stl, swin, nat = (recipes.get(name).optimizer for name in ("biformer_stl", "swin_t", "nat_t"))
    assert stl.rates(2048) == pytest.approx((1e-6, 2e-3, 1e-5))  # the peak alone
    assert swin.rates(2048) == pytest.approx((2e-6, 2e-3, 2e-5))  # all three
    assert nat.rates(2048) == pytest.approx((1e-6, 1e-3, 5e-6))  # nothing


def test_what_stands_beside_swin_t_in_biformers_table() -> None:
    found = {
        key: (a, b) for key, a, b in recipes.differences(recipes.get("swin_t"), recipes.get("biformer_stl"))
    }
    assert found == {
        "drop_path": (0.2, 0.1),
        "ema_decay": (0.0, 0.99996),
        "broadcast_buffers": (False, True),
        "schedule.warmup_epochs": (20, 5),
        "schedule.per": ("update", "epoch"),
        "optimizer.clip_grad": (5.0, 0.0),
        "augmentation.repeats": (1, 3),
        "evaluation.select": ("last", "best"),
    }


def test_hashes_tell_what_bears_on_the_result() -> None:
    recipe = recipes.get("swin_t")
    assert recipe.digest() == recipe.model_copy(update={"title": "x", "oddities": ()}).digest()
    assert recipe.changed({"schedule.epochs": 2}).digest() != recipe.digest()
    assert len({recipes.get(name).digest() for name in recipes.names()}) == len(recipes.names())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schedule.epoch": 2}, "unknown setting of a recipe 'schedule.epoch'; did you mean schedule.epochs"),
        ({"schedule": 2}, "recipe swin_t with schedule=2"),
        ({"name": "x"}, "unknown setting of a recipe 'name'"),
        ({"schedule.epochs": 0}, "schedule.epochs: Input should be greater than or equal to 1"),
        ({"schedule.epochs": "many"}, "got 'many'"),
        ({"optimizer.lr": float("nan")}, "optimizer.lr"),
        ({"drop_path": 1.5}, "drop_path"),
        ({"precision": "int8"}, "precision"),
    ],
)
def test_settings_that_there_are_not_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(AttnbenchError) as error:
        recipes.get("swin_t").changed(changes)
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("schedule = 3", r"schedule: Input should be .* \(got 3\)"),
        ("[schedule]\nepochs = 1\nwarmup_epochs = 0\n", "optimizer: Field required"),
        ("warmup = 3", "warmup: Extra inputs are not permitted"),
        ("= 3", "cannot be read as TOML"),
    ],
)
def test_files_that_are_no_recipe_are_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(AttnbenchError, match=why):
        recipes.get(str(path))


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[schedule]\nepochs = 3\nwarmup_epochs = 0\n[optimizer]\nlr = 1e-3\n")
    recipe = recipes.get(str(path))
    assert (recipe.name, recipe.schedule.epochs, recipe.global_batch) == ("mine", 3, 1024)
    with pytest.raises(AttnbenchError, match="there is no recipe file"):
        recipes.get(str(tmp_path / "other.toml"))
    with pytest.raises(AttnbenchError, match="unknown recipe 'swin'; did you mean"):
        recipes.get("swin")


def test_recipes_are_read_without_torch() -> None:
    code = "import sys; from attnbench import recipes; recipes.get('swin_t'); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
