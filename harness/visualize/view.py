"""All that a picture of one block shows, as numbers: here the model is built and run; nothing is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attnbench.errors import AttnbenchError
from attnbench.harness.models.backbone import Backbone
from attnbench.harness.visualize import image as images
from attnbench.harness.visualize.fields import Field, fields
from attnbench.harness.visualize.model import build
from attnbench.harness.visualize.reads import PROBES, Reads, reads


@dataclass(frozen=True)
class Asked:
    """What a picture is of.

    Args:
        mechanism, layout: names.
        image: path of a file, or ``drawn``.
        stage, block: from 0; the default is the first block of the stage before the last.
        token: column and row on the map of the stage; ``None`` for one on the drawn image's first disc.
        checkpoint: file of weights; random weights of ``seed`` if ``None``.
        resolution: pixels a side; 0 for the layout's.
        head: of the attention, from 0; ``None`` for the mean of all.
    """

    mechanism: str
    layout: str
    image: str = images.DRAWN
    stage: int | None = None
    block: int = 0
    token: tuple[int, int] | None = None
    checkpoint: Path | None = None
    resolution: int = 0
    head: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class View:
    """What a picture shows of the queries of one block's map.

    Args:
        title: mechanism, layout, block and weights, in words.
        image: in RGB, as the model saw it but for its colours.
        size: (H, W) of the map.
        queries: (Q,) numbers of tokens, row-major.
        reads: of each query.
        routed: for each query (k, H, W) bool, tokens of the regions it is routed to, best first; empty where
            the mechanism does not route.
        support: (Q, H, W) bool, what each query may depend on; ``None`` where the mechanism does not say.
        fields: of the first query, back through the blocks before.
    """

    title: str
    image: Image.Image
    size: tuple[int, int]
    queries: Tensor
    reads: Reads
    routed: Sequence[Tensor]
    support: Tensor | None
    fields: Sequence[Field] = ()

    @property
    def outside(self) -> float:
        """The largest share of what a query reads that lies outside of what ``support`` declares."""
        if self.support is None:
            return 0.0
        return float((self.reads.weights * ~self.support).sum((1, 2)).max())


def one_token(asked: Asked) -> View:
    """The view of one query, with its fields.

    Raises:
        AttnbenchError: there is no such block or token, or the model cannot be built so.
    """
    model, picture, x, stage = _prepare(asked)
    _, H, W, _ = x.shape
    column, row = asked.token or (W * 23 // 100, H * 23 // 100)
    if not (0 <= column < W and 0 <= row < H):
        raise AttnbenchError(
            f"--token {column},{row} is not on the map of stage {stage}, {W} columns by {H} rows"
        )
    token = row * W + column
    view = _view(model, picture, x, stage, asked, torch.tensor([token]), probes=None)
    pixels = images.as_input(picture, model.layout.in_chans)
    return View(**{**vars(view), "fields": fields(model, pixels, stage, asked.block, token)})


def every_token(asked: Asked, *, most: int = 1024, probes: int = PROBES) -> View:
    """The view of all tokens of a block's map, without fields.

    Args:
        asked: what to look at; its ``token`` is ignored.
        most: tokens that a map may have.
        probes: random directions by which a value path is estimated, see :func:`~.reads.reads`.

    Raises:
        AttnbenchError: as :func:`one_token`, or the map has more than ``most`` tokens.
    """
    model, picture, x, stage = _prepare(asked)
    n = x.shape[1] * x.shape[2]
    if n > most:
        raise AttnbenchError(
            f"the map of stage {stage} has {n} tokens; every token is shown for up to {most}: choose a later "
            "--block or a smaller --resolution"
        )
    return _view(model, picture, x, stage, asked, torch.arange(n), probes=probes)


def _prepare(asked: Asked) -> tuple[Backbone, Image.Image, Tensor, int]:
    """The model, the image, what the block's attention gets to see (1, H, W, C), and the stage."""
    model = build(asked.layout, asked.mechanism, asked.options, asked.checkpoint, asked.seed)
    depths = model.layout.depths
    stage = max(0, len(depths) - 2) if asked.stage is None else asked.stage
    if not (0 <= stage < len(depths) and 0 <= asked.block < depths[stage]):
        blocks = ", ".join(f"{s}.0 to {s}.{depth - 1}" for s, depth in enumerate(depths))
        raise AttnbenchError(f"{asked.layout} has no block {stage}.{asked.block}; it has {blocks}")
    picture = images.load(asked.image, asked.resolution or model.layout.img_size)
    return model, picture, attention_input(model, picture, stage, asked.block), stage


def attention_input(model: Backbone, picture: Image.Image, stage: int, block: int) -> Tensor:
    """(1, H, W, C): the map that the attention of one block is given for an image."""
    caught: list[Tensor] = []
    attention = attention_of(model, stage, block)
    hook = attention.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].detach()))
    try:
        with torch.no_grad():
            model(images.as_input(picture, model.layout.in_chans))
    finally:
        hook.remove()
    return caught[0]


def attention_of(model: Backbone, stage: int, block: int) -> Any:
    """The attention module of a block."""
    part: Any = model.layers[stage]
    return part.blocks[block].attn


def _view(
    model: Backbone,
    picture: Image.Image,
    x: Tensor,
    stage: int,
    asked: Asked,
    queries: Tensor,
    probes: int | None,
) -> View:
    attention = attention_of(model, stage, asked.block)
    size = (x.shape[1], x.shape[2])
    support = None
    if hasattr(attention, "support"):
        support = attention.support(*size)[queries].unflatten(1, size)
    weights = (
        f"weights of {asked.checkpoint.name}" if asked.checkpoint else f"random weights, seed {asked.seed}"
    )
    return View(
        title=f"{asked.mechanism} in {asked.layout}, block {stage}.{asked.block}, {weights}",
        image=picture,
        size=size,
        queries=queries,
        reads=reads(attention, x, queries, probes=probes, head=asked.head),
        routed=routed(attention, x, queries),
        support=support,
    )


def routed(attention: Any, x: Tensor, queries: Tensor) -> list[Tensor]:
    """For each query (k, H, W) bool, best first; none where the module does not route."""
    if not hasattr(attention, "routed_tokens"):
        return []
    with torch.no_grad():
        found = [attention.routed_tokens(x, int(query)) for query in queries]
    return [] if any(mask is None for mask in found) else found


def shown(image: Image.Image) -> np.ndarray:
    """The image in grey, light enough to lie under colours."""
    grey = np.asarray(image.convert("L"), dtype=np.float32) / 255
    return 0.35 + 0.6 * grey
