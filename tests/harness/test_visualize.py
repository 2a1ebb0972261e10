"""What a token reads is what the mechanism lets it read: by its own word, and measured."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnbench import AttnbenchError, registry
from attnbench.harness.models.backbone import Backbone, create_model
from attnbench.harness.training import checkpoint
from attnbench.harness.visualize import explorer, image, picture
from attnbench.harness.visualize.fields import fields
from attnbench.harness.visualize.reads import EVERYTHING, VALUES, WEIGHTS, dependence, reads
from attnbench.harness.visualize.view import (
    Asked,
    View,
    attention_input,
    attention_of,
    every_token,
    one_token,
    routed,
)
from attnbench.registry import Site

SIDE, DIM = 6, 16
STATIC = [name for name in registry.names() if registry.get(name).facts.pattern == "static"]


def randomised(module: nn.Module) -> nn.Module:
    """Normal values for every parameter, so that nothing is zero by convention."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
            parameter.normal_(std=fan_in**-0.5, generator=generator)
    return module.double().eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", STATIC)
def test_the_map_of_a_static_mechanism_equals_its_support(name: str) -> None:
    for height, width, block in ((SIDE, SIDE, 0), (SIDE, SIDE, 1), (5, 7, 0)):
        site = Site(DIM, 2, SIDE, SIDE, 1, block)
        module: Any = randomised(registry.get(name).build(site, impl="eager"))
        n = height * width
        found = reads(module, noise(1, height, width, DIM), torch.arange(n)).weights.flatten(1)
        assert torch.equal(found > 0, module.support(height, width)), (height, width, block)


@pytest.mark.parametrize("name", ["full", "bra"])
def test_the_value_path_of_one_head_is_the_attention_weights(name: str) -> None:
    site = Site(DIM, 1, SIDE, SIDE)
    options = {"lepe_kernel": 0, "num_regions": 3, "topk": 2} if name == "bra" else {}
    module: Any = randomised(registry.get(name).build(site, impl="eager", **options))
    x, queries = noise(1, 7, 8, DIM), torch.tensor([0, 11, 55])
    told = reads(module, x, queries)
    assert told.definition == WEIGHTS
    measured, held = dependence(module, x, queries)
    assert held
    measured = measured / measured.sum((1, 2), keepdim=True)
    torch.testing.assert_close(measured, told.weights)


def test_a_head_can_be_looked_at_alone_where_there_is_one() -> None:
    module: Any = randomised(registry.get("full").build(Site(DIM, 2, SIDE, SIDE), impl="eager"))
    x, queries = noise(1, 3, 4, DIM), torch.tensor([5])
    told = module.attention_map(x, queries)
    for head in (0, 1):
        found = reads(module, x, queries, head=head)
        torch.testing.assert_close(found.weights.flatten(1), told[:, head])
        assert found.definition == f"attention weights of head {head}"
    with pytest.raises(AttnbenchError, match="there is no head 2 among the 2"):
        reads(module, x, queries, head=2)
    with pytest.raises(AttnbenchError, match="has no attention_map"):
        reads(Plugin(True), x, queries, head=0)


@pytest.mark.parametrize("padding", ["masked", "legacy", "nchw"])
def test_bra_reads_what_its_output_depends_on_whatever_the_padding(padding: str) -> None:
    site = Site(DIM, 2, SIDE, SIDE)
    options = {"lepe_kernel": 0, "num_regions": 3, "topk": 2, "padding": padding}
    module: Any = randomised(registry.get("bra").build(site, impl="eager", **options))
    x, queries = noise(1, 7, 8, DIM), torch.arange(56)
    told = module.attention_map(x, queries)
    assert torch.equal(told.sum(1) > 0, dependence(module, x, queries, probes=2)[0].flatten(1) > 0)
    masks = torch.stack([mask.any(0) for mask in routed(module, x, queries)])
    assert torch.equal(masks.flatten(1), told.sum(1) > 0)


def routing_by_hand() -> tuple[nn.Module, Tensor, list[int]]:
    """BRA with k = 1 whose region r must go to region (3r + 1) mod 4, and an image of one mark a region."""
    goes_to = [(3 * r + 1) % 4 for r in range(4)]
    module: Any = registry.get("bra").build(
        Site(4, 1, 4, 4), impl="eager", num_regions=2, topk=1, lepe_kernel=0, qkv_bias=False
    )
    with torch.no_grad():
        query = torch.zeros(4, 4)
        for r, other in enumerate(goes_to):
            query[other, r] = 1  # the query of region r is the key of the region that it must go to
        module.qkv.weight.copy_(torch.cat((query, torch.eye(4), torch.eye(4))))
    regions = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
    return module.eval(), nn.functional.one_hot(regions, 4)[None].float(), goes_to


