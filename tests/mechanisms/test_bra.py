"""What is true of bi-level routing attention alone."""

import weakref

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from attnbench import AttnbenchError, ImplementationError, Site, get
from attnbench.mechanisms.bra import fused

IMPLS = ("auto", "eager", "masked", "sdpa", "unfused")  # those that run in float64
SWIN_T = [(96, 3, 56, 2), (192, 6, 28, 2), (384, 12, 14, 6), (768, 24, 7, 2)]  # dim, heads, map, blocks


def build(height: int, width: int, impl: str = "eager", **options):
    torch.manual_seed(0)
    module = get("bra").build(Site(32, 4, height, width), impl=impl, **options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module, torch.randn(2, height, width, 32, dtype=torch.double)


def reference(module, x: Tensor, region: tuple[int, int], topk: int, scale: float) -> Tensor:
    """Dense attention of real tokens under a mask drawn from region numbers; there is no padding here."""
    B, H, W, C = x.shape
    rows, columns = torch.arange(H) // region[0], torch.arange(W) // region[1]
    number = (rows[:, None] * (columns.max() + 1) + columns[None, :]).flatten()
    member = F.one_hot(number).double()  # (N, R)
    q, k, v = (x.flatten(1, 2) @ module.qkv.weight.T + module.qkv.bias).chunk(3, dim=-1)
    mean_q, mean_k = (torch.einsum("nr,bnc->brc", member / member.sum(0), t) for t in (q, k))
    scores = torch.einsum("brc,bsc->brs", mean_q, mean_k)
    chosen = F.one_hot(scores.argsort(dim=-1, descending=True)[..., :topk], scores.shape[-1]).sum(-2)
    mask = torch.einsum("nr,brs,ms->bnm", member, chosen.double(), member) > 0
    heads = []
    for i in range(0, C, 8):
        logits = torch.einsum("bnd,bmd->bnm", q[..., i : i + 8], k[..., i : i + 8]) * scale
        heads.append(logits.masked_fill(~mask, -torch.inf).softmax(-1) @ v[..., i : i + 8])
    local = F.conv2d(v.transpose(1, 2).unflatten(2, (H, W)), module.lepe.weight, module.lepe.bias, 1, 2, 1, C)
    out = torch.cat(heads, dim=-1) + local.flatten(2).transpose(1, 2)
    return (out @ module.proj.weight.T + module.proj.bias).view(B, H, W, C)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("height", "width", "num_regions", "topk", "region"),
    [(14, 14, 7, 16, (2, 2)), (12, 8, 4, 1, (3, 2)), (13, 11, 4, 3, (4, 3)), (3, 16, 5, 2, (1, 4))],
)
def test_is_full_attention_under_the_routing_mask_and_never_sees_padding(
    impl, height, width, num_regions, topk, region
):
    module, x = build(height, width, impl, num_regions=num_regions, topk=topk)
    expected = reference(module, x, region, topk, 32**-0.5)
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("height", "width"), [(9, 10), (2, 3), (1, 5)])
def test_all_regions_routed_is_full_attention(impl, height, width):
    module, x = build(height, width, impl, num_regions=4, topk=16, qk_scale="head_dim")
    full = get("full").build(Site(32, 4, height, width), lepe_kernel=5).double()
    full.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), full(x), rtol=0, atol=1e-11)


def test_paddings_agree_where_regions_divide_the_map_and_differ_elsewhere():
    for size, same in ((8, True), (9, False)):
        module, x = build(size, size, num_regions=4, topk=2)
        outputs = []
        for padding in ("masked", "legacy", "nchw"):
            other, _ = build(size, size, num_regions=4, topk=2, padding=padding)
            outputs.append(other(x))
        for output in outputs[1:]:
            assert torch.allclose(output, outputs[0], atol=1e-11) == same
        if same:
            none, _ = build(size, size, num_regions=4, topk=2, padding="none")
            assert torch.equal(none(x), module(x))


@pytest.mark.parametrize(
    ("padding", "size", "regions"),
    [
        ("nchw", (15, 15), 64),
        ("nchw", (13, 13), 169),
        ("masked", (15, 15), 25),
        ("masked", (13, 13), 49),
        ("legacy", (15, 15), 49),
        ("masked", (1, 9), 5),
        ("legacy", (1, 9), 49),
    ],
)
def test_number_of_regions(padding, size, regions):
    module, x = build(*size, topk=3, padding=padding)
    assert module.routed_regions(x).shape == (2, regions, 3)


def test_a_region_need_not_choose_itself():
    module, x = build(14, 14, topk=1)
    with torch.no_grad():
        module.qkv.weight[32:64] = -module.qkv.weight[:32]
        module.qkv.bias[32:64] = -module.qkv.bias[:32]
    routes = module.routed_regions(x)[..., 0]
    assert not (routes == torch.arange(49)).any()


