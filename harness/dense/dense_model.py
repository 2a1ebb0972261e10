"""A dense model by the names of its head, layout and mechanism."""

from pathlib import Path
from typing import Any

from torch import nn

from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.harness.dense import mask_rcnn, retinanet
from attnbench.harness.dense.segmenter import Segmenter, make_segmenter
from attnbench.harness.dense.stage_maps import ALL_STAGES, StageMaps
from attnbench.harness.models.backbone import create_model
from attnbench.harness.models.checkpoints import load_checkpoint
from attnbench.harness.models.key_maps import OF_DENSE, recognise
from attnbench.harness.models.weights import read_state_dict
from attnbench.heads import DETECTORS, HEADS

DenseModel = Segmenter | retinanet.Detector | mask_rcnn.Detector


def create_dense_model(
    head: str,
    layout: str,
    mechanism: str,
    num_classes: int,
    *,
    widths: dict[str, int] | None = None,
    checkpoint: str | Path | None = None,
    **backbone: Any,
) -> DenseModel:
    """A backbone with a head, its weights drawn at random.

    Args:
        head: one of :data:`attnbench.heads.HEADS`.
        layout, mechanism: of the backbone.
        num_classes: of pixels, or of objects without background.
        widths: of the head, by its keywords; by default the papers'.
        checkpoint: weights of the backbone, of a classifier or of another dense model.
        backbone: as :func:`attnbench.create_model` takes it: ``impl``, ``drop_path_rate``, ``img_size``
            (nominal; any size is accepted), options of the mechanism.

    Raises:
        AttnbenchError: a name or a width is unknown, or the backbone cannot be built.
    """
    if head not in HEADS:
        raise UnknownNameError("head", head, HEADS)
    dense = checkpoint is not None and recognise(read_state_dict(checkpoint)[0], str(checkpoint)) == OF_DENSE
    body = create_model(
        layout, mechanism, checkpoint=None if dense else checkpoint, **{"in_chans": 3, **backbone}
    )
    stages = ALL_STAGES[1:] if head == "retinanet" else ALL_STAGES
    maps = StageMaps(body, stages, freeze_batch_norm=head in DETECTORS)
    if checkpoint is not None and dense:  # a classifier's weights fit before its last layers are taken away
        load_checkpoint(body, checkpoint)
    of_head: Any = widths or {}
    try:
        if head == "retinanet":
            return retinanet.Detector(maps, num_classes, **of_head)
        if head == "mask_rcnn":
            return mask_rcnn.Detector(maps, num_classes, **of_head)
        return make_segmenter(head, maps, num_classes, **of_head)
    except TypeError as error:
        raise AttnbenchError(f"head {head} has no such width: {error}") from error


def backbone_of(model: nn.Module) -> Any:
    """The backbone inside a dense model."""
    return next(module.body for module in model.modules() if isinstance(module, StageMaps))
