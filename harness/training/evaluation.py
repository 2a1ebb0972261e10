"""Accuracy of a test split, each image counted once on any number of ranks."""

import torch
from torch import nn
from torch.utils.data import DataLoader

from attnbench.errors import AttnbenchError
from attnbench.harness.data._images import ImageSource
from attnbench.harness.training.image_transforms import Transform
from attnbench.harness.training.images import Damage, Plain, collate
from attnbench.harness.training.ranks import Ranks


@torch.no_grad()
def score(
    model: nn.Module,
    source: ImageSource,
    transform: Transform,
    ranks: Ranks,
    damage: Damage,
    batch_size: int = 128,
    workers: int = 0,
) -> dict[str, float]:
    """Top-1 and top-5 accuracy in percent, and how many images they are of.

    Every rank takes each ``ranks.world``-th image, without padding; the counts are whole numbers, summed.

    Raises:
        AttnbenchError: no image can be decoded, or more than the limit cannot.
    """
    model.eval()
    data = Plain(source, transform, range(ranks.rank, len(source), ranks.world))
    loader = DataLoader(data, batch_size, num_workers=workers, collate_fn=collate)
    counts = torch.zeros(3, dtype=torch.long, device=ranks.device)  # images, right, right among five
    for batch in loader:
        damage.note(batch.bad)
        if len(batch.labels):
            labels = batch.labels.to(ranks.device)
            logits = model(batch.images.to(ranks.device)).float()
            first = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            counts += torch.stack(
                (torch.tensor(len(labels), device=ranks.device), first[:, 0].sum(), first.sum())
            )
    total, right, among = ranks.sum(counts).tolist()
    if not total:
        raise AttnbenchError("no image of the test split can be decoded")
    return {"top1": 100 * right / total, "top5": 100 * among / total, "images": float(total)}
