"""Fused BRA on a CUDA device: true sizes, every dtype, torch's transformations, memory. Skipped elsewhere."""

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attnbench import Site, get
from attnbench.mechanisms.bra import eager, triton_operator

pytestmark = pytest.mark.gpu

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# (B, H, W), region, k, heads, head dim of q and k, of v, LePE, padding attended
SHAPES = {
    "stage 1": ((8, 56, 56), (8, 8), 1, 3, 32, 32, 5, False),
    "stage 2": ((8, 28, 28), (4, 4), 4, 6, 32, 32, 5, False),
    "stage 3": ((8, 14, 14), (2, 2), 16, 12, 32, 32, 5, False),
    "stage 4": ((8, 7, 7), (1, 1), 49, 24, 32, 32, 5, False),
    "detection": ((1, 200, 304), (29, 44), 4, 3, 32, 32, 5, False),
    "padding attended": ((2, 50, 45), (8, 7), 9, 3, 32, 32, 5, True),
    "all routed": ((2, 30, 29), (5, 5), 36, 2, 32, 32, 0, False),
    "small regions, few routes": ((2, 56, 56), (2, 2), 8, 3, 32, 32, 3, False),
    "more than 64 regions in a mask": ((2, 24, 24), (2, 2), 40, 3, 32, 32, 3, False),
    "head dim 16": ((2, 28, 28), (4, 4), 4, 4, 16, 16, 5, False),
    "head dim 64": ((2, 28, 28), (4, 4), 4, 2, 64, 64, 5, False),
    "head dim 96": ((2, 28, 28), (7, 7), 4, 2, 96, 96, 5, False),
    "head dim 128": ((2, 28, 28), (7, 7), 4, 1, 128, 128, 5, False),
    "q and k narrower": ((2, 28, 28), (4, 4), 4, 3, 24, 40, 5, False),
}


