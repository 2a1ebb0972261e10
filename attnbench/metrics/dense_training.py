"""mIoU and AP of dense models trained by a recipe; ``attnbench train --task ...`` records them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from attnbench.errors import AttnbenchError
from attnbench.heads import DETECTORS, HEADS, pretrained
from attnbench.metrics import Bench, Value, register_metric

if TYPE_CHECKING:
    from attnbench.harness.run.plan import Request
    from attnbench.record import Cell, Measurement

_OF_PIXELS = {
    "miou": "mIoU",
    "miou_ms": "mIoU, scales and flips",
    "miou_context": "mIoU of context",
    "pixel_accuracy": "pixels right",
}
_AP = {
    "": "AP",
    "50": "AP50",
    "75": "AP75",
    "_s": "APS",
    "_m": "APM",
    "_l": "APL",
    "_context": "AP of context",
}


def scores(head: str) -> dict[str, str]:
    """What a head's training records, by name, each with its title."""
    if head not in DETECTORS:
        return _OF_PIXELS
    kinds = {"box": "", **({"mask": " of masks"} if head == "mask_rcnn" else {})}
    return {f"ap_{kind}{size}": f"{title}{of}" for kind, of in kinds.items() for size, title in _AP.items()}


def _values(head: str) -> Iterator[Value]:
    main = ("miou", "miou_ms", "miou_context", "ap_box", "ap_box_context", "ap_mask")
    for name, title in scores(head).items():
        for suffix, words in (("", ""), ("_best", ", best test")):
            yield Value(
                name + suffix,
                "%",
                f"{HEADS[head]} {title}{words} (%)",
                f"{head}_{name}{suffix}_percent",
                digits=1,
                better="higher",
                tolerance=0.01,
                words=("lower", "higher"),
                csv_only=name + suffix not in main,
            )


def how(m: "Measurement") -> str:
    """Recipe, what was changed of it, data, images seen, what it began with and the seed, in words."""
    told: dict[str, Any] = {
        "recipe": "?",
        "recipe_changes": {},
        "data_options": {},
        "images_seen": 0,
        "authors_report": "?",
    } | m.details
    changes, options = (
        ", ".join(f"{key}={value}" for key, value in told[name].items())
        for name in ("recipe_changes", "data_options")
    )
    return (
        f"recipe {told['recipe']}{f' with {changes}' if changes else ''} ({m.cell.recipe}) on "
        f"{m.cell.dataset}{f' with {options}' if options else ''}, {told['images_seen']:,} images seen, "
        f"{'from a trained backbone, ' if pretrained(m.details) else ''}seed {m.cell.seed}"
    )


def _cells(request: "Request") -> NoReturn:
    raise AttnbenchError(
        "training is no metric of a run: 'attnbench train --task semantic|detection ...' records it"
    )


def _measure(cell: "Cell", bench: Bench) -> "list[Measurement]":
    raise AttnbenchError("training is recorded by 'attnbench train'")


for _place, (_head, _title) in enumerate(HEADS.items()):
    register_metric(
        f"{_head}_training",
        title=f"training with {_title} by a recipe",
        values=list(_values(_head)),
        order=65 + _place,
        default=False,
        needs="alone",
        cells=_cells,
        condition=how,
    )(_measure)
