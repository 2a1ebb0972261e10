"""Maps that windows, regions and strides do not divide: what is padded inside never changes a prediction.

Three things could: what a mechanism pads its map with, the place of an image in a batch, and the other images
of the batch. Each is tested for every mechanism, on maps like those of 800 × 1333 (200 × 334 tokens, ...:
divided by none of 7, 16 and 32), at a tenth of the size.
"""

from typing import Any

import pytest
import torch
from dense_models import make
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench import registry
from attnbench.dense_recipes import Test
from attnbench.harness.dense.predict import predict
from attnbench.harness.dense.stage_maps import StageMaps

SIZE = (52, 86)  # stage maps of 26 × 43, 13 × 22, 7 × 11, 4 × 6
MECHANISMS = registry.names()


def segmenter(mechanism: str) -> Any:
    """A model whose attention matters: its output projections are not drawn near zero."""
    model = make("sem_fpn", mechanism, impl="eager").eval()
    for name, parameter in model.maps.body.named_parameters():
        if ".attn." in name and parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("mechanism", MECHANISMS)
@torch.no_grad()
def test_an_image_is_predicted_alike_alone_and_among_others(mechanism: str) -> None:
    model = segmenter(mechanism)
    images = torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@torch.no_grad()
def test_what_a_map_is_padded_with_does_not_matter(mechanism: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros that are padded after the projections become large numbers: nothing may change by it.

    Convolutions have zero padding of their own, which is part of their definition; merging pads with zeros,
    as Swin does. Both stay.
    """
    model = segmenter(mechanism)
    images = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    expected = model(images)
    filled: list[tuple[int, ...]] = []
    pad = F.pad

    def poisoned(x: Tensor, amounts: Any, mode: str = "constant", value: float | None = None) -> Tensor:
        if (
            mode == "constant"
            and not value
            and inside[0]
            and x.is_floating_point()
            and pads_attention(mechanism, x)
        ):
            filled.append(tuple(amounts))
            return pad(x, amounts, mode, 1e3)
        return pad(x, amounts, mode, value)

    inside = [False]
    for attention in model.maps.body.attentions():
        attention.register_forward_pre_hook(lambda *_: inside.__setitem__(0, True))
        attention.register_forward_hook(lambda *_: inside.__setitem__(0, False))
    monkeypatch.setattr(F, "pad", poisoned)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
    if mechanism in PADS:
        assert any(any(amounts) for amounts in filled)


PADS = ("shifted_window", "bra", "block_grid")
"""Some that must have been caught padding, or the test tests nothing."""
CONVOLVES = (
    "cross_shaped",  # LePE convolves v inside stripes, the last of which ends with the map
    "interactive_window",  # a strided convolution
    "quadtree",  # strided convolutions make the pyramid
    "spatial_reduction",
    "spatially_separable",
    "local_global",
    "shunted",
    "long_short_distance",
    "wavelet",
)
"""Here zeros are a convolution's own padding, and part of the definition."""


def pads_attention(mechanism: str, x: Tensor) -> bool:
    """Whether a padded tensor is one of queries, keys and values alone."""
    return mechanism not in CONVOLVES


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn"])
@torch.no_grad()
def test_a_detectors_padding_is_that_of_the_image_alone(head: str) -> None:
    """Zeros to the next multiple of 32, at the bottom and the right; boxes end at the image."""
    model = make(head).eval()
    image = torch.randn(3, 50, 83, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    maps = next(m for m in model.modules() if isinstance(m, StageMaps))
    maps.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    found = model([image])[0]
    assert seen[0].shape == (1, 3, 64, 96)
    assert torch.equal(seen[0][0, :, :50, :83], image)
    assert not seen[0][0, :, 50:].any()
    assert not seen[0][0, :, :, 83:].any()
    assert bool((found["boxes"][:, 2] <= 83).all())
    assert bool((found["boxes"][:, 3] <= 50).all())
    padded = F.pad(image, (0, 13, 0, 14))  # the official form, written out
    torch.testing.assert_close(model.backbone(padded[None])["0"], model.backbone(seen[0])["0"])


@torch.no_grad()
def test_a_segmenter_sees_no_padding_at_all() -> None:
    model = make("upernet").eval()
    seen: list[Tensor] = []
    model.maps.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    labels = predict(model, lambda scale: torch.randn(3, 50, 83), (50, 83), Test())
    assert labels.shape == (50, 83)
    assert seen[0].shape == (1, 3, 50, 83)
