"""Axial attention against dense attention with an explicit mask and bias."""

import pytest
import torch
from torch import Tensor, nn

from attnbench import AttnbenchError, Site, get
from attnbench.layouts.swin import SWIN_T


def build(site: Site, **options: object) -> nn.Module:
    torch.manual_seed(0)
    module = get("sequential_axial").build(site, impl="eager", **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def dense(q: Tensor, k: Tensor, v: Tensor, heads: int, axis: int, table: Tensor | None, reach: int) -> Tensor:
    """Attention of all tokens of (H, W, C) under the mask of one axis, head by head."""
    H, W, _ = q.shape
    place = torch.cartesian_prod(torch.arange(H), torch.arange(W))
    distance = place[:, None, :] - place[None, :, :]  # query minus key, (N, N, 2)
    allowed = distance[..., 1 - axis] == 0
    outs = []
    for head, (qh, kh, vh) in enumerate(
        zip(*(t.flatten(0, 1).chunk(heads, -1) for t in (q, k, v)), strict=True)
    ):
        logits = qh @ kh.T / qh.shape[-1] ** 0.5
        if table is not None:
            logits = logits + table[:, head][distance[..., axis].clamp(1 - reach, reach - 1) + reach - 1]
        outs.append(logits.masked_fill(~allowed, float("-inf")).softmax(-1) @ vh)
    return torch.cat(outs, -1).view(H, W, -1)


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("size", [(4, 5), (7, 9), (1, 6), (3, 1)])  # the second exceeds the bias tables
def test_one_axis_equals_dense_attention(block: int, size: tuple[int, int]) -> None:
    module = build(Site(8, 2, 4, 5, block=block))
    p = dict(module.named_parameters())
    x = torch.randn(1, *size, 8, dtype=torch.double)
    q, k, v = (x[0] @ p["axes.0.project.qkv.weight"].T + p["axes.0.project.qkv.bias"]).chunk(3, -1)
    out = dense(q, k, v, 2, block, p["axes.0.bias_table"], (4, 5)[block])
    expected = out @ p["axes.0.proj.weight"].T + p["axes.0.proj.bias"]
    torch.testing.assert_close(module(x)[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["sequential", "sum"])
def test_both_axes_are_two_dense_attentions(form: str) -> None:
    module = build(Site(8, 2, 4, 5), form=form, head_dim=3, position_bias=False)
    p = dict(module.named_parameters())

    def attend(x: Tensor, axis: int) -> Tensor:
        q = x @ p[f"axes.{axis}.project.q.weight"].T
        k, v = (x @ p[f"axes.{axis}.project.kv.weight"].T).chunk(2, -1)
        out = dense(q, k, v, 2, axis, None, 0)
        return out @ p[f"axes.{axis}.proj.weight"].T + p[f"axes.{axis}.proj.bias"]

    x = torch.randn(1, 6, 5, 8, dtype=torch.double)
    y = attend(x[0], 0)
    expected = attend(y, 1) if form == "sequential" else y + attend(x[0], 1)
    torch.testing.assert_close(module(x)[0], expected, rtol=0, atol=1e-12)


def test_axis_may_be_chosen() -> None:
    site = Site(8, 2, 4, 4)
    even, odd = build(site), build(Site(8, 2, 4, 4, block=1))
    chosen = build(site, kind="width")
    chosen.load_state_dict(odd.state_dict())
    x = torch.randn(1, 4, 4, 8, dtype=torch.double)
    torch.testing.assert_close(chosen(x), odd(x), rtol=0, atol=0)
    even.load_state_dict(odd.state_dict())
    torch.testing.assert_close(even(x.transpose(1, 2)).transpose(1, 2), odd(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("form", "total"), [("alternate", 1_485_259_776), ("sequential", 2_970_519_552)])
def test_total_in_the_swin_layout(form: str, total: int) -> None:
    with torch.device("meta"):
        modules = [(get("sequential_axial").build(s, form=form), s) for s in SWIN_T.sites(224, 224)]
    assert sum(sum(m.macs(s.height, s.width).values()) for m, s in modules) == total


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "both"}, "form must be"),
        ({"kind": "depth"}, "kind must be"),
        ({"form": "sum", "kind": "width"}, "kind must be"),
        ({"head_dim": 0}, "head_dim must be positive"),
    ],
)
def test_refuses_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(AttnbenchError, match=message):
        build(Site(8, 2, 4, 4), **options)
