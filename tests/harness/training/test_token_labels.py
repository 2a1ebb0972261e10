"""The loss of token labelling, and a step with it."""

import math

import pytest
import torch
from torch.nn import functional as F

from attnbench.harness.models.backbone import create_model
from attnbench.harness.training.token_labels import token_label_loss


def test_it_is_the_image_plus_half_of_the_mean_token() -> None:
    logits, token_logits = torch.zeros(2, 4), torch.zeros(2, 3, 5, 4)
    labels, token_labels = torch.tensor([1, 2]), torch.ones(2, 3, 5, dtype=torch.long)
    assert token_label_loss(logits, token_logits, labels, token_labels).item() == pytest.approx(
        1.5 * math.log(4)
    )
    token_logits[0, 0, 0, 1] = 100.0  # one token of thirty is right
    tokens = math.log(4) * 29 / 30
    loss = token_label_loss(logits, token_logits, labels, token_labels, token_weight=2.0)
    assert loss.item() == pytest.approx(math.log(4) + 2 * tokens)


def test_shares_and_class_numbers_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, token_logits = (torch.randn(s, generator=generator) for s in ((2, 4), (2, 3, 5, 4)))
    labels, token_labels = torch.tensor([1, 2]), torch.randint(4, (2, 3, 5), generator=generator)
    shares = (F.one_hot(t, 4).float() for t in (labels, token_labels))
    by_number = token_label_loss(logits, token_logits, labels, token_labels)
    torch.testing.assert_close(token_label_loss(logits, token_logits, *shares), by_number)


def test_labels_of_another_map_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels of logits \(2, 3, 5, 4\) must have that shape"):
        token_label_loss(
            torch.zeros(2, 4), torch.zeros(2, 3, 5, 4), torch.zeros(2).long(), torch.zeros(2, 5, 3)
        )


def test_it_trains_both_heads() -> None:
    torch.manual_seed(0)
    model = create_model("biformer_small_token_labels", "identity", num_classes=4)
    logits, token_logits = model.forward_dense(torch.randn(2, 3, 64, 64))
    token_label_loss(logits, token_logits, torch.tensor([1, 2]), torch.ones(2, 2, 2).long()).backward()
    assert all(p.grad is not None for p in model.parameters())
