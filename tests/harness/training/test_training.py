"""Training by a recipe: against a plain script, over ranks, into records and tables."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import made_images
import numpy as np
import pytest
import torch
from timm.data import Mixup, create_transform
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torchvision.datasets import ImageFolder

from attnbench import recipes, store
from attnbench.configurations import Configuration
from attnbench.errors import AttnbenchError
from attnbench.harness.models.backbone import create_model
from attnbench.harness.training import checkpoint, checkpoint_scores, runs
from attnbench.harness.training.image_transforms import for_training
from attnbench.harness.training.journal import read_rows
from attnbench.harness.training.randomness import seed_of
from attnbench.harness.training.ranks import Ranks
from attnbench.progress import QuietProgress
from attnbench.record import Measurement
from attnbench.tables import render
from attnbench.tables.paper_table import rebuilt
from attnbench.tables.papers import get_paper_table

SIZE, BATCH = 32, 16


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_images.folder(tmp_path_factory.mktemp("images") / "made", train=88, test=23)


def request_of(made: Path, out: Path, recipe: str = "swin_t", **given: Any) -> runs.Request:
    changes = {"schedule.epochs": 2, "global_batch": BATCH, **given.pop("changes", {})}
    return runs.Request(
        layout=given.pop("layout", "swin_pico"),
        mechanism=given.pop("mechanism", "shifted_window"),
        recipe=recipes.get(recipe).changed(changes),
        changes=changes,
        root=str(made),
        out=out,
        resolution=SIZE,
        workers=0,
        **given,
    )


def train(request: runs.Request) -> Any:
    return runs.train(request, Ranks(), QuietProgress())


def losses(folder: Path) -> list[float]:
    return [float(row["loss"]) for row in read_rows(folder / "steps.csv")]


def plain_losses(made: Path, updates: int, epochs: int) -> list[float]:
    """Swin-T's recipe written down on timm's parts, with the seeds of docs/training.md."""
    data = ImageFolder(str(made / "train"))
    steps = len(data) // BATCH
    torch.manual_seed(seed_of(0, "model"))
    model = create_model(
        "swin_pico", "shifted_window", num_classes=5, in_chans=3, img_size=SIZE, drop_path_rate=0.2
    )
    transform = create_transform(
        SIZE, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic",
        re_prob=0.25, re_mode="pixel", re_count=1, color_jitter=0.4,
    )  # fmt: skip
    mix = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=5)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=5e-4 * BATCH / 512, weight_decay=0.05)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=epochs * steps, lr_min=5e-6 * BATCH / 512,
        warmup_t=20 * steps, warmup_lr_init=5e-7 * BATCH / 512, t_in_epochs=False,
    )  # fmt: skip
    found = []
    for update in range(updates):
        epoch, step = divmod(update, steps)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed_of(0, "order", epoch)))
        images, labels = [], []
        for index in order[step * BATCH : (step + 1) * BATCH].tolist():
            picture, label = data[index]
            _seed(seed_of(0, "sample", epoch, index, 0))
            images.append(transform(picture))
            labels.append(label)
        _seed(seed_of(0, "step", update, 0))
        mixed, target = mix(torch.stack(images), torch.tensor(labels))
        loss = SoftTargetCrossEntropy()(model(mixed), target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        scheduler.step_update(update)  # with the update that has ended
        found.append(loss.item())
    return found


def _seed(seed: int) -> None:
    import random

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def test_the_first_losses_are_those_of_a_plain_script(tmp_path: Path) -> None:
    made = made_images.folder(tmp_path / "whole", train=112, test=5, broken=False)
    train(request_of(made, tmp_path / "run", changes={"schedule.epochs": 3}))
    ours = losses(tmp_path / "run")[:20]
    assert ours == pytest.approx(plain_losses(made, 20, 3), abs=1e-5)
    assert len(ours) == 20


def test_two_ranks_train_as_one_with_the_same_global_batch(made: Path, tmp_path: Path) -> None:
    """Micro-batches of eight, one after another or side by side; drop path, Mixup and all."""
    train(request_of(made, tmp_path / "one", device_batch=8))
    arguments = [
        "--layout=swin_pico", "--mechanism=shifted_window", "--recipe=swin_t", "--epochs=2",
        f"--global-batch={BATCH}", "--device-batch=8", f"--resolution={SIZE}", "--workers=0", "--device=cpu",
        f"--data={made}", f"--out={tmp_path / 'two'}",
    ]  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, "-m", "attnbench", "train", *arguments],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    (_, one), (_, two) = (
        checkpoint.newest(tmp_path / name, print) or pytest.fail("no checkpoint") for name in ("one", "two")
    )
    for name, tensor in one.tensors.items():
        if name.startswith("model."):
            torch.testing.assert_close(two.tensors[name], tensor, rtol=1e-3, atol=1e-5)
    for a, b in zip(one.facts["history"], two.facts["history"], strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_every_image_is_scored_once_on_any_number_of_ranks(made: Path) -> None:
    """23 images over three ranks, none padded: the whole counts add up."""
    from attnbench.harness.training.data_paths import open_images
    from attnbench.harness.training.evaluation import score
    from attnbench.harness.training.image_transforms import for_evaluation
    from attnbench.harness.training.images import Damage

    source = open_images("", str(made), "test")
    model = create_model("swin_pico", "identity", num_classes=5, in_chans=3)
    how = recipes.get("swin_t").evaluation
    transform = for_evaluation(how, 28, source.mean, source.std)
    whole = score(model, source, transform, Ranks(), Damage(0, print), batch_size=4)

    class Part(Ranks):
        def sum(self, values: Tensor) -> Tensor:
            return values

    parts = [score(model, source, transform, Part(r, 3), Damage(0, print), batch_size=4) for r in range(3)]
    assert [part["images"] for part in parts] == [8, 8, 7]
    assert whole["images"] == 23
    right = sum(part["top1"] * part["images"] / 100 for part in parts)
    assert right == pytest.approx(whole["top1"] * 23 / 100)


@pytest.fixture(scope="module")
def finished(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a recipe with a running mean, which is scored too."""
    out = tmp_path_factory.mktemp("run")
    train(request_of(made, out, "deit_s", changes={"ema_decay": 0.9}))
    return out


