"""Every recipe on a made-up ImageNet, on two ranks: killed, gone on with, evaluated; through shards too."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import made_images
import psutil
import pytest

from attnbench import recipes, store
from attnbench.harness.training import checkpoint

# Both ranks train one recipe after another; a run that is finished is passed over when the script runs again.
SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from attnbench import recipes
from attnbench.harness.training import checkpoint_scores, runs
from attnbench.harness.training.ranks import joined
from attnbench.progress import PlainProgress, QuietProgress

out, labels, *places = sys.argv[1:]
changes = {"schedule.epochs": 2, "schedule.cooldown_epochs": 0, "global_batch": 16}
with joined("cpu") as ranks:
    for place in places:
        for name in recipes.names():
            folder = Path(out) / f"{Path(place).name}-{name}"
            if (folder / "done").exists():
                continue
            recipe = recipes.get(name).changed(changes)
            request = runs.Request(
                layout="swin_pico", mechanism="shifted_window", recipe=recipe, changes=changes, root=place,
                out=folder, resolution=32, device_batch=8, workers=0, checkpoint_every=2,
                token_labels=labels if recipe.token_labels else "",
            )
            progress = PlainProgress() if ranks.first else QuietProgress()
            runs.train(replace(request, stop_after=7 + len(name)), ranks, progress)  # its state is lost
            runs.train(request, ranks, progress)
            last = max(folder.glob("checkpoint-*"))
            scored = checkpoint_scores.Request(last, "", place, ("authors", "timm"))
            lines = checkpoint_scores.run(scored, ranks, print)
            if ranks.first:
                (folder / "done").write_text("\\n".join(lines))
            ranks.wait()
"""


@pytest.mark.slow
def test_every_recipe_trains_is_killed_goes_on_and_is_evaluated(tmp_path: Path) -> None:
    made = made_images.folder(tmp_path / "made")
    shards = made_images.shards(made, tmp_path / "shards")
    labels = made_images.token_labels(made, tmp_path / "labels")
    for path in list(labels.rglob("*.pt")):  # shards call their images by file and key
        number = made_images.paths(made, "train").index(
            made / "train" / path.parent.name / f"{path.stem}.JPEG"
        )
        place = labels / f"made-train-{number // 100:03d}" / path.name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(path.read_bytes())
    out, places = tmp_path / "out", [str(made), str(shards)]
    draw, kills = random.Random(1), 0
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
    ]
    while True:
        with (tmp_path / f"log{kills}").open("w") as log:
            process = subprocess.Popen(
                [*launch, str(out), str(labels), *places],
                env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        if kills < 3:
            _until_at_work(process, out)
            time.sleep(draw.uniform(0, 6))
            torchrun = psutil.Process(process.pid)
            for one in [torchrun, *torchrun.children(recursive=True)]:  # ranks are sessions of their own
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            kills += 1
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL, (tmp_path / f"log{kills}").read_text()[-3000:]
    for place in places:
        for name in recipes.names():
            folder = out / f"{Path(place).name}-{name}"
            update, state = checkpoint.newest(folder, print) or pytest.fail("no checkpoint")
            assert update == 2 * 15
            lines = (folder / "done").read_text().splitlines()
            assert len(lines) == (5 if recipes.get(name).ema_decay else 3)
            top1 = {m.name: m.value for m in store.read(folder / "records", print)}["top1"]
            assert f"top-1 {top1:.3f} %" in lines[1]
            assert "of 60 images" in lines[1]
            details = next(iter(store.read(folder / "records", print))).details
            assert (details["epochs"], details["ranks"], details["recipe"]) == (2, 2, name)
            assert state.facts["identity"]["recipe_name"] == name
    for name in recipes.names():  # killed or not, from folders or shards: the same bits
        (_, one), (_, other) = (
            checkpoint.newest(out / f"{Path(place).name}-{name}", print) or pytest.fail("no checkpoint")
            for place in places
        )
        assert one.tensors.keys() == other.tensors.keys()
        assert all(tensor.equal(other.tensors[key]) for key, tensor in one.tensors.items()), name


def _until_at_work(process: subprocess.Popen, out: Path) -> None:
    """Until another checkpoint is there."""
    known = set(out.rglob("checkpoint-*"))
    while process.poll() is None and not set(out.rglob("checkpoint-*")) - known:
        time.sleep(0.1)
