"""Examples of probes that a person can read: a picture, a cell that is asked, where its answer is."""

from typing import Any

import torch

from attnbench import datasets
from attnbench.figures import new_figure
from attnbench.harness.probes.probe import CELL, NO_SOURCE, NOT_ASKED, Draw, Probe
from attnbench.layouts import get_layout


def example(name: str, seed: int = 0) -> tuple[Probe, Draw]:
    """A probe and one test picture of it, of the size that it is trained at."""
    spec = datasets.get(name)
    probe: Probe = spec.load()(get_layout(spec.facts.layouts[0]).img_size // CELL)
    return probe, probe.sample(torch.Generator().manual_seed(seed), 1, "test")


def in_words(name: str, seed: int = 0) -> str:
    """The question, and for a few cells what is asked and what the answer is."""
    probe, draw = example(name, seed)
    side = probe.side
    asked = (draw.targets[0] != NOT_ASKED).nonzero()[:, 0]
    lines = [
        f"{name}: {probe.question}",
        f"  {len(asked)} of {side**2} cells are asked; {probe.num_classes} answers; guessing is right in "
        f"{probe.chance:.1f} %, a model without attention in {probe.floor:.1f} %",
    ]
    for cell in asked[torch.linspace(0, len(asked) - 1, 3).long()].tolist():
        source, answer = int(draw.source[0, cell]), int(draw.targets[0, cell])
        where = f", which cell {_place(source, side)} holds" if source != NO_SOURCE else ""
        lines.append(f"  cell {_place(cell, side)} must answer {answer}{where}")
    return "\n".join(lines)


def figure(names: list[str], seed: int = 0) -> Any:
    """A figure with an example of each probe; an arrow runs from the answer to a cell that asks."""
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    drawn, _ = new_figure(3.4 * columns, 3.7 * rows)
    drawn.clear()
    axes = drawn.subplots(rows, columns, squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        _draw(axis, name, *example(name, seed))
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    return drawn


def _draw(axis: Any, name: str, probe: Probe, draw: Draw) -> None:
    side = draw.images.shape[-1] // CELL
    axis.imshow(((draw.images[0, :3].permute(1, 2, 0) + 1) / 2).numpy(), interpolation="nearest")
    axis.set_title(datasets.get(name).facts.title, fontsize=10)
    axis.set_xticks([])
    axis.set_yticks([])
    asked = (draw.targets[0] != NOT_ASKED).nonzero()[:, 0]
    chosen = [int(asked[len(asked) // 3])]
    if draw.source[0, chosen[0]] == NO_SOURCE:  # mark all that are connected, or say what all must answer
        answers = draw.targets[0, asked]
        chosen = asked[answers == answers.max()].tolist() if probe.num_classes == 2 else chosen
    for cell in chosen:
        _frame(axis, cell, side, "red")
    source = int(draw.source[0, chosen[0]])
    if source not in (NO_SOURCE, chosen[0]):
        _frame(axis, source, side, "lime")
        axis.annotate(
            "",
            _middle(chosen[0], side),
            _middle(source, side),
            arrowprops={"arrowstyle": "->", "color": "red"},
        )
    marked = (
        "marked: connected"
        if len(chosen) > 1
        else f"answer of the red cell: {int(draw.targets[0, chosen[0]])}"
    )
    axis.set_xlabel(marked, fontsize=8)


def _frame(axis: Any, cell: int, side: int, colour: str) -> None:
    from matplotlib.patches import Rectangle

    row, column = divmod(cell, side)
    corner = (column * CELL - 0.5, row * CELL - 0.5)
    axis.add_patch(Rectangle(corner, CELL, CELL, fill=False, edgecolor=colour, linewidth=1.6))


def _middle(cell: int, side: int) -> tuple[float, float]:
    row, column = divmod(cell, side)
    return column * CELL + CELL / 2 - 0.5, row * CELL + CELL / 2 - 0.5


def _place(cell: int, side: int) -> str:
    row, column = divmod(cell, side)
    return f"({row + 1}, {column + 1})"