def test_routing_carries_no_gradient():
    gradients = []
    for detach in (True, False):
        module, x = build(14, 14, topk=4, detach_routing=detach)
        module(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_scale_is_of_the_full_width_unless_told():
    narrow, x = build(14, 14, topk=4)
    heads, _ = build(14, 14, topk=4, qk_scale="head_dim")
    number, _ = build(14, 14, topk=4, qk_scale=8**-0.5)
    assert torch.equal(heads(x), number(x))
    torch.testing.assert_close(heads(x), reference(heads, x, (2, 2), 4, 8**-0.5), rtol=0, atol=1e-11)
    assert not torch.allclose(narrow(x), heads(x))


def test_total_in_the_swin_t_layout():
    total = 0
    for stage, (dim, heads, size, blocks) in enumerate(SWIN_T):
        with torch.device("meta"):
            module = get("bra").build(Site(dim, heads, size, size, stage))
        total += blocks * sum(module.macs(size, size).values())
    assert total == 1_610_715_456  # the measured 4.5739 G of the model, less 2.9632 G outside attention


def issued(impl: str, stage: int) -> int:
    dim, heads, size, _ = SWIN_T[stage]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        module = get("bra").build(Site(dim, heads, size, size, stage), impl=impl)
        module(torch.empty(1, size, size, dim))
    return counter.get_total_flops()


def test_auto_gathers_in_large_maps_and_masks_in_small_ones():
    assert issued("auto", 1) == issued("eager", 1) < issued("masked", 1)
    assert issued("auto", 2) == issued("masked", 2) > issued("eager", 2)
    assert [issued("unfused", stage) for stage in (1, 2)] == [issued("auto", stage) for stage in (1, 2)]


@pytest.mark.parametrize(("size", "chunk"), [((14, 14), 10), ((13, 11), 7), ((14, 14), 49)])
def test_chunks_change_nothing(size, chunk):
    module, x = build(*size, topk=3)
    chunked, _ = build(*size, topk=3, chunk=chunk)
    results = []
    for each in (module, chunked):
        x.requires_grad_().grad = None
        out = each(x)
        out.square().sum().backward()
        results.append((out, x.grad, *(p.grad for p in each.parameters())))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-11, atol=1e-11)
    with torch.no_grad():
        torch.testing.assert_close(chunked(x), results[0][0], rtol=0, atol=1e-11)


class Peak(TorchDispatchMode):
    """The most bytes that results of operators held at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self.seen = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            if storage is not None and storage not in self.seen:
                self.seen[storage] = None
                self.held += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.held)
        return out

    def _freed(self, nbytes: int) -> None:
        self.held -= nbytes


def test_chunks_bound_the_memory_of_a_large_map():
    peaks = {}  # a quarter of 600 x 500 a side, 20 channels, as on BiFormer's issue tracker
    for topk, chunk in ((4, None), (16, None), (4, 1), (16, 1)):
        module = get("bra").build(Site(20, 2, 60, 50), impl="eager", topk=topk, chunk=chunk)
        x = torch.randn(1, 60, 50, 20, requires_grad=True)
        with Peak() as peak:
            module(x).sum().backward()
        peaks[topk, chunk] = peak.peak
    assert peaks[16, None] > 3 * peaks[4, None]
    assert peaks[16, 1] < peaks[16, None] / 8
    assert peaks[16, 1] < 1.8 * peaks[4, 1]


def test_auto_is_what_the_module_says_and_fused_where_a_kernel_runs():
    module = get("bra").build(Site(32, 4, 14, 14), topk=4)
    cpu = torch.device("cpu")
    assert module.implementation(cpu, torch.float64, 14, 14, True) == "eager"
    assert module.implementation(cpu, torch.float64, 14, 14, False) == "sdpa"
    x = torch.empty(1, 14, 14, 96)
    problem = {"num_heads": 4, "region": (2, 2), "topk": 4, "lepe_kernel": 5, "dim": 32}
    for dtype in (torch.float32, torch.bfloat16):
        can = not fused.unsupported(x.to(dtype), **problem)
        assert (module.implementation(cpu, dtype, 14, 14, True) == "fused") == can


def test_fused_without_a_kernel_says_why():
    module, x = build(14, 14, "fused", topk=4)  # float64
    with pytest.raises(ImplementationError, match=r"'fused' cannot run here: .*float64"):
        module(x)
    with pytest.raises(ImplementationError, match="no kernel for tensors on 'meta'"):
        module.float().to("meta")(x.float().to("meta"))


def test_stage_4_of_biformer():
    module, x = build(7, 7, topk=None, full_num_heads=8, full_qkv_bias=False, full_lepe_input="x")
    full = (
        get("full")
        .build(Site(32, 8, 7, 7), impl="eager", qkv_bias=False, lepe_kernel=5, lepe_input="x")
        .double()
    )
    full.load_state_dict({name.removeprefix("full."): value for name, value in module.state_dict().items()})
    assert torch.equal(module(x), full(x))
    with pytest.raises(ValueError, match="topk"):
        module.routed_regions(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": 50}, r"topk must be in .* got 50"),
        ({"topk": 0}, r"topk must be in .* got 0"),
        ({"num_regions": 0, "topk": None}, r"num_regions must be positive, got 0"),
        ({"padding": "zeros"}, r"padding must be .* got 'zeros'"),
        ({"qk_scale": "width"}, r"qk_scale must be .* got 'width'"),
        ({"qk_scale": -1.0}, r"qk_scale must be .* got -1.0"),
        ({"qk_dim": 6}, r"qk_dim must be .* got 6"),
        ({"lepe_kernel": 4}, r"odd and positive, got 4"),
        ({"chunk": 0}, r"chunk must be positive .* got 0"),
        ({"chunk": 2, "impl": "masked"}, r"needs impl 'eager', got 2 and 'masked'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(AttnbenchError, match=message):
        get("bra").build(Site(32, 4, 14, 14), **options)


@pytest.mark.parametrize(
    ("padding", "size", "message"),
    [("nchw", (6, 14), "at least 7 × 7, got 6 × 14"), ("none", (14, 15), "divisible by 7 .* got 14 × 15")],
)
def test_maps_that_a_padding_cannot_take(padding, size, message):
    module, x = build(*size, topk=4, padding=padding)
    for call in (lambda: module(x), lambda: module.macs(*size)):
        with pytest.raises(ValueError, match=message):
            call()
