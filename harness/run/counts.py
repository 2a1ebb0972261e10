"""Count the parameters and MACs of models named by configuration: what needs no clock and no memory."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from attnbench import metrics
from attnbench.configurations import Configuration
from attnbench.harness.run import runner
from attnbench.harness.run.plan import PRESETS, Request
from attnbench.layouts import get_layout
from attnbench.progress import Progress


def fill(
    models: Sequence[Configuration], out: Path, progress: Progress, names: Sequence[str] = ()
) -> runner.Summary:
    """Append records of what has none yet, below ``out``; one that fails becomes a record with the reason.

    Args:
        names: of the metrics; by default all that a run measures by itself and that need no machine.

    Raises:
        AttnbenchError: the folder cannot be written.
    """
    whole = runner.Summary()
    for request in _requests(models, out, names):
        part = runner.run(request, progress)
        whole.measured += part.measured
        whole.known += part.known
        whole.failed += part.failed
        whole.path = part.path
    return whole


def _requests(models: Sequence[Configuration], out: Path, names: Sequence[str]) -> list[Request]:
    """One request for all models that differ in the mechanism only; references have no options."""
    known = [metrics.get(name) for name in metrics.names()]
    usual = tuple(metric.name for metric in known if metric.default and not metric.on_machine)
    together: dict[tuple[str, str], list[Configuration]] = {}
    for model in models:
        together.setdefault((model.layout, json.dumps(dict(model.options))), []).append(model)
    return [
        Request(
            mechanisms=tuple(model.mechanism for model in alike),
            metrics=tuple(names) or usual,
            layout=layout,
            device=torch.device("cpu"),
            precisions=(),
            modes=(),
            batch_size=1,
            resolution=get_layout(layout).img_size,
            impl="auto",
            options=dict(alike[0].options),
            seed=0,
            preset=PRESETS["quick"],
            out=out,
            baseline="",
        )
        for (layout, _), alike in together.items()
    ]
