"""The training loop: updates, checkpoints, evaluation, log. What is trained is a :class:`Task`.

A task brings the samples, the loss and the scores; the loop knows nothing of classes or boxes::

    plan = make_plan(len(data), epochs, global_batch, device_batch, ranks.world, seed)
    run = Run(model, task, optimizer, schedule, plan, folder, identity={"recipe": ...}, ranks=ranks)
    result = train(run)

Everything random is a function of (seed, epoch, index, repeat) for a sample and of (seed, update, part) for a
step (:mod:`~attnbench.harness.training.randomness`), so a checkpoint holds weights, optimizer, running mean,
scaler and counters, and a run that was killed ends, when the same call is made again, with the weights that
it would have had. That is so bit for bit on a CPU, with any number of loader workers; with other ranks it is
so up to the order of sums (the micro-batches stay what they were).
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch import Tensor, nn
from torch.utils.data import DataLoader

from attnbench.errors import AttnbenchError
from attnbench.harness.training import checkpoint
from attnbench.harness.training.journal import Journal
from attnbench.harness.training.order import Batches, Draw, Plan, to_device
from attnbench.harness.training.randomness import seed_step
from attnbench.harness.training.ranks import Ranks
from attnbench.harness.training.schedule import Schedule
from attnbench.progress import PlainProgress, QuietProgress, TerminalProgress

Scores = dict[str, float]
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Task(Protocol):
    """What is trained, as the loop sees it."""

    headline: str
    """The score that chooses the best epoch; the greater the better."""
    data: Any
    """A map-style data set, indexed with a :class:`Draw`; it is sent to the loader's workers."""
    collate: Callable[[list[Any]], Any] | None
    """Makes a batch of samples; ``None`` for torch's default."""

    def order(self, epoch: int) -> Sequence[Draw]:
        """The draws of an epoch, the same on every rank; at least ``plan.steps · plan.global_batch``."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module that is called in training, which DDP wraps; it shares the model's parameters."""

    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        """The mean loss of a micro-batch, a scalar; ``module`` is what :meth:`wrap` gave, in DDP maybe."""

    def evaluate(self, model: nn.Module, ranks: Ranks) -> Scores:
        """Scores of the test split, the same on every rank, each sample counted once."""


class NotFiniteError(AttnbenchError):
    """The loss stopped being finite."""


@dataclass
class Run:
    """One training run.

    Args:
        model: on its device.
        optimizer: over the model's parameters, its groups at the peak rate.
        schedule: sets their rates before every update.
        folder: of checkpoints and logs.
        identity: what a checkpoint must agree in with the run to be gone on from, by name.
        clip_grad: largest norm of the gradient; 0 for no limit.
        ema_decay: 0 for no running mean of weights.
        precision: ``fp32``, ``fp16`` or ``bf16`` of the forward pass.
        workers: processes that load samples; 0 for none but this one.
        every: updates between checkpoints; one is written after each epoch in any case.
        evaluate_every: epochs between evaluations; the last epoch is evaluated in any case.
        broadcast_buffers, unused: see :meth:`Ranks.share`.
        stop_after: stop after so many updates, for tests of resumption; 0 for never.
    """

    model: nn.Module
    task: Task
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    plan: Plan
    folder: Path
    identity: Mapping[str, Any] = field(default_factory=dict)
    ranks: Ranks = field(default_factory=Ranks)
    clip_grad: float = 0.0
    ema_decay: float = 0.0
    precision: str = "fp32"
    workers: int = 0
    every: int = 0
    evaluate_every: int = 1
    broadcast_buffers: bool = True
    unused: bool = False
    stop_after: int = 0
    progress: TerminalProgress | PlainProgress | QuietProgress = field(default_factory=QuietProgress)


@dataclass
class Result:
    """How a run ended: scores by epoch, of the raw weights and of their running mean (``…_ema``)."""

    updates: int
    history: list[dict[str, float]]
    headline: str

    @property
    def last(self) -> dict[str, float]:
        """Scores of the last epoch that was evaluated."""
        return self.history[-1] if self.history else {}

    def best(self, score: str = "") -> dict[str, float]:
        """Scores of the epoch that is best by ``score``, the earliest of equals."""
        return max(self.history, key=lambda row: row[score or self.headline], default={})