def test_bra_with_k_1_shows_exactly_the_region_it_must_route_to() -> None:
    module, x, goes_to = routing_by_hand()
    regions = x[0].argmax(-1)
    queries = torch.arange(16)
    told, measured = reads(module, x, queries), dependence(module, x, queries)[0]
    masks = routed(module, x, queries)
    for query in range(16):
        expected = regions == goes_to[int(regions.flatten()[query])]
        assert torch.equal(told.weights[query] > 0, expected)
        assert torch.equal(measured[query] > 0, expected)
        assert torch.equal(masks[query], expected[None])


def test_the_picture_of_bra_shows_that_region_and_no_other() -> None:
    module, x, goes_to = routing_by_hand()
    regions, queries = x[0].argmax(-1), torch.tensor([6])
    view = View(
        "", image.draw(32), (4, 4), queries, reads(module, x, queries), routed(module, x, queries), None
    )
    figure = picture.draw(view)
    drawn = [axis.images[-1] for axis in figure.axes if len(axis.images) == 2]
    expected = (regions == goes_to[int(regions.flatten()[6])]).numpy()
    assert len(drawn) == 2, "routed regions and heat map, side by side"
    for one in drawn:
        assert np.array_equal(np.asarray(one.get_array()) > 0, expected)
        assert np.array_equal(np.asarray(one.get_alpha()) > 0, expected)


def pico(mechanism: str, **options: Any) -> tuple[Backbone, Tensor]:
    torch.manual_seed(0)
    model = create_model("swin_pico", mechanism, impl="eager", img_size=24, **options)
    randomised(model)
    return model, image.as_input(image.draw(24), 1).double()


@pytest.mark.parametrize("name", ["shifted_window", "neighborhood", "criss_cross", "identity"])
def test_the_measured_field_of_a_static_mechanism_fills_the_reach_from_support(name: str) -> None:
    model, x = pico(name)
    found = fields(model, x, stage=1, block=1, token=8)
    assert [(f.blocks, f.stage, f.block) for f in found] == [(1, 1, 1), (2, 1, 0), (3, 0, 1), (4, 0, 0)]
    for field in found:
        assert field.reach is not None
        assert torch.equal(field.reach, field.measured > 0)
        assert 1 <= field.core <= int(field.reach.sum())
    assert found[0].reach.shape == (6, 6)  # type: ignore[union-attr]
    assert found[3].reach.shape == (12, 12)  # type: ignore[union-attr]


@pytest.mark.parametrize("layout", ["biformer_stl", "biformer_small"])
def test_reach_crosses_every_kind_of_merging(layout: str) -> None:
    torch.manual_seed(0)
    model = create_model(layout, "sliding_window", impl="eager", img_size=36, kernel_size=3)
    randomised(model)
    found = fields(model, noise(1, 3, 36, 36), stage=1, block=1, token=12)
    for field in found:
        assert field.reach is not None
        assert torch.equal(field.reach, field.measured > 0)


def test_a_dynamic_mechanism_stays_within_its_reach() -> None:
    model, x = pico("bra", num_regions=3, topk=[1, 1, 1, 1])
    for field in fields(model, x, stage=1, block=0, token=0):
        assert field.reach is not None
        assert not (field.measured[~field.reach] > 0).any()


class Plugin(nn.Module):
    """Mean of the row, by a softmax or not: a mechanism that declares nothing."""

    def __init__(self, soft: bool) -> None:
        super().__init__()
        self.soft = soft

    def forward(self, x: Tensor) -> Tensor:
        if self.soft:
            return torch.softmax(x @ x.transpose(-2, -1), -1) @ x
        return x.mean(2, keepdim=True).expand_as(x)


@pytest.mark.parametrize(("soft", "definition"), [(True, VALUES), (False, EVERYTHING)])
def test_a_plugin_without_any_method_is_measured_and_the_definition_said(soft: bool, definition: str) -> None:
    x = noise(1, 3, 4, 2)
    found = reads(Plugin(soft), x, torch.tensor([5]))
    row = torch.zeros(3, 4, dtype=torch.bool)
    row[1] = True
    assert torch.equal(found.weights[0] > 0, row)
    assert found.definition == definition
    if soft:
        expected = torch.softmax(x[0, 1, 1] @ x[0, 1].T, -1)
        torch.testing.assert_close(found.weights[0, 1], expected)