def test_records_say_how_it_was_trained(finished: Path) -> None:
    found = {m.name: m for m in store.read(finished / "records", print)}
    assert set(found) == {
        f"top{k}{of}{best}" for k in (1, 5) for of in ("", "_ema") for best in ("", "_best")
    }
    m = found["top1"]
    assert (
        m.cell.recipe
        == recipes.get("deit_s")
        .changed({"schedule.epochs": 2, "global_batch": BATCH, "ema_decay": 0.9})
        .digest()
    )
    assert (m.cell.metric, m.cell.batch_size, m.cell.resolution) == ("training", BATCH, SIZE)
    details = m.details
    assert (details["recipe"], details["epochs"], details["updates"]) == ("deit_s", 2, 10)
    assert details["images_seen"] == 160
    assert details["peak_lr"] == pytest.approx(5e-4 * BATCH / 512)
    assert details["recipe_changes"]["schedule.epochs"] == 2
    assert any("one late" in o or "has ended" in o for o in details["oddities"])
    rows = read_rows(finished / "log.csv")
    assert [float(row["top1"]) for row in rows][-1] == pytest.approx(m.value)
    assert found["top1_best"].value == max(float(row["top1"]) for row in rows)


def test_eval_gives_what_training_recorded(made: Path, finished: Path) -> None:
    last = max(finished.glob("checkpoint-*"))
    request = checkpoint_scores.Request(last, "", str(made), ("authors", "timm"))
    lines = checkpoint_scores.run(request, Ranks(), print)
    recorded = {m.name: m.value for m in store.read(finished / "records", print)}
    assert f"top-1 {recorded['top1']:.3f} %" in lines[1]
    assert lines[1].startswith("raw weights, crop of deit_s's authors (center, 0.875) at 32 px")
    assert lines[2].startswith("raw weights, crop of timm (center, 0.9)")
    assert f"top-1 {recorded['top1_ema']:.3f} %" in lines[3]
    assert "of 23 images" in lines[1]


def test_eval_of_released_weights_by_the_key_maps(made: Path, tmp_path: Path) -> None:
    model = create_model("swin_pico", "shifted_window", num_classes=5, in_chans=3)
    torch.save({"model": model.state_dict()}, tmp_path / "released.pth")
    options = {"num_classes": 5, "in_chans": 3}
    named = Configuration("swin_pico", "shifted_window", options)
    lines = checkpoint_scores.run(
        checkpoint_scores.Request(tmp_path / "released.pth", "", str(made), ("authors",), model=named),
        Ranks(),
        print,
    )
    assert lines[1].startswith("model weights, crop of swin_t's authors")
    named = Configuration("swin_pico", "shifted_window", options | {"num_classes": 1000})
    other = checkpoint_scores.Request(tmp_path / "released.pth", "", str(made), ("authors",), model=named)
    with pytest.raises(AttnbenchError, match="the weights tell 1000 classes, the data have 5"):
        checkpoint_scores.run(other, Ranks(), print)


