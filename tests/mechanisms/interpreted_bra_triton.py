"""The fused kernels of BRA against their eager twin, in Triton's interpreter on a CPU.

``test_bra_triton.py`` runs this file in a process of its own: the interpreter is chosen when Triton is
imported, by TRITON_INTERPRET=1. No bfloat16: the interpreter's product of it is garbage.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from attnbench.mechanisms.bra import eager, triton_operator, triton_route
from attnbench.mechanisms.bra.triton_launch import Problem


class Case(NamedTuple):
    """A map, its regions and heads."""

    size: tuple[int, int]
    region: tuple[int, int]
    topk: int
    heads: int = 2
    qk: int = 32
    v: int = 32
    lepe: int = 3
    attend_padding: bool = False
    batch: int = 1

    @property
    def regions(self) -> int:
        return -(-self.size[0] // self.region[0]) * -(-self.size[1] // self.region[1])

    def options(self) -> dict:
        return {
            "num_heads": self.heads,
            "region": self.region,
            "scale": self.qk**-0.5,
            "attend_padding": self.attend_padding,
            "dim": self.heads * self.v,
        }

    def inputs(
        self, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        torch.manual_seed(0)
        C = self.heads * self.v
        qkv = torch.randn(self.batch, *self.size, 2 * self.heads * self.qk + C).to(dtype)
        routes = torch.rand(self.batch, self.regions, self.regions).argsort(-1)[..., : self.topk].contiguous()
        if not self.lepe:
            return qkv, routes, None, None
        return qkv, routes, torch.randn(C, 1, self.lepe, self.lepe).to(dtype), torch.randn(C).to(dtype)


# Stages 1 to 4 with fewer regions, then what they do not have.
CASES = {
    "64 tokens": Case((8, 16), (8, 8), 1),
    "16 tokens": Case((12, 8), (4, 4), 4, batch=2),
    "4 tokens": Case((8, 8), (2, 2), 5, lepe=5),
    "1 token": Case((7, 7), (1, 1), 49),
    "4 tokens, few routes": Case((10, 8), (2, 2), 2, lepe=0),
    "padding masked": Case((9, 11), (4, 3), 2, qk=16, v=16),
    "padding attended": Case((9, 11), (4, 3), 2, qk=16, v=16, attend_padding=True),
    "padding masked, all routed": Case((9, 11), (2, 3), 20, lepe=0),
    "padding attended, all routed": Case((9, 11), (2, 3), 20, lepe=0, attend_padding=True),
    "tiles of a region": Case((18, 21), (9, 11), 3, heads=1, qk=16, v=16),
    "head dim 64": Case((8, 4), (4, 4), 2, heads=1, qk=64, v=64),
    "head dim 96": Case((8, 4), (4, 2), 2, heads=1, qk=96, v=96, lepe=0),
    "head dim 128": Case((8, 4), (4, 4), 1, heads=1, qk=128, v=128),
    "q and k narrower": Case((8, 8), (4, 4), 2, qk=16, v=40),
    "q and k wider": Case((4, 4), (2, 2), 2, qk=24, v=8),
}


def results(function: Callable, case: Case, dtype: torch.dtype, cast: torch.dtype) -> dict[str, Tensor]:
    """Output and gradients of every input, with q, k and v told apart."""
    qkv, routes, *local = case.inputs(dtype)
    leaves = [None if t is None else t.to(cast).requires_grad_() for t in (qkv, *local)]
    out = function(leaves[0], routes, *leaves[1:], **case.options())
    torch.manual_seed(1)
    out.backward(torch.randn(out.shape).to(dtype).to(cast))
    width = case.heads * case.qk
    q, k, v = leaves[0].grad.split((width, width, case.heads * case.v), dim=-1)
    found = {"out": out.detach(), "q": q, "k": k, "v": v}
    if case.lepe:
        found |= {"weight": leaves[1].grad, "bias": leaves[2].grad}
    return found


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


IN_HALF = ("16 tokens", "4 tokens", "padding attended", "head dim 96")


@pytest.mark.parametrize(
    ("name", "dtype"), [(n, torch.float32) for n in CASES] + [(n, torch.float16) for n in IN_HALF]
)
def test_output_and_gradients_are_as_exact_as_the_eager_twin(name, dtype):
    case = CASES[name]
    exact = results(eager.map_attention, case, dtype, torch.float64)
    twin = results(eager.map_attention, case, dtype, dtype)
    fused = results(triton_operator.attention, case, dtype, dtype)
    assert fused.keys() == exact.keys()
    for tensor, truth in exact.items():
        assert fused[tensor].dtype == dtype
        error, allowed = ((found[tensor] - truth).norm() for found in (fused, twin))
        assert error <= 2 * allowed + torch.finfo(dtype).eps * truth.norm(), tensor


def test_cases_reach_both_ways_to_walk_keys_and_tiles_of_a_region():
    problems = {name: problem(case) for name, case in CASES.items()}
    assert {p.masked for p in problems.values()} == {False, True}
    assert problems["4 tokens"].masked
    assert not problems["4 tokens, few routes"].masked
    large = problems["tiles of a region"]
    assert large.query_tiles(large.tiles("forward")) > large.regions


def problem(case: Case) -> Problem:
    qkv, routes, weight, _ = case.inputs()
    C = case.heads * case.v
    return triton_operator.problem_of(
        qkv, routes, weight, case.heads, C, *case.region, 1.0, case.attend_padding
    )


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_operators_keep_torchs_rules():
    """Schema, fake kernels and gradients, by torch's own checks; shapes symbolic too."""
    case = Case((4, 6), (2, 3), 2, heads=1, qk=16, v=16)
    qkv, routes, weight, bias = case.inputs()
    leaves = (qkv.requires_grad_(), routes, weight.requires_grad_(), bias.requires_grad_())
    torch.use_deterministic_algorithms(False)  # the checks compare what is left uninitialised
    torch.library.opcheck(triton_operator.bra_forward, (*leaves, 1, 16, *case.region, 0.25, False))


