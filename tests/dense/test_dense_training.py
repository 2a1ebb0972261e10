"""Recipes, rates, resumption and ranks of dense models; the command; what a run records."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner
from dense_models import WIDTHS, make
from torch import nn

from attnbench import dense_recipes, store
from attnbench.commands.train import command as train_command
from attnbench.dense_recipes import DenseRecipe
from attnbench.errors import AttnbenchError
from attnbench.harness.data.scenes import Scenes
from attnbench.harness.dense.dense_scoring import score
from attnbench.harness.dense.dense_session import DenseRequest, open_data, train
from attnbench.harness.dense.optimising import DenseSchedule, make_optimizer
from attnbench.harness.dense.tasks import make_task
from attnbench.harness.training.checkpoint import newest
from attnbench.harness.training.ranks import Ranks
from attnbench.heads import HEADS, RECIPES
from attnbench.progress import QuietProgress

SMALL = {"train": 12, "test": 5}


def recipe(head: str, **changes: Any) -> DenseRecipe:
    usual = {
        "schedule.iterations": 4,
        "test.every": 2,
        "global_batch": 4,
        "schedule.warmup": 2,
        "widths": WIDTHS[head],
    }
    return dense_recipes.get(f"scenes_{head}").changed({**usual, **changes})


def request(head: str, out: Path, **fields: Any) -> DenseRequest:
    mechanism = fields.pop("mechanism", "shifted_window")
    of = fields.pop("recipe", None) or recipe(head)
    return DenseRequest("swin_pico", mechanism, of, out, "scenes", data_options=SMALL, workers=0, **fields)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = newest(folder, print)
    assert found is not None
    return found[1].tensors


@pytest.mark.parametrize("name", dense_recipes.names())
def test_every_recipe_says_where_it_is_from(name: str) -> None:
    found = dense_recipes.get(name)
    assert found.source
    assert found.oddities
    assert found.head in HEADS
    assert len(found.digest()) == 16


def test_the_papers_recipes_are_theirs() -> None:
    fpn, upernet = dense_recipes.get("sem_fpn_80k"), dense_recipes.get("upernet_160k")
    assert (fpn.schedule.iterations, fpn.global_batch, fpn.optimizer.lr, fpn.optimizer.no_decay) == (
        80_000,
        32,
        2e-4,
        (),
    )
    assert (upernet.schedule.iterations, upernet.global_batch, upernet.optimizer.lr) == (160_000, 16, 6e-5)
    assert dense_recipes.get("sem_fpn_40k").schedule.iterations == 40_000
    for name in ("retinanet_1x", "mask_rcnn_1x"):
        found = dense_recipes.get(name)
        assert (found.schedule.epochs, found.schedule.steps, found.global_batch) == (12, (8, 11), 16)
        assert found.input.fit == (1333, 800)
        assert found.options["bra"] == {"num_regions": 16}
    assert set(RECIPES.values()) <= set(dense_recipes.names())


def test_a_wrong_recipe_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(AttnbenchError, match=r"schedule\.rate"):
        dense_recipes.get("sem_fpn_80k").changed({"schedule.rate": 1})
    with pytest.raises(AttnbenchError, match="sem_fpn_80"):
        dense_recipes.get("sem_fpn_80")
    path = tmp_path / "mine.toml"
    path.write_text('head = "fcn"\n')
    with pytest.raises(AttnbenchError, match=r"mine\.toml: "):
        dense_recipes.get(str(path))


def rate(name: str, update: int, epoch: int = 100) -> float:
    """Share of the peak, by mmcv's formulas written out: the regular rate, and the warm-up on it."""
    of = dense_recipes.get(name).schedule
    total = of.iterations or of.epochs * epoch
    if of.shape == "cosine":
        regular = of.final + 0.5 * (1 - of.final) * (math.cos(math.pi * update / total) + 1)
    elif of.shape == "poly":
        regular = (1 - update / total) ** of.power
    else:
        regular = 0.1 ** len([step for step in of.steps if step <= update // epoch])
    if update < of.warmup:
        regular *= 1 - (1 - update / of.warmup) * (1 - of.warmup_ratio)
    return regular


@pytest.mark.parametrize(
    "name", ["sem_fpn_80k", "sem_fpn_40k", "upernet_160k", "retinanet_1x", "mask_rcnn_1x"]
)
def test_rates_are_those_of_mmcvs_hooks(name: str) -> None:
    of = dense_recipes.get(name)
    total = of.schedule.iterations or of.schedule.epochs * 100
    optimizer = make_optimizer(nn.Linear(2, 2), of)
    schedule = DenseSchedule(optimizer, of, total, 100)
    for update in (0, 1, 499, 500, 799, 800, 1000, 1099, 1100, total // 2, total - 1):
        schedule.set(update)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(
            of.optimizer.lr * rate(name, update), rel=1e-12
        )


def test_what_is_not_decayed_is_layer_norms_and_tables() -> None:
    model = make("upernet")
    names = {id(p): name for name, p in model.named_parameters()}
    plain, kept = make_optimizer(model, dense_recipes.get("upernet_160k")).param_groups
    assert kept["weight_decay"] == 0
    assert all("norm" in names[id(p)] or names[id(p)].endswith("table") for p in kept["params"])
    assert any(names[id(p)].endswith("bias_table") for p in kept["params"])
    assert any(names[id(p)].startswith("maps.norms") for p in kept["params"])
    assert any(names[id(p)].endswith("bias") for p in plain["params"])  # unlike in classification
    everything = make_optimizer(model, dense_recipes.get("sem_fpn_80k")).param_groups
    assert len(everything) == 1
    assert everything[0]["weight_decay"] == 1e-4


@pytest.mark.parametrize(
    "head", [pytest.param(h, marks=pytest.mark.slow) if h == "mask_rcnn" else h for h in HEADS]
)
def test_a_run_that_stopped_ends_with_the_weights_of_one_that_did_not(head: str, tmp_path: Path) -> None:
    progress = QuietProgress()
    whole = train(request(head, tmp_path / "whole"), Ranks(), progress)
    for stop in (2, 4, 0):  # the last checkpoints are from after updates 1 and 3
        result = train(
            request(head, tmp_path / "parts", checkpoint_every=1, stop_after=stop), Ranks(), progress
        )
    assert result.updates == whole.updates == 4
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert result.history == whole.history
    records = store.read(tmp_path / "whole" / "records", print)
    names = {m.name for m in records}
    of_pixels, of_boxes = {"miou", "miou_context"}, {"ap_box", "ap_box_context"}
    assert names >= (of_pixels if head in ("sem_fpn", "upernet") else of_boxes)
    assert records[0].details["images_seen"] == 16
    assert len(records[0].details["differences"]) > 2
    assert records[0].cell.dataset == "scenes"


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train(request("sem_fpn", tmp_path, checkpoint_every=1, stop_after=2), Ranks(), QuietProgress())
    with pytest.raises(AttnbenchError, match="holds a run with mechanism 'shifted_window'"):
        train(request("sem_fpn", tmp_path, mechanism="identity"), Ranks(), QuietProgress())


def test_a_checkpoint_is_scored_in_other_ways(tmp_path: Path) -> None:
    train(request("sem_fpn", tmp_path), Ranks(), QuietProgress())
    path = tmp_path / "checkpoint-000000004.safetensors"
    plain = score(path, "scenes", "", {}, {}, Ranks())
    own = store.read(tmp_path / "records", print)
    assert plain["miou"] == next(m.value for m in own if m.name == "miou")
    ways = {
        "test.mode": "slide",
        "test.crop": 24,
        "test.stride": 16,
        "test.flip": True,
        "test.scales": [1.0, 1.5],
    }
    assert score(path, "scenes", "", {}, ways, Ranks()).keys() == plain.keys()
    narrower = recipe("sem_fpn", widths=WIDTHS["sem_fpn"] | {"head_channels": 4})
    other = tmp_path / "other.safetensors"
    altered(path, {"recipe_settings": narrower.model_dump(mode="json")}, other)
    with pytest.raises(AttnbenchError, match="of another model"):
        score(other, "scenes", "", {}, {}, Ranks())


def altered(path: Path, identity: dict[str, Any], to: Path) -> None:
    from attnbench.harness.training import checkpoint

    state = checkpoint.read(path)
    state.facts["identity"] |= identity
    checkpoint.write(to, state)


def _evaluate(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.set_num_threads(1)
    for head in ("sem_fpn", "mask_rcnn"):
        found = make_task(recipe(head), Scenes(**SMALL), 0).evaluate(_model(head), Ranks(rank, world))
        Path(folder, f"{head}-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def _model(head: str) -> Any:
    model = make(head, num_classes=9 if head == "sem_fpn" else 6).eval()
    if head == "mask_rcnn":
        model.roi_heads.score_thresh = 0.0
    return model


@pytest.mark.slow
@torch.no_grad()
def test_two_ranks_score_as_one(tmp_path: Path) -> None:
    """Five images, which two ranks do not share evenly."""
    code = f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parent.parent)]}; "
    code += "import test_dense_training as t; t._evaluate({rank}, 2, {folder!r})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code.format(rank=rank, folder=str(tmp_path))], env=environment
        )
        for rank in range(2)
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = {
        head: make_task(recipe(head), Scenes(**SMALL), 0).evaluate(_model(head), Ranks())
        for head in ("sem_fpn", "mask_rcnn")
    }
    torch.set_num_threads(threads)
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    for head, scores in expected.items():
        for rank in range(2):
            assert json.loads((tmp_path / f"{head}-{rank}.json").read_text()) == pytest.approx(
                scores, abs=1e-12
            )


def test_the_command_trains_and_says_what_is_wrong(tmp_path: Path) -> None:
    runner = CliRunner()
    usual = ["--layout", "swin_pico", "--mechanism", "identity", "--data", "scenes", "--workers", "0"]
    usual += ["--data-option", "train=8", "--data-option", "test=2", "--out", str(tmp_path / "out")]
    small = ["--recipe-set", "schedule.iterations=1", "--recipe-set", "global_batch=2"]
    task = ["--task", "semantic", "--recipe", "scenes_sem_fpn"]
    done = runner.invoke(train_command, [*task, *usual, *small], catch_exceptions=False)
    assert "miou" in done.output
    for arguments, wrong in (
        (["--task", "detection", "--recipe", "scenes_sem_fpn"], "is of --task semantic"),
        ([*task, "--resolution", "64"], "--resolution is of --task classification"),
        ([*task, "--data-option", "depth=3"], "has no option 'depth'"),
    ):
        with pytest.raises(AttnbenchError, match=wrong):
            runner.invoke(train_command, [*arguments, *usual, *small], catch_exceptions=False)


def test_data_of_another_task_or_place_are_refused() -> None:
    with pytest.raises(AttnbenchError, match="lies on disk; give --data coco:FOLDER"):
        open_data("coco", "", {}, "detection")
    with pytest.raises(AttnbenchError, match="expected ADEChallengeData2016"):
        open_data("ade20k", "/nowhere", {"partial": True}, "semantic")
