"""Labels of pixels from a segmenter: whole or sliding, at one scale or several, with or without flips.

Form: mmsegmentation's ``whole_inference``, ``slide_inference`` and ``aug_test``: logits go back to the
image's own size before softmax, and what is averaged over scales and flips are probabilities.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attnbench.dense_recipes import Test
from attnbench.harness.dense.head_parts import resize

Size = tuple[int, int]


@torch.no_grad()
def predict(model: nn.Module, image_at: Callable[[float], Tensor], size: Size, how: Test) -> Tensor:
    """(height, width) int64: the class of each pixel of an image.

    Args:
        model: maps (1, 3, height, width) to logits.
        image_at: the input (3, height, width) at a scale.
        size: height and width of the result: the image's own.
        how: mode, scales and flips.
    """
    total: Tensor | None = None
    for scale in how.scales:
        image = image_at(scale)[None]
        for flipped in (False, True) if how.flip else (False,):
            logits = _logits(model, image.flip(-1) if flipped else image, how)
            shares = resize(logits, size).softmax(1)
            shares = shares.flip(-1) if flipped else shares
            total = shares if total is None else total + shares
    assert total is not None
    return total[0].argmax(0)


def _logits(model: nn.Module, image: Tensor, how: Test) -> Tensor:
    """Logits at the size of the input."""
    size = tuple(image.shape[-2:])
    if how.mode == "whole":
        return resize(model(image), size)
    total: Tensor | None = None
    times = image.new_zeros(1, 1, *size)
    for top in _starts(size[0], how.crop, how.stride):
        for left in _starts(size[1], how.crop, how.stride):
            rows, columns = slice(top, top + how.crop), slice(left, left + how.crop)
            part = image[..., rows, columns]
            logits = resize(model(part), part.shape[-2:])
            if total is None:
                total = image.new_zeros(1, logits.shape[1], *size)
            total[..., rows, columns] += logits
            times[..., rows, columns] += 1
    assert total is not None
    return total / times


def _starts(side: int, crop: int, stride: int) -> list[int]:
    """First rows (or columns) of crops that cover a side; the last one ends with it."""
    count = max(-(-(side - crop) // stride), 0) + 1
    return [max(min(place * stride, side - crop), 0) for place in range(count)]