@pytest.mark.parametrize("how", ["compile", "export", "checkpoint", "autocast"])
def test_works_inside_torchs_transformations(how):
    case = CASES["q and k wider"]
    expected = results(triton_operator.attention, case, torch.float32, torch.float32)

    def fused(*tensors, **options):
        if how == "compile":
            return torch.compile(triton_operator.attention, fullgraph=True, backend="aot_eager")(
                *tensors, **options
            )
        if how == "checkpoint":
            return checkpoint(triton_operator.attention, *tensors, use_reentrant=False, **options)
        if how == "autocast":
            with torch.autocast("cpu", dtype=torch.float16):
                return triton_operator.attention(*tensors, **options)
        return triton_operator.attention(*tensors, **options)

    if how == "export":

        class Module(torch.nn.Module):
            def forward(self, *tensors):
                return triton_operator.attention(*tensors, **case.options())

        inputs = case.inputs()
        exported = torch.export.export(Module(), inputs)
        assert "attnbench.bra_forward" in exported.graph_module.code
        assert torch.equal(exported.module()(*inputs), expected["out"])
        return
    found = results(fused, case, torch.float32, torch.float32)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("lepe", [0, 3])
def test_flops_are_those_of_the_eager_twin(lepe):
    case = Case((8, 8), (4, 4), 2, qk=16, v=8, lepe=lepe)
    counts = []
    for function in (triton_operator.attention, eager.map_attention):
        with FlopCounterMode(display=False) as counter:
            results(function, case, torch.float32, torch.float32)
        counts.append(counter.get_total_flops())
    pairs, taps = 4 * 2 * 16**2 * 2, 64 * 16 * lepe**2
    assert counts[0] == 2 * 3 * (pairs * (16 + 8) + taps)
    if not lepe:  # torch's own formula for the backward of a grouped convolution is wrong
        assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("size", "region", "topk"),
    [((14, 14), (2, 2), 16), ((9, 11), (4, 3), 3), ((7, 7), (1, 1), 99), ((18, 21), (9, 11), 4)],
)
def test_routing_chooses_the_regions_of_the_eager_twin(size, region, topk):
    torch.manual_seed(0)
    qkv = torch.randn(2, *size, 2 * 40 + 8)
    with FlopCounterMode(display=False) as counter:
        routes = triton_operator.route(qkv, 40, region, topk)
    expected = eager.route(qkv.double(), 40, region, topk)
    assert torch.equal(routes, expected)
    assert counter.get_total_flops() == 2 * 2 * expected.shape[1] ** 2 * 40
    torch.library.opcheck(triton_operator.bra_route, (qkv, 40, *region, topk), test_utils="test_faketensor")


def test_routing_of_many_regions_and_of_not_a_number_stays_within_the_map():

    qkv = torch.randn(1, 6, 6, 24)
    expected = triton_operator.route(qkv, 8, (2, 2), 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_route, "MOST_REGIONS", 8)
        assert torch.equal(triton_operator.route(qkv, 8, (2, 2), 3), expected)
    routes = triton_operator.route(qkv.fill_(torch.nan), 8, (2, 2), 9)
    assert torch.equal(routes.sort(-1).values, torch.arange(9).expand(1, 9, 9))


def test_routes_of_another_shape_are_refused():
    qkv, routes, weight, bias = CASES["16 tokens"].inputs()
    with pytest.raises(ValueError, match=r"routes must be int64 \(2, 6, k\), got torch.int64 \(2, 5, 4\)"):
        triton_operator.attention(qkv, routes[:, 1:], weight, bias, **CASES["16 tokens"].options())
    with pytest.raises(ValueError, match=r"got torch\.float64"):
        triton_operator.attention(qkv.double(), routes, weight, bias, **CASES["16 tokens"].options())