def as_row(m: Measurement, **changed: Any) -> Measurement:
    """The record as one of Swin-T itself."""
    cell = m.cell.model_copy(update={"layout": "swin_t", "mechanism": "shifted_window", "options": {}})
    cell = cell.model_copy(update=changed.pop("cell", {}))
    return m.model_copy(update={"cell": cell, "details": m.details | changed})


def test_a_short_run_never_looks_like_the_papers(finished: Path) -> None:
    m = next(m for m in store.read(finished / "records", print) if m.name == "top1")
    table = rebuilt(get_paper_table("classification"), [as_row(m)])
    assert table.raw.loc["swin_t", "trained_top1_percent"] == pytest.approx(m.value)
    assert "gap_trained_top1" not in table.raw
    text = render.render(table, "md")
    assert "Not the paper's training: 2 of 300 epochs; recipe changed: schedule.epochs=2" in text
    assert "recipe deit_s with schedule.epochs=2" in text
    assert "2 epochs on made (88 images, 5 classes) at 32 px" in text


def test_a_whole_run_has_a_gap(finished: Path) -> None:
    m = next(m for m in store.read(finished / "records", print) if m.name == "top1")
    whole = as_row(
        m.model_copy(update={"value": 81.0}),
        cell={"recipe": recipes.get("swin_t").digest(), "resolution": 224},
        recipe="swin_t", recipe_changes={}, epochs=300, data="imagenet",
    )  # fmt: skip
    table = rebuilt(get_paper_table("classification"), [whole])
    published = float(table.raw.loc["swin_t", "published_top1"])
    assert table.raw.loc["swin_t", "gap_trained_top1"] == pytest.approx(81.0 - published)


def test_too_many_broken_images_stop_the_run(made: Path, tmp_path: Path) -> None:
    with pytest.raises(
        AttnbenchError, match=r"2 images cannot be decoded, more than the limit of 1; the last is"
    ):
        train(request_of(made, tmp_path, max_bad_images=1))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"recipe": "lv_vit_s"}, r"recipe lv_vit_s needs --token-labels DIR"),
        ({"token_labels": "x"}, "--token-labels is of recipes that use them; swin_t does not"),
        ({"changes": {"global_batch": 128}}, "give --global-batch 64 or less"),
        ({"precision": "fp16"}, "fp16 is for CUDA devices"),
    ],
)
def test_what_does_not_fit_is_refused(made: Path, tmp_path: Path, given: dict[str, Any], told: str) -> None:
    with pytest.raises(AttnbenchError, match=told):
        train(request_of(made, tmp_path, **given))


def test_images_that_are_no_numbers_stop_with_the_step(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(*given: Any) -> Any:
        real = for_training(*given)
        return lambda image: real(image) * math.nan

    monkeypatch.setattr("attnbench.harness.training.classification.for_training", spoiled)
    with pytest.raises(
        AttnbenchError, match=r"the loss is nan at update 0 \(epoch 0, step 0\) of seed 0; there is"
    ):
        train(request_of(made, tmp_path))


def test_posterizing_to_nothing_is_black_as_it_was_before_pillow_refused_it() -> None:
    recipe = recipes.get("swin_t").augmentation.model_copy(
        update={"auto_augment": "rand-m10-inc1-n40", "erasing": 0.0}
    )
    _seed(0)
    transform = for_training(recipe, SIZE, (0.0,) * 3, (1.0,) * 3)
    from PIL import Image

    for _ in range(5):
        assert transform(Image.new("RGB", (40, 40), (200, 200, 200))).shape == (3, SIZE, SIZE)


def test_where_memory_is_short_gradients_are_summed_over_smaller_parts(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device on which no more than four images fit at once: the update stays one of sixteen."""
    real = create_model("swin_pico", "identity").__class__.forward

    def forward(self: Any, images: Tensor) -> Tensor:
        if len(images) > 4 and self.training:
            raise torch.OutOfMemoryError("made up")
        return real(self, images)

    monkeypatch.setattr("attnbench.harness.models.backbone.Backbone.forward", forward)
    result = train(request_of(made, tmp_path / "short", mechanism="identity"))
    assert result.updates == 10
    m = next(iter(store.read(tmp_path / "short" / "records", print)))
    assert (m.details["micro_batch"], m.details["global_batch"]) == (4, BATCH)
    assert (
        train(request_of(made, tmp_path / "short", mechanism="identity")).updates == 10
    )  # taken up as it was
    with pytest.raises(AttnbenchError, match=r"8 images at once do not fit .* give --device-batch 4"):
        train(request_of(made, tmp_path / "asked", mechanism="identity", device_batch=8))
