"""What the training loop costs beside bare forward, backward and step, and what its loader delivers.

``python -m attnbench.results.scripts.training_overhead [rounds]``: updates of the loop (seeds, schedule,
clipping, log, check of the loss) and bare ones on the same batches take turns in one process, on digits in
``swin_pico`` by the recipe ``quick``; then the images that one loader process augments in a second, beside
those that the model trains on.
"""

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from timm.utils import dispatch_clip_grad
from torch.utils.data import DataLoader

from attnbench import recipes
from attnbench.harness.training import loop, runs
from attnbench.harness.training.classification import make_optimizer
from attnbench.harness.training.images import Batch
from attnbench.harness.training.order import Batches
from attnbench.harness.training.ranks import Ranks
from attnbench.progress import QuietProgress

STEPS = 5


def main(rounds: int) -> None:
    """Print the share of time that the loop takes on top, and the loader's pace beside the model's."""
    with tempfile.TemporaryDirectory() as folder:
        request = runs.Request("swin_pico", "bra", recipes.get("quick"), Path(folder), data="digits")
        splits = runs.open_splits(request, Ranks())
        run = runs.prepare(request, Ranks(), *splits, QuietProgress())
        trainer = loop._Trainer(run)
        batches = Batches(run.plan, 0, 1)
        batches.begin(run.task.order(0), 0)
        loader = DataLoader(run.task.data, batch_sampler=batches, collate_fn=run.task.collate, num_workers=1)
        start = time.perf_counter()
        made = list(loader)
        loaded = len(made) * run.plan.global_batch / (time.perf_counter() - start)
        bare = _Bare(request, splits[0].channels)
        ours: list[float] = []
        theirs: list[float] = []
        with trainer.journal:
            parts = itertools.cycle(made)
            for _ in range(rounds):
                ours.append(_time(lambda: trainer._step(parts)))
                theirs.append(_time(lambda: bare.step(next(parts))))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    trained = STEPS * run.plan.global_batch / statistics.median(ours)
    print(f"loop over bare updates, median of {rounds} rounds: {statistics.median(ratios):.4f}")
    print(f"one loader: {loaded:.0f} images/s; the model trains on {trained:.0f} images/s")


class _Bare:
    def __init__(self, request: runs.Request, channels: int) -> None:
        self.model = runs.build(request, 10, channels).train()
        self.optimizer = make_optimizer(self.model, request.recipe)
        self.loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

    def step(self, batch: Batch) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.model(batch.images), batch.labels).backward()
        dispatch_clip_grad(self.model.parameters(), 5.0)
        self.optimizer.step()


def _time(step: Callable[[], None]) -> float:
    start = time.process_time()
    for _ in range(STEPS):
        step()
    return time.process_time() - start


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
