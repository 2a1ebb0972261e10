"""Wiring of backbone and heads: shapes and sizes by hand, multiply-adds counted, torchvision's own path."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_models import WIDTHS, Issue, make
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from attnbench.harness.counting.macs import count_forward
from attnbench.harness.data.scenes import Scenes
from attnbench.harness.dense import mask_rcnn, retinanet
from attnbench.harness.dense.dense_model import backbone_of, create_dense_model
from attnbench.harness.dense.head_parts import resize
from attnbench.harness.dense.segmenter import IGNORE, Segmenter, pixel_loss
from attnbench.harness.dense.semantic_fpn import SemanticFPN
from attnbench.harness.dense.upernet import UPerNet
from attnbench.harness.models.checkpoints import CheckpointError
from attnbench.harness.models.weights import write_state_dict
from attnbench.heads import HEADS


@pytest.mark.parametrize(("before", "head"), [("sem_fpn", "retinanet"), ("retinanet", "mask_rcnn")])
def test_a_backbone_trained_under_one_head_goes_on_under_another(
    before: str, head: str, tmp_path: Path
) -> None:
    trained = make(before, mechanism="bra")
    for parameter in trained.parameters():
        nn.init.normal_(parameter)
    best = tmp_path / "best.safetensors"  # as the training loop names its tensors
    state = {f"model.{name}": value for name, value in trained.state_dict().items()}
    write_state_dict(state | {f"ema.{name}": value * 2 for name, value in trained.state_dict().items()}, best)
    later = backbone_of(make(head, mechanism="bra", checkpoint=best)).state_dict()
    expected = backbone_of(trained).state_dict()
    assert later.keys() == expected.keys()
    assert all(torch.equal(later[name], expected[name]) for name in expected)
    with pytest.raises(CheckpointError, match="does not fit swin_pico with full"):
        make(head, mechanism="full", checkpoint=best)


@pytest.mark.parametrize("width", [16, 32, 64])
def test_a_narrow_detection_head_begins_with_what_it_is_given(width: int) -> None:
    torch.manual_seed(0)
    tower = retinanet._Head(width, 9, 6).classification_head.conv
    ratio = tower(torch.randn(4, width, 16, 16)).std()
    assert 0.1 < ratio < 1  # four ReLUs; with the papers' 0.01 less than a hundredth


def test_norms_are_of_the_outputs_and_the_next_stage_gets_the_map_itself() -> None:
    maps = make("sem_fpn").maps.eval()
    assert [norm.normalized_shape for norm in maps.norms] == [(16,), (32,), (64,), (128,)]
    assert not hasattr(maps.body.head, "fc") or not list(maps.body.head.fc.parameters())
    images = torch.randn(1, 3, 40, 56)
    outputs = maps(images)
    assert [tuple(x.shape) for x in outputs] == [
        (1, 16, 20, 28),
        (1, 32, 10, 14),
        (1, 64, 5, 7),
        (1, 128, 3, 4),
    ]
    x = maps.body.patch_embed(images)
    for stage, norm, output in zip(maps.body.layers, maps.norms, outputs, strict=True):
        x = stage(x)  # not normed between stages
        torch.testing.assert_close(
            output, F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps).permute(0, 3, 1, 2)
        )


def test_retinanet_reads_three_stages_mask_rcnn_four() -> None:
    assert backbone_of(make("retinanet")) is not None
    three, four = make("retinanet").backbone, make("mask_rcnn").backbone
    assert three.maps.channels == [32, 64, 128]
    assert three.strides == [4, 8, 16, 32, 64]
    assert four.maps.channels == [16, 32, 64, 128]
    assert four.strides == [2, 4, 8, 16, 32]
    images = torch.zeros(1, 3, 64, 96)
    assert [tuple(x.shape[2:]) for x in three(images).values()] == three.sizes(64, 96)
    assert [tuple(x.shape[2:]) for x in four(images).values()] == four.sizes(64, 96)


def test_batch_norm_of_a_detectors_backbone_is_frozen_and_that_of_a_segmenter_trains() -> None:
    for head, trains in (("retinanet", False), ("sem_fpn", True)):
        model = create_dense_model(head, "biformer_tiny", "bra", 3, widths=WIDTHS[head], impl="eager").train()
        norms = [m for m in backbone_of(model).modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert all(norm.training is trains and norm.weight.requires_grad for norm in norms)


def test_a_level_is_doubled_until_it_is_as_fine_as_the_finest() -> None:
    head = SemanticFPN([4, 8, 16, 32], [4, 8, 16, 32], 7, pyramid_channels=6, head_channels=5).eval()
    convs = [sum(isinstance(m, nn.Conv2d) for m in level.modules()) for level in head.levels]
    assert convs == [1, 1, 2, 3]  # max(1, log2(stride) - 2)
    doublings = [sum(isinstance(m, nn.Upsample) for m in level.modules()) for level in head.levels]
    assert doublings == [0, 1, 2, 3]
    maps = [torch.randn(2, c, 48 // s, 80 // s) for c, s in zip((4, 8, 16, 32), (1, 2, 4, 8), strict=True)]
    assert head(maps).shape == (2, 7, 48, 80)
    pyramid = sum((c + 1) * 6 + (9 * 6 + 1) * 6 for c in (4, 8, 16, 32))
    levels = 4 * 9 * 6 * 5 + 3 * 9 * 5 * 5 + 7 * 2 * 5
    assert sum(p.numel() for p in head.parameters()) == pyramid + levels + (5 + 1) * 7


def test_upernet_by_hand() -> None:
    head = UPerNet([4, 8, 16, 32], [4, 8, 16, 32], 7, head_channels=6).eval()
    maps = [torch.randn(2, c, 24 // s, 40 // s) for c, s in zip((4, 8, 16, 32), (1, 2, 4, 8), strict=True)]
    assert head(maps).shape == (2, 7, 24, 40)
    convs = 4 * 32 * 6 + 9 * (32 + 24) * 6 + (4 + 8 + 16) * 6 + 3 * 9 * 36 + 9 * 24 * 6
    norms = 2 * 6 * (4 + 1 + 3 + 3 + 1)
    assert sum(p.numel() for p in head.parameters()) == convs + norms + 7 * 7
    # pooling: the mean of the whole map reaches every place
    pooled = head.pooled[0](F.adaptive_avg_pool2d(maps[-1], 1))
    torch.testing.assert_close(resize(pooled, (3, 5)), pooled.expand(-1, -1, 3, 5))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [(64, 96), (96, 160)])
def test_the_formula_of_a_dense_model_is_what_is_counted(head: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = make(head, impl="eager").eval()
    counted = count_forward(Issue(model), torch.zeros(1, 3, *size, device="meta"))
    assert not counted.uncounted
    assert sum(model.macs(*size).values()) == counted.macs


PRINTED = [  # of Swin's own releases; the papers of BiFormer print none
    ("upernet", 150, (512, 2048), 60, 945, 0.995),
    ("mask_rcnn", 80, (800, 1280), 48, 267, 0.985),
]


@pytest.mark.parametrize(("head", "classes", "size", "millions", "printed", "least"), PRINTED)
def test_swin_t_has_the_size_that_its_authors_print(
    head: str, classes: int, size: tuple[int, int], millions: int, printed: int, least: float
) -> None:
    """Printed FLOPs also hold norms, activations, biases and padding (docs/dense.md): ours are less."""
    with torch.device("meta"):
        model: Any = create_dense_model(head, "swin_t", "shifted_window", classes, impl="eager")
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions
    giga = sum(model.macs(*size).values()) / 1e9
    assert least - 0.003 < giga / printed < 1


def test_ignored_pixels_count_as_zero_in_the_mean() -> None:
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 8, 8))
    labels[:, :4] = IGNORE
    own = F.cross_entropy(resize(logits, (8, 8))[:, :, 4:], labels[:, 4:])
    torch.testing.assert_close(pixel_loss(logits, labels), own / 2)


def test_the_auxiliary_head_weighs_four_tenths_and_is_not_run_in_a_test() -> None:
    model = make("upernet")
    assert isinstance(model, Segmenter)
    images, labels = torch.randn(2, 3, 32, 48), torch.randint(5, (2, 32, 48))
    model.train()
    for dropout in (m for m in model.modules() if isinstance(m, nn.Dropout2d)):
        dropout.p = 0.0
    found = model.losses(images, labels)
    assert model.auxiliary is not None
    own = pixel_loss(model.auxiliary(model.maps(images)[2]), labels)
    torch.testing.assert_close(found["auxiliary"], 0.4 * own)
    model.eval()
    model.auxiliary = None
    assert model(images).shape == (2, 5, 16, 24)


class ResNetMaps(nn.Module):
    """torchvision's ResNet-18 in the place of a backbone."""

    def __init__(self, first: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = resnet18(weights=None)
        self.first = first
        self.channels, self.strides = [64, 128, 256, 512][first:], [4, 8, 16, 32][first:]

    def forward(self, images: Tensor) -> list[Tensor]:
        r = self.body
        x, maps = r.maxpool(r.relu(r.bn1(r.conv1(images)))), []
        for layer in (r.layer1, r.layer2, r.layer3, r.layer4):
            x = layer(x)
            maps.append(x)
        return maps[self.first :]


def _theirs(levels: list[int], extra: Any = None) -> Any:
    torch.manual_seed(1)
    return _resnet_fpn_extractor(resnet18(weights=None), 5, returned_layers=levels, extra_blocks=extra)


@torch.no_grad()
def test_retinanet_is_torchvisions_on_its_own_resnet_but_for_the_seventh_level() -> None:
    theirs = RetinaNet(_theirs([2, 3, 4], LastLevelP6P7(512, 256)), 5).eval()
    ours = retinanet.Detector(ResNetMaps(1), 5).eval()  # type: ignore[arg-type]
    ours.backbone.fpn.load_state_dict(theirs.backbone.fpn.state_dict())
    ours.head.load_state_dict(theirs.head.state_dict())
    images = torch.randn(1, 3, 128, 192)
    expected, found = list(theirs.backbone(images).values()), list(ours.backbone(images).values())
    for level in range(4):  # P3 to P6
        torch.testing.assert_close(found[level], expected[level])
    extra: Any = theirs.backbone.fpn.extra_blocks
    torch.testing.assert_close(found[4], extra.p7(found[3]))  # torchvision: of ReLU
    torch.testing.assert_close(expected[4], extra.p7(found[3].relu()))
    for name, value in theirs.head(expected[:4]).items():
        torch.testing.assert_close(ours.head(found[:4])[name], value)


@torch.no_grad()
def test_mask_rcnn_is_torchvisions_on_its_own_resnet_but_for_alignment() -> None:
    theirs = MaskRCNN(_theirs([1, 2, 3, 4]), 6).eval()
    ours = mask_rcnn.Detector(ResNetMaps(0), 5).eval()  # type: ignore[arg-type]
    parts = (
        "rpn.head.",
        "roi_heads.box_head.",
        "roi_heads.box_predictor.",
        "roi_heads.mask_head.",
        "roi_heads.mask_predictor.",
    )
    wanted = {k: v for k, v in theirs.state_dict().items() if k.startswith((*parts, "backbone.fpn."))}
    missing, unexpected = ours.load_state_dict(wanted, strict=False)
    assert not unexpected
    assert all(".body." in name for name in missing)
    images = torch.randn(1, 3, 128, 192)
    expected, found = theirs.backbone(images), ours.backbone(images)
    for a, b in zip(expected.values(), found.values(), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(
        theirs.rpn.head(list(expected.values())), ours.rpn.head(list(found.values())), strict=True
    ):
        torch.testing.assert_close(a, b)
    # the pooled map of a box on whole cells, aligned by half a pixel, is that of the box shifted by it
    box, half = torch.tensor([[32.0, 32.0, 88.0, 88.0]]), torch.tensor([2.0, 2.0, 2.0, 2.0])
    theirs.roi_heads.box_roi_pool.sampling_ratio = 0
    shifted = theirs.roi_heads.box_roi_pool(expected, [box - half], [(128, 192)])
    torch.testing.assert_close(ours.roi_heads.box_roi_pool(found, [box]), shifted)


def test_anchors_are_exact_and_of_fixed_strides() -> None:
    model = make("retinanet")
    images = torch.zeros(1, 3, 64, 96)
    maps = list(model.backbone(images).values())
    anchors = model.anchor_generator(ImageList(images, [(60, 90)]), maps)[0]
    assert len(anchors) == 9 * sum(x.shape[2] * x.shape[3] for x in maps)
    sides = [4 * 4 * 2 ** (octave / 3) for octave in range(3)]
    for ratio, rows in zip((0.5, 1.0, 2.0), anchors[:9].split(3), strict=True):
        for side, box in zip(sides, rows.tolist(), strict=True):
            width, height = side / math.sqrt(ratio), side * math.sqrt(ratio)
            assert box == pytest.approx([-width / 2, -height / 2, width / 2, height / 2], rel=1e-6)
    torch.testing.assert_close(anchors[9:18], anchors[:9] + torch.tensor([4.0, 0.0, 4.0, 0.0]))


def test_unknown_names_are_told() -> None:
    from attnbench.errors import AttnbenchError

    with pytest.raises(AttnbenchError, match=r"head.*'fcn'"):
        create_dense_model("fcn", "swin_pico", "bra", 3)
    with pytest.raises(AttnbenchError, match="no such width"):
        create_dense_model("upernet", "swin_pico", "bra", 3, widths={"depth": 3})


@pytest.mark.parametrize(("head", "most"), [("retinanet", 40), ("mask_rcnn", 24)])
def test_behind_identity_a_blobs_class_does_not_depend_on_the_post(head: str, most: int) -> None:
    """How far to the left the class of a blob-sized thing depends on the image; the post is 55 px away.

    At the finest level, the only one whose anchors or boxes are as small as a blob. So it takes attention to
    tell blobs apart in detection.
    """
    model: Any = create_dense_model(
        head, "swin_pico", "identity", 6, widths=WIDTHS[head], img_size=64, drop_path_rate=0.0
    )
    model.eval()
    width = Scenes().width
    first = int(0.6 * width) + 4  # middle of the smallest blob at the near end of its 40 %
    reach = max(place - _leftmost(model, head, place, width) for place in range(first, first + 16))
    assert reach <= most < first - 7  # where a post on the left ends


def _leftmost(model: Any, head: str, place: int, width: int) -> int:
    """First column of the image that the class scores at a column depend on, by the gradient."""
    image = torch.randn(1, 3, 32, width, requires_grad=True)
    maps = model.backbone(image)
    if head == "retinanet":
        finest = model.head.classification_head.conv(maps["0"])
        scores = model.head.classification_head.cls_logits(finest)[..., place // model.backbone.strides[0]]
    else:
        box = torch.tensor([[place - 5.0, 5.0, place + 6.0, 16.0]])
        pooled = model.roi_heads.box_roi_pool(maps, [box])
        scores = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))[0]
    (gradient,) = torch.autograd.grad(scores.square().sum(), image)
    return int(gradient.abs().sum((0, 1, 2)).nonzero()[0])
