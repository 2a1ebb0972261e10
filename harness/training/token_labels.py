"""Loss of token labelling: every token is told what it shows, as well as the image.

Source: Jiang et al., 2021, "All Tokens Matter: Token Labeling for Training Better Vision Transformers",
arXiv:2104.10858, equation 3. BiFormer and others train with it for their best figures; the layouts
``..._token_labels`` have the head that it needs, which ``Backbone.forward_dense`` runs. The labels of tokens
come from another model. :class:`MixToken` cuts and pastes patches behind the stem, as LV-ViT is trained.
"""

from typing import Any

import numpy as np
from timm.data.mixup import rand_bbox
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.errors import AttnbenchError


def token_label_loss(
    logits: Tensor,
    token_logits: Tensor,
    labels: Tensor,
    token_labels: Tensor,
    token_weight: float = 0.5,
    image_weight: float = 1.0,
) -> Tensor:
    """Cross-entropy of the image plus ``token_weight`` times the mean cross-entropy of its tokens.

    Args:
        logits: (B, classes).
        token_logits: (B, H, W, classes), as ``forward_dense`` gives them.
        labels: (B,) class numbers, or (B, classes) shares.
        token_labels: (B, H, W) class numbers, or (B, H, W, classes) shares.
        token_weight: β of the paper; the authors' code has 1.
        image_weight: of the image's part.

    Returns:
        A scalar.

    Raises:
        ValueError: the labels are not of one of these shapes.
    """
    for given, logits_of in ((labels, logits), (token_labels, token_logits)):
        if given.shape not in (logits_of.shape, logits_of.shape[:-1]):
            raise ValueError(
                f"labels of logits {tuple(logits_of.shape)} must have that shape, or it less the classes; "
                f"got {tuple(given.shape)}"
            )
    tokens = F.cross_entropy(token_logits.flatten(0, 2), token_labels.flatten(0, 2))
    return image_weight * F.cross_entropy(logits, labels) + token_weight * tokens


def smoothed(shares: Tensor, smoothing: float) -> Tensor:
    """Shares (..., classes) with ``smoothing`` of them spread over all classes."""
    return shares * (1 - smoothing) + smoothing / shares.shape[-1]


class MixToken(nn.Module):
    """A backbone whose tokens behind the stem are exchanged, in a box, with those of the flipped batch.

    The box is drawn on the last map, λ uniform as Beta(1, 1) is, and scaled to the map behind the stem, as
    Wave-ViT does in a pyramid. The tokens' logits are un-mixed; those of the image are of a mixed image.

    Args:
        model: a backbone with a head for tokens.
        mix: exchange tokens; without, as in evaluation.

    Raises:
        AttnbenchError: the model has no head for tokens.
    """

    def __init__(self, model: nn.Module, mix: bool = True) -> None:
        super().__init__()
        if getattr(model, "aux_head", None) is None:
            raise AttnbenchError(
                "token labels need a model with a head for tokens (token_labels of its layout)"
            )
        self.model: Any = model
        self.mix = mix

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, float]:
        """Logits (B, classes) and (B, H, W, classes); the share of an image's tokens that are its own."""
        x = self.model.patch_embed(images)
        factor = 2 ** (len(self.model.layers) - 1)
        rows, columns = (-(-side // factor) for side in x.shape[1:3])
        box = rand_bbox((rows, columns), np.random.beta(1.0, 1.0)) if self.mix else (0, 0, 0, 0)
        top, down, left, right = (int(side) for side in box)
        if down > top and right > left:
            place = (slice(None), slice(top * factor, down * factor), slice(left * factor, right * factor))
            x = x.clone()
            x[place] = x[place].flip(0)
        features = self.model.norm(self.model.layers(x))
        logits, tokens = self.model.head(features), self.model.aux_head(features)
        tokens = tokens.clone()
        tokens[:, top:down, left:right] = tokens[:, top:down, left:right].flip(0)
        return logits, tokens, 1 - (down - top) * (right - left) / (rows * columns)
