"""Loss of token labelling: every token is told what it shows, as well as the image.

Source: Jiang et al., 2021, "All Tokens Matter: Token Labeling for Training Better Vision Transformers",
arXiv:2104.10858, equation 3. BiFormer and others train with it for their best figures; the layouts
``..._token_labels`` have the head that it needs, which ``Backbone.forward_dense`` runs. The labels of tokens
come from another model. MixToken, which cuts and pastes patches behind the stem, is not here.
"""

from torch import Tensor
from torch.nn import functional as F


def token_label_loss(
    logits: Tensor, token_logits: Tensor, labels: Tensor, token_labels: Tensor, token_weight: float = 0.5
) -> Tensor:
    """Cross-entropy of the image plus ``token_weight`` times the mean cross-entropy of its tokens.

    Args:
        logits: (B, classes).
        token_logits: (B, H, W, classes), as ``forward_dense`` gives them.
        labels: (B,) class numbers, or (B, classes) shares.
        token_labels: (B, H, W) class numbers, or (B, H, W, classes) shares.
        token_weight: β of the paper.

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
    return F.cross_entropy(logits, labels) + token_weight * tokens
