"""How far a question is from its answer: declared and measured agree, a choice is read off as it was made."""

from dataclasses import replace

import pytest
import torch

from attnbench.harness.models.backbone import Backbone
from attnbench.harness.probes import reach
from attnbench.layouts import get_layout
from attnbench.registry import get

SIDE = 8


def build(mechanism: str, **options: object) -> Backbone:
    torch.manual_seed(0)
    model = Backbone(get_layout("probe"), get(mechanism), options=options, global_pool="")
    for p in model.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.2)
    return model.eval()


def measured(model: Backbone, count: int = 3) -> tuple[torch.Tensor, ...]:
    """Of random questions: picture, asked, source, hop."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 4 * SIDE, 4 * SIDE, generator=generator)
    picture = torch.randint(count, (300,), generator=generator)
    asked, source = torch.randint(SIDE**2, (2, 300), generator=generator)
    return images, picture, asked, source, reach.measured(model, images, picture, asked, source)


@pytest.mark.parametrize(
    "name", ["identity", "full", "shifted_window", "sequential_axial", "criss_cross", "sliding_window"]
)
def test_declared_and_measured_agree_for_static_mechanisms(name: str) -> None:
    model = build(name)
    _, _, asked, source, hops = measured(model)
    assert torch.equal(reach.declared(model, SIDE)[asked, source], hops)


def test_identity_reaches_itself_and_full_everything() -> None:
    assert torch.equal(reach.declared(build("identity"), SIDE), torch.eye(SIDE**2).long())
    assert (reach.declared(build("full"), SIDE) == reach.ONE_HOP).all()


def test_axes_compose_to_everything() -> None:
    table = reach.declared(build("sequential_axial"), SIDE)
    at = torch.arange(SIDE**2)
    lines = (at[:, None] // SIDE == at // SIDE) | (at[:, None] % SIDE == at % SIDE)
    assert torch.equal(table == reach.ONE_HOP, lines)
    assert torch.equal(table == reach.COMPOSED, ~lines)


def test_bra_reads_what_it_routes_to_and_its_local_term_is_no_hop() -> None:
    model = build("bra")
    images, picture, asked, source, hops = measured(model)
    inputs = reach.inputs(model, images)
    region = (torch.arange(SIDE**2) // SIDE // 2) * 4 + torch.arange(SIDE**2) % SIDE // 2
    routed = asked == source
    for attention, x in zip(model.attentions(), inputs, strict=True):
        routes = attention.routed_regions(x)  # (B, 16, 4)
        chosen = routes[picture, region[asked]]
        routed |= (chosen == region[source][:, None]).any(1)
    assert torch.equal(hops == reach.ONE_HOP, routed)
    kept = {name: p.clone() for name, p in model.named_parameters()}
    assert any(bool(kept[name].any()) for name in kept if "lepe" in name)  # put back as it was


def test_a_mechanism_without_support_is_one_clear_error() -> None:
    model = build("identity")
    model.layers[0].blocks[0].attn = torch.nn.Identity()  # type: ignore[index, union-attr]
    with pytest.raises(reach.AttnbenchError, match="no method support"):
        reach.declared(model, SIDE)


def test_layouts_for_probes_have_one_token_a_cell() -> None:
    for name, side in (("probe", 8), ("probe_deep", 8), ("probe_12", 12), ("probe_56", 56)):
        layout = get_layout(name)
        assert layout.map_sizes(layout.img_size, layout.img_size) == [(side, side)]
        assert replace(layout, num_classes=2).depths == layout.depths