class Wrong(Plugin):
    def attention_map(self, x: Tensor, queries: Tensor) -> Tensor:
        return torch.full((len(queries), 12), 0.5)


def test_an_attention_map_of_another_shape_is_an_error() -> None:
    with pytest.raises(
        AttnbenchError, match=r"must be \(queries, heads, N\) = \(1, heads, 12\), got \(1, 12\)"
    ):
        reads(Wrong(True), noise(1, 3, 4, 2), torch.tensor([5]))


def test_random_directions_estimate_the_exact_norm() -> None:
    module = randomised(registry.get("shifted_window").build(Site(64, 2, 4, 4), impl="eager", window_size=4))
    x, queries = noise(1, 4, 4, 64), torch.tensor([3])
    exact, _ = dependence(module, x, queries)
    estimated, _ = dependence(module, x, queries, probes=48)
    ratio = (estimated / exact) / (estimated / exact).mean()
    assert (ratio - 1).abs().max() < 0.3


def test_png_and_explorer_are_written(tmp_path: Path) -> None:
    asked = Asked("bra", "swin_pico", stage=1, options={"num_regions": 3, "topk": 2}, token=(2, 1))
    view = one_token(asked)
    assert view.outside == 0
    picture.save(view, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    every = every_token(asked)
    page = explorer.page(every)
    assert page.count("<canvas") == 2
    heat = explorer.unpack(page, "reads")
    assert heat.shape == (49, 49)
    assert np.array_equal(heat[9] > 0, every.reads.weights[9].flatten().numpy() > 0)


@pytest.mark.parametrize("name", registry.names())
def test_every_mechanism_can_be_looked_into_and_reads_within_its_support(name: str) -> None:
    view = one_token(Asked(name, "swin_pico", stage=1))
    weights = view.reads.weights
    assert weights.shape == (1, 7, 7)
    assert weights.isfinite().all()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-4)
    assert view.outside < 1e-6
    assert len(view.fields) == 3


def test_weights_of_a_training_are_taken_and_those_of_another_model_refused(tmp_path: Path) -> None:
    torch.manual_seed(7)
    model = create_model("swin_pico", "full", num_classes=3, in_chans=3)
    identity = {"layout": "swin_pico", "mechanism": "full", "classes": 3, "in_chans": 3, "size": 28}
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    path = tmp_path / "checkpoint-000000001.safetensors"
    checkpoint.write(path, checkpoint.State(tensors, {"identity": {**identity, "options": {}}}))
    asked = Asked("full", "swin_pico", stage=1, checkpoint=path)
    view = one_token(asked)
    assert "weights of checkpoint-000000001.safetensors" in view.title
    x = attention_input(model.eval(), view.image, 1, 0)
    expected = reads(attention_of(model, 1, 0), x, view.queries)
    torch.testing.assert_close(view.reads.weights, expected.weights)
    with pytest.raises(AttnbenchError, match="is of full in swin_pico; give --mechanism full"):
        one_token(replace(asked, mechanism="bra"))
    with pytest.raises(AttnbenchError, match="nowhere"):
        one_token(replace(asked, checkpoint=tmp_path / "nowhere.pth"))


COMMAND = [sys.executable, "-m", "attnbench", "visualize"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option '--mechanism'"),
        (["--mechanism", "bra", "--token", "1"], "must be two whole numbers from 0 with ',' between"),
        (["--mechanism", "bra", "--block", "2,0"], "must be two whole numbers from 0 with '.' between"),
        (["--mechanism", "bra", "--output", "a.xyz"], "must end with one of"),
        (["--mechanism", "bra", "--layout", "nowhere"], "unknown layout 'nowhere'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = subprocess.run(COMMAND + arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked("full", "swin_pico", image="nowhere.png"), "cannot read --image nowhere.png"),
        (Asked("full", "swin_pico", image=__file__), "is not an image"),
        (Asked("full", "swin_pico", stage=7), "has no block 7.0; it has 0.0 to 0.1"),
        (Asked("full", "swin_pico", token=(9, 0)), "is not on the map of stage 2, 4 columns by 4 rows"),
    ],
)
def test_what_cannot_be_shown_is_one_clear_error(asked: Asked, message: str) -> None:
    with pytest.raises(AttnbenchError, match=message):
        one_token(asked)