def train(run: Run) -> Result:
    """Train to the end, from the folder's last checkpoint if it has one.

    Raises:
        NotFiniteError: the loss is no finite number; the last checkpoint is from before.
        AttnbenchError: the folder's checkpoints are of another run, or cannot be written, or another
            process trains in it.
    """
    with contextlib.ExitStack() as held:
        if run.ranks.first:
            held.enter_context(checkpoint.alone(run.folder))
        run.ranks.wait()
        return _Trainer(run).train()


class _Trainer:
    def __init__(self, run: Run) -> None:
        self.run, self.plan, self.ranks = run, run.plan, run.ranks
        self.device = run.ranks.device
        self.ema = ModelEmaV3(run.model, decay=run.ema_decay) if run.ema_decay else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=run.precision == "fp16")
        self.history: list[dict[str, float]] = []
        self.sum_of_losses = 0.0
        self.update = self._resume()
        self.module = run.ranks.share(run.task.wrap(run.model), run.broadcast_buffers, run.unused)
        self.batches = Batches(run.plan, run.ranks.rank, run.ranks.world)
        self.journal = Journal(run.folder, run.plan, run.progress, self.update, run.ranks.first)

    def train(self) -> Result:
        plan = self.plan
        loader = self._loader()
        with self.journal:
            while self.update < plan.updates and not self._stopped():
                self._epoch(loader)
        return Result(self.update, self.history, self.run.task.headline)

    def _loader(self) -> DataLoader[Any]:
        workers = self.run.workers
        return DataLoader(
            self.run.task.data,
            batch_sampler=self.batches,
            num_workers=workers,
            collate_fn=self.run.task.collate,
            pin_memory=self.device.type == "cuda",
            persistent_workers=workers > 0,
            prefetch_factor=2 if workers else None,
            multiprocessing_context="fork" if workers and self.device.type == "cpu" else None,
        )

    def _epoch(self, loader: DataLoader[Any]) -> None:
        epoch, first = divmod(self.update, self.plan.steps)
        self.batches.begin(self.run.task.order(epoch), first)
        parts = iter(loader)
        for _ in range(first, self.plan.steps):
            self._step(parts)
            if self._stopped():
                return
            done = self.update % self.plan.steps == 0
            if self.run.every and self.update % self.run.every == 0 and not done:
                self._save()
        self._end_epoch(epoch)

    def _step(self, parts: Iterator[Any]) -> None:
        """One update: the micro-batches of this rank, then the optimizer."""
        run, mine = self.run, self.batches.parts()
        self.module.train()
        run.schedule.set(self.update)
        run.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for part in mine:
            batch = to_device(next(parts), self.device)
            seed_step(self.plan.seed, "step", self.update, part)
            with self._quiet(part != mine[-1]):
                with self._autocast():
                    loss = run.task.loss(self.module, batch) / len(mine)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        if run.clip_grad:
            self.scaler.unscale_(run.optimizer)
            dispatch_clip_grad(run.model.parameters(), run.clip_grad)
        self.scaler.step(run.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(run.model)
        self._count(total)

    def _autocast(self) -> torch.autocast:
        precision = self.run.precision
        return torch.autocast(self.device.type, _DTYPES.get(precision), precision != "fp32")

    def _quiet(self, more: bool) -> contextlib.AbstractContextManager[Any]:
        """Keep gradients on this rank while more micro-batches are to come."""
        if more and self.ranks.world > 1:
            return self.module.no_sync()  # type: ignore[operator]
        return contextlib.nullcontext()

    def _count(self, loss: Tensor) -> None:
        value = float(self.ranks.sum(loss.double()) / self.ranks.world)
        if not math.isfinite(value):
            raise NotFiniteError(self._why(value))
        self.sum_of_losses += value
        rate = self.run.optimizer.param_groups[0]["lr"]
        self.journal.step(self.update, rate, value)
        self.update += 1

    def _why(self, value: float) -> str:
        last = next(iter(checkpoint.numbered(self.run.folder).values()), None)
        where = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        return (
            f"the loss is {value} at update {self.update} (epoch {self.update // self.plan.steps}, step "
            f"{self.update % self.plan.steps}) of seed {self.plan.seed}; {where}; a lower learning rate, "
            "--precision fp32 or a limit of the gradient may help"
        )

    def _end_epoch(self, epoch: int) -> None:
        """Evaluate, write the line of the log, then the checkpoint that covers it."""
        row = {"epoch": float(epoch), "loss": self.sum_of_losses / self.plan.steps}
        if (epoch + 1) % self.run.evaluate_every == 0 or epoch + 1 == self.plan.epochs:
            row |= self._evaluate()
            best = max((old[self.run.task.headline] for old in self.history), default=-math.inf)
            self.history.append(row)
            if row[self.run.task.headline] > best:
                self._write_best()
        self.sum_of_losses = 0.0
        self.journal.epoch(row, self.run.optimizer.param_groups[0]["lr"])  # dropped if no checkpoint follows
        self._save()

    def _evaluate(self) -> Scores:
        task = self.run.task
        scores: Scores = {}
        for suffix, model in (("", self.run.model), ("_ema", self.ema and self.ema.module)):
            if model is not None:
                self.ranks.same_buffers(model)
                model.eval()
                with torch.no_grad(), self._autocast():
                    found = task.evaluate(model, self.ranks)
                scores |= {name + suffix: value for name, value in found.items()}
        return scores

    def _write_best(self) -> None:
        if self.ranks.first:
            module = self.ema.module if self.ema is not None else None
            state = checkpoint.capture(self.run.model, self.run.optimizer, module)
            weights = {n: t for n, t in state.tensors.items() if not n.startswith("optimizer.")}
            facts = {"identity": dict(self.run.identity), "update": self.update, "history": self.history}
            checkpoint.write(self.run.folder / "best.safetensors", checkpoint.State(weights, facts))

    def _save(self) -> None:
        if not all(t.isfinite().all() for t in self.run.model.state_dict().values() if t.is_floating_point()):
            raise NotFiniteError(self._why(math.nan))
        if self.ranks.first:
            module = self.ema.module if self.ema is not None else None
            state = checkpoint.capture(self.run.model, self.run.optimizer, module)
            state.facts |= {
                "identity": dict(self.run.identity),
                "update": self.update,
                "sum_of_losses": self.sum_of_losses,
                "history": self.history,
                "scaler": self.scaler.state_dict(),
            }
            self.journal.sync()
            checkpoint.save(self.run.folder, self.update, state)
        self.ranks.wait()

    def _resume(self) -> int:
        """Take up the folder's last whole checkpoint; the number of updates that it is after."""
        run = self.run
        if self.ranks.first:
            checkpoint.clean(run.folder)
        self.ranks.wait()
        found = checkpoint.newest(run.folder, run.progress.say if self.ranks.first else lambda line: None)
        if found is None:
            return 0
        update, state = found
        check_identity(run.identity, state.facts["identity"], run.folder)
        checkpoint.restore(state, run.model, run.optimizer, self.ema.module if self.ema else None)
        self.scaler.load_state_dict(state.facts["scaler"])
        self.history, self.sum_of_losses = state.facts["history"], state.facts["sum_of_losses"]
        if self.ranks.first:
            run.progress.say(f"going on from update {update} of {self.plan.updates}")
        return update

    def _stopped(self) -> bool:
        return bool(self.run.stop_after) and self.update >= self.run.stop_after


def check_identity(own: Mapping[str, Any], found: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on from another run's checkpoint.

    Raises:
        AttnbenchError: they differ; the message names the first difference.
    """
    for name in dict.fromkeys([*own, *found]):
        if own.get(name) != found.get(name):
            raise AttnbenchError(
                f"{folder} holds a run with {name} {found.get(name)!r}, asked for is {own.get(name)!r}; "
                "give another --out, or the settings that it was begun with"
            )
