"""Scores of a dense checkpoint, with the recipe's way of testing or another: scales, flips, sliding."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from attnbench.dense_recipes import DenseRecipe
from attnbench.errors import AttnbenchError
from attnbench.harness.dense.dense_session import DenseRequest, build, open_data
from attnbench.harness.dense.tasks import make_task
from attnbench.harness.training import checkpoint
from attnbench.harness.training.ranks import Ranks


def score(
    path: Path,
    data: str,
    root: str,
    data_options: Mapping[str, Any],
    changes: Mapping[str, Any],
    ranks: Ranks,
) -> dict[str, float]:
    """Scores by name, in percent.

    Args:
        path: a checkpoint, of ``attnbench train --task semantic|detection``.
        data, root, data_options: the data set; empty options for those of the training.
        changes: settings of the recipe's ``test`` and ``input`` to use instead.
        ranks: that share the images.

    Raises:
        AttnbenchError: it is no such checkpoint, or the data set has other classes.
    """
    state = checkpoint.read(path)
    facts = state.facts["identity"]
    if facts.get("task") not in ("semantic", "detection"):
        raise AttnbenchError(f"{path} is not a checkpoint of 'attnbench train --task semantic|detection'")
    recipe = DenseRecipe.model_validate(facts["recipe_settings"])
    recipe = recipe.changed(changes) if changes else recipe
    opened = open_data(data, root, data_options or facts["data_options"], recipe.task)
    request = DenseRequest(
        facts["layout"],
        facts["mechanism"],
        recipe,
        path.parent,
        data,
        options=facts["options"],
        impl=facts["impl"],
    )
    model = build(request, opened).to(ranks.device).eval()
    try:
        model.load_state_dict(
            {n.removeprefix("model."): t for n, t in state.tensors.items() if n.startswith("model.")}
        )
    except RuntimeError as error:
        raise AttnbenchError(f"{path} is of another model: {str(error).splitlines()[-1].strip()}") from error
    with torch.no_grad():
        return make_task(recipe, opened, seed=0).evaluate(model, ranks)
