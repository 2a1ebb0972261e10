"""The model that is looked into: random weights, released ones, or those of ``attnbench train``."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from attnbench.errors import AttnbenchError
from attnbench.harness.models.backbone import Backbone, create_model
from attnbench.harness.training import checkpoint


def build(layout: str, mechanism: str, options: dict[str, Any], weights: Path | None, seed: int) -> Backbone:
    """The model in evaluation mode, eager, so that its attention weights can be held fixed.

    Of a checkpoint of ``attnbench train`` the mean weights are taken where it has them; it says itself how
    many classes and channels its model has, and with which options it was built.

    Raises:
        AttnbenchError: the model cannot be built so, or the weights are of another.
    """
    torch.manual_seed(seed)
    if weights is None or not _is_of_training(weights):
        return create_model(layout, mechanism, impl="eager", checkpoint=weights, **options).eval()
    state = checkpoint.read(weights)
    made = state.facts["identity"]
    if (made["layout"], made["mechanism"]) != (layout, mechanism):
        raise AttnbenchError(
            f"{weights} is of {made['mechanism']} in {made['layout']}; give --mechanism {made['mechanism']} "
            f"--layout {made['layout']}"
        )
    prefix = "ema." if any(name.startswith("ema.") for name in state.tensors) else "model."
    tensors = {k.removeprefix(prefix): t for k, t in state.tensors.items() if k.startswith(prefix)}
    model = create_model(
        layout,
        mechanism,
        impl="eager",
        num_classes=made["classes"],
        in_chans=made["in_chans"],
        img_size=made["size"],
        token_labels="aux_head.weight" in tensors,
        **{**made["options"], **options},
    )
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()[:200]
        raise AttnbenchError(f"{weights} does not fit {mechanism} in {layout} as they are: {why}") from error
    return model.eval()


def _is_of_training(path: Path) -> bool:
    """Whether a file says that it is a checkpoint of ``attnbench train``."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == checkpoint.FORMAT
    except (SafetensorError, OSError):
        return False  # the reader of weights says what is wrong with it
