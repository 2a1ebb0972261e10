"""One model on one probe: train it at the rate that validation pictures choose, and score it."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from attnbench import datasets
from attnbench.errors import AttnbenchError
from attnbench.harness.models.backbone import Backbone, executed_impl
from attnbench.harness.models.rungs import spec_on_rung
from attnbench.harness.probes.fitting import Budget, Trained, train
from attnbench.harness.probes.probe import CELL, Probe
from attnbench.harness.probes.scoring import Scores, pictures, score
from attnbench.layouts import get_layout
from attnbench.record import Cell, Measurement
from attnbench.registry import get
from attnbench.rungs import AUTHORS

TEST_PICTURES, VALIDATION_PICTURES, LONGER_PICTURES = 512, 256, 64
OF_PICTURE = 4
"""Times as many test pictures where a picture has one answer: on 512 answers, guessing is 3 points off."""
LONGER = (1.5, 2.0)
"""Times the side trained at, at which the model is tested too."""

GAIN = 0.6
"""Standard deviation of a linear layer's initial weights, times the root of its inputs. Swin's 0.02 is that
at a width of 900; at a width of 32 it makes all attention even, and training waits long for it to begin."""

LEARNED = 0.98
"""A model whose training loss stayed above this share of a guesser's did not train."""


@dataclass(frozen=True)
class Attempt:
    """A model trained at one rate; ``off_rung`` says why it does not stand on the probe's rung."""

    rate: float
    model: Backbone
    trained: Trained
    validation: float
    off_rung: str


def measure(cell: Cell, budget: Budget, rates: Sequence[float] = ()) -> list[Measurement]:
    """Train and score the model of a cell.

    Args:
        cell: of metric ``probe``; ``dataset`` names the probe, ``resolution`` is 4 pixels a cell.
        budget: how long; its digest is the cell's ``recipe``.
        rates: learning rates to try; the budget's if none is given.

    Returns:
        Accuracy, accuracy by hop (what no question is of is left out), accuracy on larger pictures, and the
        training loss, each as a measurement.

    Raises:
        AttnbenchError: the mechanism cannot be built so.
        FloatingPointError: training diverged at every rate.
    """
    device = torch.device(cell.device)
    probe = probe_of(cell)
    began = time.process_time()
    tried = [_attempt(cell, probe, budget, rate, device) for rate in (rates or budget.rates)]
    best = max(tried, key=lambda attempt: (attempt.validation, -attempt.trained.loss))
    count = TEST_PICTURES * (OF_PICTURE if probe.of_picture else 1)
    draw = pictures(type(probe), probe.side, "test", count, probe.side, str(device))
    if best.model.layout.merges:
        draw = draw.whole()
    dynamic = get(cell.mechanism).facts.pattern != "static"
    scores = score(best.model, probe, draw, dynamic=dynamic)
    longer = {f"accuracy_{times:g}x": _longer(best.model, probe, times, device) for times in LONGER}
    details = _details(probe, budget, tried, best, scores) | {"cpu_seconds": time.process_time() - began}
    values: dict[str, float | str] = {"accuracy": scores.accuracy, **scores.by_hop, **longer}
    ran = executed_impl(best.model)
    found = [
        Measurement.of(cell, name, value, "%", implementation=ran)
        if isinstance(value, float)
        else Measurement.of(cell, name, None, "%", status="failed", reason=value)
        for name, value in values.items()
    ]
    found[0] = found[0].model_copy(update={"details": details})
    return [*found, Measurement.of(cell, "train_loss", best.trained.loss, "nats", implementation=ran)]


def probe_of(cell: Cell) -> Probe:
    """The probe of a cell, for the size that it is trained at."""
    probe: Probe = datasets.get(cell.dataset).load()(cell.resolution // CELL)
    return probe


def build(cell: Cell, probe: Probe) -> tuple[Backbone, str]:
    """The model of a cell, weights drawn from the cell's seed; one of one stage answers for every token.

    It stands on the rung that the cell's options name, or on the probe's; a mechanism that cannot stand on
    the probe's is taken as its authors have it, and the second value says why (else it is empty).
    """
    layout = replace(
        get_layout(cell.layout),
        num_classes=probe.num_classes,
        in_chans=probe.channels,
        img_size=cell.resolution,
    )
    options = {name: value for name, value in cell.options.items() if name != "rung"}

    def on(rung: str) -> Backbone:
        torch.manual_seed(cell.seed)
        spec = spec_on_rung(get(cell.mechanism), rung)
        pool = "avg" if layout.merges else ""
        return Backbone(layout, spec, impl=cell.impl, options=options, global_pool=pool)

    rung, why = cell.options.get("rung", probe.rung), ""
    try:
        model = on(rung)
    except AttnbenchError as error:
        if "rung" in cell.options or rung == AUTHORS:
            raise
        model, why = on(AUTHORS), str(error)
    for part in model.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=GAIN * part.in_features**-0.5)
    return model, why


def _attempt(cell: Cell, probe: Probe, budget: Budget, rate: float, device: torch.device) -> Attempt:
    model, off_rung = build(cell, probe)
    model.to(device)
    trained = train(model, probe, budget, rate, torch.Generator(device).manual_seed(cell.seed))
    draw = pictures(type(probe), probe.side, "validation", VALIDATION_PICTURES, probe.side, str(device))
    return Attempt(rate, model, trained, score(model, probe, draw).accuracy, off_rung)


def _longer(model: Backbone, probe: Probe, times: float, device: torch.device) -> float | str:
    """Accuracy on larger pictures, or why they cannot be drawn or the mechanism cannot read them."""
    side = round(times * probe.side)
    try:
        draw = pictures(type(probe), probe.side, "test", LONGER_PICTURES, side, str(device))
        return score(model, probe, draw).accuracy
    except (AttnbenchError, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def _details(
    probe: Probe, budget: Budget, tried: list[Attempt], best: Attempt, scores: Scores
) -> dict[str, Any]:
    guessing = math.log(probe.num_classes)
    found = {
        "budget": budget.describe(),
        "rate": best.rate,
        "tried": [
            {"rate": a.rate, "validation": round(a.validation, 2), "loss": round(a.trained.loss, 4)}
            for a in tried
        ],
        "trace": [round(loss, 4) for loss in best.trained.trace],
        "did_train": best.trained.loss < LEARNED * guessing,
        "guessing_loss": guessing,
        "shares": scores.shares,
        "answers": scores.answers,
        "chance": probe.chance,
        "floor": None if best.model.layout.merges else probe.floor,
        "parameters": sum(p.numel() for p in best.model.parameters()),
    }
    return found | ({"off_rung": best.off_rung} if best.off_rung else {})
