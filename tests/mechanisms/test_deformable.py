"""Deformable attention against a dense form, where reading a map bilinearly is a matrix of hat functions."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench import AttnbenchError, Site, get
from attnbench.layouts.swin import SWIN_T


def build(site: Site, **options: object) -> nn.Module:
    torch.manual_seed(0)
    module = get("deformable").build(site, impl="eager", **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def hats(places: Tensor, length: int) -> Tensor:
    """(..., length) weight of each token of an axis at normalised places: 0 from a token's distance on."""
    token = (places + 1) / 2 * (length - 1)
    return (1 - (token[..., None] - torch.arange(length)).abs()).clamp_min(0)


def reference(module: nn.Module, x: Tensor, form: str, groups: int, stride: int, factor: float) -> Tensor:
    """Attention of one image (H, W, C) of a module with kernel 3, 2 heads and a bias table."""
    p = dict(module.named_parameters())
    H, W, C = x.shape
    q = x @ p["proj_q.weight"].T + p["proj_q.bias"]
    keys, values, biases = [], [], []
    for g in range(groups):
        part = slice(g * C // groups, (g + 1) * C // groups)
        w, b = p["offsets.weight"], p["offsets.bias"]
        y = F.conv2d(q[..., part].permute(2, 0, 1)[None], w, b, stride, 1, groups=C // groups)[0]
        y = F.layer_norm(y.permute(1, 2, 0), (C // groups,), p["offsets.norm.weight"], p["offsets.norm.bias"])
        offset = F.gelu(y) @ p["offsets.proj.weight"].T
        place, query = [], []
        for axis, (n, length) in enumerate(zip(offset.shape[:2], (H, W), strict=True)):
            step = n if form == "v1" else n - 1
            shape = (n, 1) if axis == 0 else (1, n)
            start = ((torch.arange(n, dtype=x.dtype) + 0.5) / step * 2 - 1).view(shape)
            move = offset[..., axis] if factor < 0 else offset[..., axis].tanh() * factor / step
            at = start + move
            if factor < 0:
                at = at.tanh() if form == "v1" else at.clamp(-1, 1)
            place.append(at.flatten())
            i = torch.arange(length, dtype=x.dtype)
            query.append((i + 0.5) / length * 2 - 1 if form == "v1" else i / (length - 1) * 2 - 1)
        token = torch.einsum("sy,sx,yxc->sc", hats(place[0], H), hats(place[1], W), x[..., part])
        keys.append(token)
        dy = (query[0].repeat_interleave(W)[:, None] - place[0]) / 2
        dx = (query[1].repeat(H)[:, None] - place[1]) / 2
        tables = p["table"].chunk(groups)[g]
        rows, columns = hats(dy, tables.shape[1]), hats(dx, tables.shape[2])
        biases.append(torch.einsum("nsy,nsx,hyx->hns", rows, columns, tables))
    sampled, bias = torch.cat(keys, -1), torch.cat(biases)
    keys = (sampled @ p["proj_k.weight"].T + p["proj_k.bias"]).chunk(2, -1)
    values = (sampled @ p["proj_v.weight"].T + p["proj_v.bias"]).chunk(2, -1)
    queries = q.flatten(0, 1).chunk(2, -1)
    scale = (C // 2) ** -0.5
    out = [(queries[h] @ keys[h].T * scale + bias[h]).softmax(-1) @ values[h] for h in (0, 1)]
    return (torch.cat(out, -1) @ p["proj_out.weight"].T + p["proj_out.bias"]).view(H, W, C)


@pytest.mark.parametrize("form", ["v1", "pp"])
@pytest.mark.parametrize(("groups", "stride", "factor"), [(2, 1, 2.0), (1, 2, -1.0)])
@pytest.mark.parametrize("size", [(4, 5), (7, 3)])
def test_equals_the_dense_form(
    form: str, groups: int, stride: int, factor: float, size: tuple[int, int]
) -> None:
    options = {"groups": groups, "stride": stride, "offset_range_factor": factor, "form": form}
    module = build(Site(8, 2, 4, 5), alternate=False, kernel_size=3, **options)
    x = torch.randn(1, *size, 8, dtype=torch.double)
    expected = reference(module, x[0], form, groups, stride, factor)
    torch.testing.assert_close(module(x)[0], expected, rtol=0, atol=1e-12)


def test_pooling_single_tokens_is_full_attention() -> None:
    module = build(Site(8, 2, 4, 5), alternate=False, form="pp", no_off=True)
    full = get("full").build(Site(8, 2, 4, 5), impl="eager").double()
    p = module.state_dict()
    qkv = {f"qkv.{t}": torch.cat([p[f"proj_{n}.{t}"] for n in "qkv"]) for t in ("weight", "bias")}
    full.load_state_dict(qkv | {f"proj.{t}": p[f"proj_out.{t}"] for t in ("weight", "bias")})
    x = torch.randn(2, 4, 5, 8, dtype=torch.double)
    torch.testing.assert_close(module(x), full(x), rtol=0, atol=1e-12)


def test_no_off_reads_the_unmoved_points() -> None:
    still, moving = (build(Site(8, 2, 4, 5), alternate=False, no_off=o) for o in (True, False))
    still.load_state_dict(moving.state_dict(), strict=False)
    x = torch.randn(1, 4, 5, 8, dtype=torch.double)
    assert not torch.allclose(still(x), moving(x), atol=1e-3)
    nn.init.zeros_(moving.offsets.proj.weight)
    torch.testing.assert_close(still(x), moving(x), rtol=0, atol=1e-12)


def test_fixed_bias_belongs_to_queries_and_points() -> None:
    options = {"alternate": False, "form": "pp", "no_off": True, "stride": 2}
    fixed = build(Site(8, 2, 4, 6), position="fixed_pe", **options)
    plain = build(Site(8, 2, 4, 6), **options)
    plain.load_state_dict(fixed.state_dict(), strict=False)
    x = torch.randn(1, 4, 6, 8, dtype=torch.double)
    nn.init.zeros_(fixed.table)
    torch.testing.assert_close(fixed(x), plain(x), rtol=0, atol=1e-12)
    with torch.no_grad():  # query 3 sees point 4 (row 1, column 1 of 2 × 3) alone
        fixed.table[:, 3, 4] = 1e4
    point = x[0, 2:4, 2:4].mean((0, 1))
    expected = fixed.proj_out(fixed.proj_v(point))
    torch.testing.assert_close(fixed(x)[0, 0, 3], expected, rtol=0, atol=1e-12)


def test_convolution_of_the_queries_joins_before_the_output_projection() -> None:
    convolved, plain = (build(Site(8, 2, 4, 5), alternate=False, position=p) for p in ("dwc_pe", "none"))
    plain.load_state_dict(convolved.state_dict(), strict=False)
    x = torch.randn(1, 4, 5, 8, dtype=torch.double)
    p = dict(convolved.named_parameters())
    local = F.conv2d(convolved.proj_q(x).movedim(3, 1), p["lepe.weight"], p["lepe.bias"], padding=1, groups=8)
    expected = plain(x) + local.movedim(1, 3) @ p["proj_out.weight"].T
    torch.testing.assert_close(convolved(x), expected, rtol=0, atol=1e-12)


def test_official_module_without_offsets_keeps_its_idle_network() -> None:
    size = {"q_size": [4, 6], "kv_size": [4, 6], "n_heads": 4, "n_head_channels": 2, "n_groups": 2}
    kwargs = {**size, "stride": 2, "offset_range_factor": 2, "use_pe": True, "no_off": True, "ksize": 3}
    builder = get("deformable").load()
    module, names = builder.from_official({"kwargs": kwargs, "input_shape": [1, 4, 6, 8]})
    idle = {name for name, p in module.named_parameters() if not p.requires_grad}
    own = {names[n] + t for n in list(names)[:3] for t in ("weight", "bias")} - {"offsets.proj.bias"}
    assert idle == own
    assert sum(p.numel() for p in module.parameters()) == module.parameter_count()
    x = torch.randn(1, 4, 6, 8)
    plain = build(Site(8, 4, 4, 6), alternate=False, form="pp", no_off=True, stride=2).float()
    plain.load_state_dict(module.state_dict(), strict=False)
    torch.testing.assert_close(module(x), plain(x), rtol=0, atol=0)


def test_blocks_are_arranged_as_in_dat_t() -> None:
    kinds = [
        None if m.local is None else (m.local.window, m.local.shift)
        for stage in range(4)
        for m in (build(Site(12, 6, 8, 8, stage, block)) for block in range(2))
    ]
    plain, shifted = ((7, 7), 0), ((7, 7), 4)
    assert kinds == [plain, shifted, plain, shifted, plain, None, plain, None]
    assert build(Site(12, 6, 8, 8), alternate=False).local is None


def test_default_groups_divide_the_heads() -> None:
    groups = [
        build(Site(24, heads, 4, 4, stage), alternate=False).groups
        for stage, heads in ((0, 3), (1, 6), (2, 12), (3, 24), (2, 4), (3, 4))
    ]
    assert groups == [1, 2, 3, 6, 1, 2]


def test_half_precision_does_not_move_the_points() -> None:
    module = build(Site(8, 1, 56, 56), alternate=False, position="none", no_off=True).half()
    y, _ = module._places(torch.zeros(1, 56, 56, 8, dtype=torch.half), (56, 56))
    expected = (torch.arange(56, dtype=torch.double) + 0.5) / 56 * 2 - 1
    torch.testing.assert_close(y[0, :, 0].double(), expected, rtol=0, atol=1e-6)  # float16: 5e-4


def test_total_in_the_swin_layout() -> None:
    with torch.device("meta"):
        modules = [(get("deformable").build(s), s) for s in SWIN_T.sites(224, 224)]
    assert sum(sum(m.macs(s.height, s.width).values()) for m, s in modules) == 1_600_300_800


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 4}, "groups must divide 2 .heads"),
        ({"groups": 3, "position": "none"}, "groups must divide 8 .channels"),
        ({"stride": 0}, "must be positive"),
        ({"window_size": 0}, "must be positive"),
        ({"form": "v2"}, "form must be"),
        ({"position": "lepe"}, "position must be one of"),
    ],
)
def test_refuses_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(AttnbenchError, match=message):
        build(Site(8, 2, 4, 4), **options)
