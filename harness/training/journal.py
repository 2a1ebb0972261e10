"""The log of a run: a line an update (steps.csv) and an epoch (log.csv), TensorBoard, and the bar.

A run that goes on from a checkpoint first drops the lines from after it, so the log is that of one run.
"""

import csv
import importlib.util
import os
import time
from pathlib import Path
from typing import Any, Self, TextIO

from attnbench.harness.training.order import Plan
from attnbench.progress import PlainProgress, QuietProgress, TerminalProgress

STEPS = "steps.csv"
LOG = "log.csv"
_PAUSE_S = {TerminalProgress: 0.5, PlainProgress: 20.0, QuietProgress: 1e9}


class Journal:
    """Writes the log of a run; silent on all ranks but the first.

    Args:
        update: the update that the run goes on from.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        progress: TerminalProgress | PlainProgress | QuietProgress,
        update: int,
        active: bool = True,
    ) -> None:
        self.folder, self.plan, self.progress, self.active = folder, plan, progress, active
        self.begun_at, self.started = update, time.monotonic()
        self.epoch_began, self.epoch_first = time.monotonic(), update
        self.told = 0.0
        self.score = ""
        self.board: Any = None
        self.steps: TextIO | None = None

    def __enter__(self) -> Self:
        if not self.active:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        _keep(self.folder / STEPS, "update", self.begun_at)
        _keep(self.folder / LOG, "update", self.begun_at + 1)
        new = not (self.folder / STEPS).exists()
        self.steps = (self.folder / STEPS).open("a", encoding="utf-8", newline="")
        if new:
            self.steps.write("update,epoch,lr,loss\n")
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.begun_at)
        self.progress.phase("training", self.plan.updates)
        if self.begun_at:
            self.progress.at_least(self.begun_at, "going on")
        return self

    def __exit__(self, *error: object) -> None:
        if self.steps is not None:
            self.steps.close()
        if self.board is not None:
            self.board.close()

    def step(self, update: int, lr: float, loss: float) -> None:
        """An update was made."""
        if self.steps is None:
            return
        self.steps.write(f"{update},{update // self.plan.steps},{lr!r},{loss!r}\n")
        if self.board is not None:
            self.board.add_scalar("loss", loss, update)
            self.board.add_scalar("lr", lr, update)
        now = time.monotonic()
        if now - self.told >= _PAUSE_S[type(self.progress)]:
            self.told = now
            rate = (update + 1 - self.begun_at) / max(now - self.started, 1e-9)
            left = (self.plan.updates - update - 1) / rate
            images = rate * self.plan.global_batch
            self.progress.at_least(
                update + 1, f"loss {loss:.3f}{self.score}, {images:.0f} images/s, {_clock(left)} left"
            )

    def epoch(self, row: dict[str, float], lr: float) -> None:
        """An epoch has ended, with these scores."""
        if self.steps is None:
            return
        now, update = time.monotonic(), (int(row["epoch"]) + 1) * self.plan.steps
        seconds = now - self.epoch_began
        images = (update - self.epoch_first) * self.plan.global_batch
        line = {"epoch": int(row["epoch"]), "update": update, "lr": lr}
        line |= {key: value for key, value in row.items() if key != "epoch"}
        line |= {"images_per_s": images / max(seconds, 1e-9), "seconds": seconds}
        append_row(self.folder / LOG, line)
        self.epoch_began, self.epoch_first = now, update
        scores = {key: value for key, value in row.items() if key not in ("epoch", "loss")}
        self.score = "".join(f", {key} {value:.2f}" for key, value in scores.items())
        self.progress.say(f"epoch {line['epoch'] + 1}/{self.plan.epochs}: loss {row['loss']:.4f}{self.score}")
        if self.board is not None:
            for key, value in scores.items():
                self.board.add_scalar(key, value, update)

    def sync(self) -> None:
        """Let the lines reach the disk: a checkpoint follows."""
        if self.steps is not None:
            self.steps.flush()
            os.fsync(self.steps.fileno())


def append_row(path: Path, line: dict[str, Any]) -> None:
    """Add a line to a CSV file; columns that it lacks are added, empty in the lines before."""
    rows = read_rows(path)
    columns = list(dict.fromkeys([*(rows[0] if rows else ()), *line]))
    if rows and list(rows[0]) == columns:
        with path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, columns, lineterminator="\n").writerow(line)
    else:
        _write(path, columns, [*rows, line])


def read_rows(path: Path) -> list[dict[str, str]]:
    """Lines of a CSV file by column; none where there is no file. A cut last line is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1].splitlines()
    return [row for row in csv.DictReader(whole) if None not in row.values()]


def _keep(path: Path, column: str, below: int) -> None:
    """Drop the lines whose ``column`` is not below a number."""
    if path.exists():
        rows = read_rows(path)
        kept = [row for row in rows if int(row[column]) < below]
        if kept:
            _write(path, list(rows[0]), kept)
        else:
            path.unlink()


def _write(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