def inputs(shape: tuple, dtype: torch.dtype) -> tuple[list[Tensor | None], Tensor, dict]:
    """qkv and LePE's parameters as leaves, routes, options."""
    (B, H, W), region, topk, heads, qk, v, lepe, attend_padding = shape
    torch.manual_seed(0)
    R = -(-H // region[0]) * -(-W // region[1])
    leaves = [torch.randn(B, H, W, heads * (2 * qk + v), device="cuda", dtype=dtype), None, None]
    if lepe:
        leaves[1] = torch.randn(heads * v, 1, lepe, lepe, device="cuda", dtype=dtype)
        leaves[2] = torch.randn(heads * v, device="cuda", dtype=dtype)
    routes = torch.rand(B, R, R, device="cuda").argsort(-1)[..., :topk].contiguous()
    options = {
        "num_heads": heads,
        "region": region,
        "scale": qk**-0.5,
        "attend_padding": attend_padding,
        "dim": heads * v,
    }
    return leaves, routes, options


def results(function, shape: tuple, dtype: torch.dtype, cast: torch.dtype) -> dict[str, Tensor]:
    """Output and gradients."""
    leaves, routes, options = inputs(shape, dtype)
    leaves = [None if t is None else t.to(cast).requires_grad_() for t in leaves]
    out = function(leaves[0], routes, *leaves[1:], **options)
    torch.manual_seed(1)
    out.backward(torch.randn(out.shape, device="cuda").to(dtype).to(cast))
    width = shape[3] * shape[4]
    q, k, v = leaves[0].grad.split((width, width, options["dim"]), dim=-1)
    found = {"out": out.detach(), "q": q, "k": k, "v": v}
    if leaves[1] is not None:
        found |= {"weight": leaves[1].grad, "bias": leaves[2].grad}
    return found


@pytest.fixture(autouse=True)
def _float32_is_float32_and_fresh_memory_is_nan(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_output_and_gradients_are_as_exact_as_the_eager_twin(shape, dtype):
    exact = results(eager.map_attention, shape, dtype, torch.float64)
    twin = results(eager.map_attention, shape, dtype, dtype)
    fused = results(triton_operator.attention, shape, dtype, dtype)
    for tensor, truth in exact.items():
        error, allowed = ((found[tensor] - truth).norm() for found in (fused, twin))
        assert error <= 2 * allowed + torch.finfo(dtype).eps * truth.norm(), tensor


@pytest.mark.parametrize("size", [(56, 56, 8, 8), (14, 14, 2, 2), (50, 45, 8, 7), (60, 60, 2, 2)])
def test_routing_chooses_the_regions_of_the_eager_twin(size):
    torch.manual_seed(0)
    qkv = torch.randn(4, *size[:2], 3 * 96, device="cuda")
    routes = triton_operator.route(qkv, 96, size[2:], 4)
    assert torch.equal(routes, eager.route(qkv.double(), 96, size[2:], 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_module_runs_fused_compiled_as_not(stage, dtype):
    torch.manual_seed(0)
    site = Site(96 << stage, 3 << stage, 56 >> stage, 56 >> stage, stage)
    module = get("bra").build(site, impl="fused").to("cuda", dtype)
    x = torch.randn(4, site.height, site.width, site.dim, device="cuda", dtype=dtype)
    compiled = torch.compile(module, fullgraph=True)
    torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize("name", ["stage 1", "stage 2", "stage 3"])
def test_two_runs_give_the_same_bits(name):
    first, second = (
        results(triton_operator.attention, SHAPES[name], torch.bfloat16, torch.bfloat16) for _ in range(2)
    )
    assert all(torch.equal(first[tensor], second[tensor]) for tensor in first)


@pytest.mark.parametrize("how", ["compile", "checkpoint"])
@pytest.mark.parametrize("name", ["stage 1", "stage 3"])
def test_compiled_and_checkpointed_give_the_same(name, how):
    def function(*tensors, **options):
        if how == "compile":
            return torch.compile(triton_operator.attention, fullgraph=True)(*tensors, **options)
        return checkpoint(triton_operator.attention, *tensors, use_reentrant=False, **options)

    expected = results(triton_operator.attention, SHAPES[name], torch.bfloat16, torch.bfloat16)
    found = results(function, SHAPES[name], torch.bfloat16, torch.bfloat16)
    assert all(torch.equal(found[tensor], expected[tensor]) for tensor in expected)


def test_exports():
    leaves, routes, options = inputs(SHAPES["stage 3"], torch.bfloat16)

    class Module(torch.nn.Module):
        def forward(self, qkv, routes, weight, bias):
            return triton_operator.attention(qkv, routes, weight, bias, **options)

    arguments = (leaves[0], routes, *leaves[1:])
    exported = torch.export.export(Module(), arguments)
    assert torch.equal(exported.module()(*arguments), Module()(*arguments))


def test_autocast_keeps_the_projections_dtype_and_gives_float32_gradients():
    leaves, routes, options = inputs(SHAPES["stage 2"], torch.float32)
    projection = torch.nn.Linear(leaves[0].shape[-1], leaves[0].shape[-1], device="cuda")
    weight = leaves[1].requires_grad_()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = triton_operator.attention(projection(leaves[0]), routes, weight, leaves[2], **options)
    out.float().square().mean().backward()
    assert out.dtype == torch.bfloat16
    assert weight.grad.dtype == projection.weight.grad.dtype == torch.float32
    assert weight.grad.isfinite().all()
    assert projection.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["stage 1", "stage 2", "stage 3"])
def test_a_step_is_captured_in_a_cuda_graph(name):
    torch.use_deterministic_algorithms(False)
    leaves, routes, options = inputs(SHAPES[name], torch.bfloat16)
    leaves = [t.requires_grad_() for t in leaves]

    def step() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        out = triton_operator.attention(leaves[0], routes, *leaves[1:], **options)
        out.backward(torch.ones_like(out))
        return out

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    with torch.no_grad():
        leaves[0].copy_(torch.randn_like(leaves[0]))
    graph.replay()
    captured = [out.clone(), *(leaf.grad.clone() for leaf in leaves)]
    expected = [step(), *(leaf.grad for leaf in leaves)]
    assert all(torch.equal(one, other) for one, other in zip(captured, expected, strict=True))


def peak_bytes(topk: int) -> int:
    """Forward and backward on the map of BiFormer's issue tracker: 600 × 500, 20 channels, S = 7."""
    torch.use_deterministic_algorithms(False)
    shape = ((1, 600, 500), (86, 72), topk, 1, 20, 20, 5, False)
    leaves, routes, options = inputs(shape, torch.float32)
    leaves = [t.requires_grad_() for t in leaves]
    torch.cuda.reset_peak_memory_stats()
    triton_operator.attention(leaves[0], routes, *leaves[1:], **options).square().sum().backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def test_memory_does_not_grow_with_k():
    peaks = [peak_bytes(topk) for topk in (1, 4, 16, 49)]
    assert max(peaks) < 2**30
    assert max(peaks) < 1.01 * min(peaks)
