"""The learning rate of every recipe at every update, against the formula worked out by hand."""

import math

import pytest
import torch

from attnbench import recipes
from attnbench.harness.training.schedule import CosineSchedule
from attnbench.recipes import Recipe


def rates(recipe: Recipe, steps: int) -> list[float]:
    """What timm's scheduler gives, update by update."""
    _, peak, _ = recipe.optimizer.rates(recipe.global_batch)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = CosineSchedule(optimizer, recipe, steps)
    found = []
    for update in range(recipe.schedule.total_epochs * steps):
        schedule.set(update)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def by_hand(name: str, update: int, steps: int) -> float:
    """Warm-up w + t (peak − w) / T_w up to T_w, then the cosine at t over T; t as each code counts it."""
    # peak, warm-up rate, lowest rate, epochs of warm-up and of the cosine, changes per update, one late
    peak, warm, low, first, span, per_update, late = {
        "biformer_stl": (1e-3, 1e-6, 1e-5, 5, 300, False, True),
        "biformer_s": (1e-3, 1e-6, 1e-5, 5, 300, False, True),
        "deit_s": (1e-3, 1e-6, 1e-5, 5, 300, False, True),
        "twins_svt_s": (2e-3, 1e-6, 1e-5, 5, 300, False, True),
        "swin_t": (1e-3, 1e-6, 1e-5, 20, 300, True, True),
        "dat_t": (1e-3, 1e-6, 1e-5, 20, 300, True, True),
        "swin_100e": (1e-3, 1e-6, 1e-5, 5, 100, True, True),
        "cswin_t": (2e-3, 1e-6, 1e-5, 20, 300, False, False),
        "nat_t": (1e-3, 1e-6, 5e-6, 20, 300, True, False),
        "lv_vit_s": (1.6e-3, 1e-6, 1e-5, 5, 300, False, False),
        "quick": (3e-3, 1e-5, 1e-5, 1, 5, True, False),
    }[name]
    scale = steps if per_update else 1
    t = max((update if per_update else update // steps) - late, 0)
    if t < first * scale:
        return warm + t * (peak - warm) / (first * scale)
    if t >= span * scale:
        return low
    return low + (peak - low) * (1 + math.cos(math.pi * t / (span * scale))) / 2


@pytest.mark.parametrize("name", recipes.names())
def test_every_rate_of_every_recipe(name: str) -> None:
    steps = 40
    found = rates(recipes.get(name), steps)
    assert found == pytest.approx([by_hand(name, u, steps) for u in range(len(found))], rel=1e-9)


def test_epochs_that_the_authors_logs_show() -> None:
    twins = rates(recipes.get("twins_svt_s"), 1)
    assert twins[:3] == pytest.approx([1e-6, 1e-6, 4.008e-4])
    stl = rates(recipes.get("biformer_stl"), 1)
    assert stl[-1] == pytest.approx(1.011e-5, rel=1e-3)  # t = 298: the lowest rate is never reached
    assert max(stl) < 1e-3  # the warm-up meets a cosine that has begun without it


def test_swin_as_its_repository_has_it_now_warms_up_first() -> None:
    steps = 10
    now = rates(recipes.get("swin_t").changed({"schedule.warmup_prefix": True}), steps)
    assert now[201] == pytest.approx(1e-3)  # one late
    assert now[1601] == pytest.approx(1e-5 + (1e-3 - 1e-5) / 2)  # in the middle of the 280 epochs left
