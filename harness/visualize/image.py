"""The image that is looked at: a file, or one drawn here, which needs no licence."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, UnidentifiedImageError
from torch import Tensor

from attnbench.errors import AttnbenchError

DRAWN = "drawn"
_SKY, _GROUND, _DISC, _SQUARE = (150, 190, 220), (120, 140, 90), (200, 70, 50), (60, 70, 150)


def load(name: str, side: int) -> Image.Image:
    """The image called ``name`` in RGB, ``side`` pixels high and wide: a file's, or :func:`draw`'s.

    Raises:
        AttnbenchError: there is no such file, or it is no image.
    """
    if name == DRAWN:
        return draw(side)
    try:
        with Image.open(Path(name)) as image:
            return image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    except UnidentifiedImageError as error:
        raise AttnbenchError(f"--image {name} is not an image; expected a PNG, a JPEG or the like") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise AttnbenchError(f"cannot read --image {name}: {why}; give a file or {DRAWN!r}") from error


def draw(side: int) -> Image.Image:
    """Two discs alike far from each other, a square and stripes, on a sky that fades and a ground.

    A query on one disc can be asked whether it reads the other.
    """
    big = 4 * side  # drawn large and made smaller, which smooths the edges
    fade = np.linspace(0.75, 1.15, big)[:, None, None]
    sky = np.broadcast_to(np.clip(np.array(_SKY) * fade, 0, 255), (big, big, 3)).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(sky))
    pen = ImageDraw.Draw(image)

    def box(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        return left * big, top * big, right * big, bottom * big

    pen.rectangle(box(0, 0.7, 1, 1), fill=_GROUND)
    for stripe in range(6):
        pen.rectangle(box(0.08 + 0.15 * stripe, 0.82, 0.13 + 0.15 * stripe, 0.95), fill=(235, 230, 210))
    for left, top in ((0.12, 0.12), (0.66, 0.45)):
        pen.ellipse(box(left, top, left + 0.22, top + 0.22), fill=_DISC)
    pen.rectangle(box(0.6, 0.1, 0.82, 0.32), fill=_SQUARE)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def as_input(image: Image.Image, channels: int) -> Tensor:
    """(1, channels, height, width) of mean 0 and variance 1 over the image; grey where channels is 1.

    Raises:
        AttnbenchError: the model takes neither one channel nor three.
    """
    if channels not in (1, 3):
        raise AttnbenchError(f"a model of {channels} channels takes no picture; expected 1 or 3")
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.float32)
    x = torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)[None]
    return (x - x.mean()) / x.std().clamp_min(1e-6)
