"""Accuracy of a model trained by a recipe; ``attnbench train`` records it, not ``attnbench run``."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from attnbench.errors import AttnbenchError
from attnbench.metrics import Bench, Value, register_metric

if TYPE_CHECKING:
    from attnbench.harness.run.plan import Request
    from attnbench.record import Cell, Measurement

_SCORES = {"top1": "Top-1", "top5": "Top-5"}
_OF = {"": "", "_ema": ", mean weights", "_best": ", best epoch", "_ema_best": ", mean weights, best epoch"}


def _values() -> Iterator[Value]:
    for name, title in _SCORES.items():
        for suffix, words in _OF.items():
            yield Value(
                name + suffix,
                unit="%",
                heading=f"{title} trained{words} (%)",
                column=f"trained_{name}{suffix}_percent",
                digits=2,
                better="higher",
                tolerance=0.005,
                words=("lower", "higher"),
                csv_only=name + suffix != "top1",
            )


def how(m: "Measurement") -> str:
    """Recipe, what was changed of it, data and epochs, in words."""
    told: dict[str, Any] = {"recipe": "?", "epochs": "?", "data": "?", "train_images": 0, "classes": "?"}
    told |= m.details
    changes: Mapping[str, Any] = told.get("recipe_changes", {})
    changed = f" with {', '.join(f'{key}={value}' for key, value in changes.items())}" if changes else ""
    return (
        f"recipe {told['recipe']}{changed} ({m.cell.recipe}), {told['epochs']} epochs on {told['data']} "
        f"({told['train_images']:,} images, {told['classes']} classes) at {m.cell.resolution} px, "
        f"{m.cell.batch_size} images an update, seed {m.cell.seed}"
    )


def _cells(request: "Request") -> NoReturn:
    raise AttnbenchError(
        "training is no metric of a run: "
        "'attnbench train --layout L --mechanism M --data D --recipe R' records it"
    )


@register_metric(
    "training",
    title="training by a recipe",
    values=list(_values()),
    order=60,
    default=False,
    needs="alone",
    cells=_cells,
    condition=how,
)
def measure(cell: "Cell", bench: Bench) -> "list[Measurement]":
    """Not measured cell by cell."""
    raise AttnbenchError("training is recorded by 'attnbench train'")
