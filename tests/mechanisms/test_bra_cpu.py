"""The fused CPU kernel of bi-level routing attention against its eager twin."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from attnbench.errors import ImplementationError
from attnbench.mechanisms.bra import cpu, eager

MISSING = cpu._missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

# B, H, W, heads, qk_dim, C, region, k, kernel, attend_padding
SWIN_STAGES = [
    (1, 56, 56, 2, 64, 64, (8, 8), 1, 5, False),
    (2, 28, 28, 2, 64, 64, (4, 4), 4, 5, False),
    (2, 14, 14, 2, 64, 64, (2, 2), 16, 5, False),
    (2, 7, 7, 2, 64, 64, (7, 7), 1, 5, False),
]
ODD = [
    (2, 13, 11, 3, 21, 15, (4, 3), 3, 3, False),
    (2, 13, 11, 3, 21, 15, (4, 3), 3, 3, True),
    (1, 14, 13, 1, 16, 48, (2, 2), 16, 5, False),
    (1, 40, 37, 2, 10, 34, (20, 20), 4, 7, True),
    (1, 40, 37, 2, 10, 34, (20, 20), 3, 0, False),
    (1, 7, 9, 1, 130, 200, (7, 5), 2, 1, False),
    (2, 9, 5, 4, 4, 4, (1, 1), 45, 9, False),
    (1, 1, 3, 1, 64, 64, (1, 2), 1, 5, False),
]


def problem(case: tuple[Any, ...], dtype: torch.dtype = torch.float32) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments of a case."""
    B, H, W, heads, qk_dim, C, region, k, kernel, attend_padding = case
    torch.manual_seed(0)
    regions = -(-H // region[0]) * -(-W // region[1])
    qkv = torch.randn(B, H, W, 2 * qk_dim + C).to(dtype)
    routes = torch.rand(B, regions, regions).topk(k, dim=-1).indices
    lepe = [torch.randn(C, 1, kernel, kernel), torch.randn(C)] if kernel else [None, None]
    options = {"num_heads": heads, "region": region, "scale": (qk_dim / heads) ** -0.5}
    return [qkv, routes, *lepe], options | {"attend_padding": attend_padding, "dim": C}


def outcome(function: Any, arguments: list[Any], options: dict[str, Any], dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients of all that has one, with inputs and parameters cast to ``dtype``."""
    inputs = [
        t.detach().to(dtype).requires_grad_() if t is not None and t.is_floating_point() else t
        for t in arguments
    ]
    out = function(*inputs, **options)
    torch.manual_seed(1)
    out.backward(torch.randn(out.shape).to(arguments[0].dtype).to(dtype))
    return [out.detach(), *(t.grad for t in inputs if t is not None and t.requires_grad)]


def errors(found: list[Tensor], truth: list[Tensor]) -> list[float]:
    """The largest deviation of each from the truth, relative to its root mean square."""
    return [
        ((f.double() - t).abs().max() / t.square().mean().sqrt()).item()
        for f, t in zip(found, truth, strict=True)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", [*SWIN_STAGES, *ODD], ids=str)
def test_output_and_gradients_are_at_most_twice_as_far_from_float64_as_eager(case, dtype):
    arguments, options = problem(case, dtype)
    truth = outcome(eager.map_attention, arguments, options, torch.double)
    twin = errors(outcome(eager.map_attention, arguments, options, dtype), truth)
    fused = errors(outcome(cpu.attention, arguments, options, dtype), truth)
    floor = 2e-6 if dtype == torch.float32 else 8e-3  # rounding of the largest elements, which eager may miss
    assert all(f <= max(2 * e, floor) for f, e in zip(fused, twin, strict=True)), (fused, twin)


def test_parameters_in_float_with_a_map_in_bfloat16_as_under_autocast():
    arguments, options = problem(SWIN_STAGES[2], torch.bfloat16)
    weight, bias = (t.requires_grad_() for t in arguments[2:])
    out = cpu.attention(*arguments, **options)
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert weight.grad.dtype == bias.grad.dtype == torch.float32


def test_lepe_without_bias_and_a_route_taken_twice():
    arguments, options = problem((2, 9, 9, 1, 8, 8, (3, 3), 4, 3, False))
    arguments[1] = torch.randint(9, (2, 9, 4))
    arguments[3] = None
    truth = outcome(eager.map_attention, arguments, options, torch.double)
    assert max(errors(outcome(cpu.attention, arguments, options, torch.float32), truth)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", [SWIN_STAGES[1], ODD[1]], ids=str)
def test_any_number_of_threads_gives_the_same_bits(case, dtype):
    arguments, options = problem(case, dtype)
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(outcome(cpu.attention, arguments, options, dtype))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_maps_that_do_not_lie_in_one_piece():
    arguments, options = problem(ODD[0])
    expected = outcome(cpu.attention, arguments, options, torch.float32)
    spread = arguments[0].permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0).requires_grad_()
    out = cpu.attention(spread, arguments[1].mT.contiguous().mT, *arguments[2:], **options)
    assert torch.equal(out, expected[0])
    torch.manual_seed(1)
    grad = torch.randn(out.shape).permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    (found,) = torch.autograd.grad(out, spread, grad)
    assert torch.equal(found, expected[1])


@pytest.mark.parametrize("case", [SWIN_STAGES[2], ODD[0], ODD[1], ODD[4]], ids=str)
def test_every_element_is_written_and_none_is_read_before(case, monkeypatch):
    """Uninitialised memory full of NaN changes nothing."""
    arguments, options = problem(case)
    expected = outcome(cpu.attention, arguments, options, torch.float32)
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, f=original, **k: f(*a, **k).fill_(float("nan")))
    original_new = Tensor.new_empty
    monkeypatch.setattr(
        Tensor, "new_empty", lambda self, *a, **k: original_new(self, *a, **k).fill_(float("nan"))
    )
    found = outcome(cpu.attention, arguments, options, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_nan_in_the_map_reaches_the_output():
    arguments, options = problem(SWIN_STAGES[1])
    arguments[0][0, 3, 3, :] = float("nan")
    out = cpu.attention(*arguments, **options)
    assert out[0, 3, 3].isnan().all()
    assert not out[1].isnan().any()


def test_large_logits_do_not_overflow():
    arguments, options = problem(SWIN_STAGES[1])
    arguments[0] = arguments[0] * 100
    truth = outcome(eager.map_attention, arguments, options, torch.double)
    twin = errors(outcome(eager.map_attention, arguments, options, torch.float32), truth)
    fused = errors(outcome(cpu.attention, arguments, options, torch.float32), truth)
    assert all(f <= max(2 * e, 1e-5) for f, e in zip(fused, twin, strict=True)), (fused, twin)


@pytest.mark.parametrize("case", [*SWIN_STAGES, *ODD], ids=str)
def test_routes_are_those_of_eager(case):
    (qkv, _, _, _), _ = problem(case)
    region, topk, qk_dim = case[6], case[7], case[4]
    expected = eager.route(qkv.double(), qk_dim, region, topk)
    assert torch.equal(cpu.route(qkv, qk_dim, region, topk), expected)
    assert torch.equal(
        cpu.route(qkv, qk_dim, region, 10**6).sort().values[..., :topk].diff(),
        torch.ones_like(expected[..., 1:]),
    )


def test_routes_of_a_map_in_bfloat16_are_those_of_its_values():
    (qkv, _, _, _), _ = problem(SWIN_STAGES[2], torch.bfloat16)
    found = cpu.route(qkv, 64, (2, 2), 16)
    assert torch.equal(found, cpu.route(qkv.float(), 64, (2, 2), 16))
    with FlopCounterMode(display=False) as counter:
        cpu.route(qkv, 64, (2, 2), 16)
    assert counter.get_total_flops() == 2 * 2 * 49**2 * 64


def test_equal_scores_and_nan_scores_still_give_routes():
    assert cpu.route(torch.zeros(1, 4, 4, 12), 4, (2, 2), 3).tolist() == [[[0, 1, 2]] * 4]
    broken = torch.full((1, 4, 4, 12), float("nan"))
    assert cpu.route(broken, 4, (2, 2), 3).tolist() == [[[0, 1, 2]] * 4]


def test_gradients_by_finite_differences():
    arguments, options = problem((1, 5, 4, 2, 4, 6, (2, 2), 2, 3, False))
    inputs = [arguments[0].requires_grad_(), *(t.requires_grad_() for t in arguments[2:])]

    def function(qkv: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return cpu.attention(qkv, arguments[1], weight, bias, **options)

    with pytest.warns(UserWarning, match="not a double precision"):
        assert torch.autograd.gradcheck(function, inputs, eps=1e-2, atol=2e-2, rtol=2e-2, nondet_tol=0.0)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_opcheck():
    arguments, options = problem(ODD[1])
    arguments = [t.requires_grad_() if t.is_floating_point() else t for t in arguments]
    positional = (options["dim"], options["num_heads"], options["region"], options["scale"], True)
    torch.library.opcheck(cpu._attention, (*arguments, *positional), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_compile_export_and_checkpoint_change_nothing():
    arguments, options = problem(SWIN_STAGES[2])
    expected = outcome(cpu.attention, arguments, options, torch.float32)

    def function(*inputs: Any, **named: Any) -> Tensor:
        return cpu.attention(*inputs, **named) * 1.0

    def saved(*inputs: Any, **named: Any) -> Tensor:
        return checkpoint(function, *inputs, use_reentrant=False, **named)

    for other in (torch.compile(function, fullgraph=True, backend="aot_eager"), saved):
        found = outcome(other, arguments, options, torch.float32)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    class Module(torch.nn.Module):
        def forward(self, qkv: Tensor, routes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return function(qkv, routes, weight, bias, **options)

    exported = torch.export.export(Module(), tuple(arguments))
    assert torch.equal(exported.module()(*arguments), expected[0])


@pytest.mark.parametrize("case", [SWIN_STAGES[1], ODD[1], ODD[4]], ids=str)
def test_flops_are_those_of_eager(case):
    arguments, options = problem(case)
    arguments[0].requires_grad_()
    counts = []
    for function in (eager.map_attention, cpu.attention):
        with FlopCounterMode(display=False) as counter:
            function(*arguments, **options)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, o: a.__setitem__(1, a[1] + 49), "routes must be numbers of regions"),
        (lambda a, o: a.__setitem__(1, a[1] - 49), "routes must be numbers of regions"),
        (lambda a, o: a.__setitem__(1, a[1][:, :-1]), r"routes must be int64 \(B, R, k\) = \(2, 49, k\)"),
        (lambda a, o: a.__setitem__(1, a[1].int()), "routes must be int64"),
        (lambda a, o: a.__setitem__(2, a[2][:-1]), r"lepe_weight must be \(64, 1, K, K\)"),
        (lambda a, o: a.__setitem__(2, a[2][..., 1:, 1:]), "odd, got 4"),
        (lambda a, o: o.update(num_heads=5), "do not divide"),
        (lambda a, o: o.update(dim=63), "do not divide"),
        (lambda a, o: o.update(num_heads=0), "do not divide"),
        (lambda a, o: o.update(region=(0, 4)), "region must be two positive sizes"),
        (lambda a, o: o.update(region=(4,)), "region must be two positive sizes"),
        (lambda a, o: a.__setitem__(0, a[0][:0]), "none of them 0"),
        (lambda a, o: a.__setitem__(0, a[0][0]), r"qkv must be \(B, H, W, channels\)"),
        (lambda a, o: a.__setitem__(1, a[1][..., :0]), "got k = 0"),
        (lambda a, o: a.__setitem__(3, a[3][:-1]), r"lepe_bias must be \(64,\), got \(63,\)"),
        (lambda a, o: a.__setitem__(2, None), "lepe_bias needs a lepe_weight"),
    ],
)
def test_wrong_arguments(change, message):
    arguments, options = problem(SWIN_STAGES[2])
    change(arguments, options)
    with pytest.raises(ValueError, match=message):
        cpu.attention(*arguments, **options)


@pytest.mark.parametrize(("qk_dim", "region", "topk"), [(0, (4, 4), 2), (64, (4, 4), 0), (96, (4, 4), 2)])
def test_routes_of_nothing(qk_dim, region, topk):
    with pytest.raises(ValueError, match="must be positive and leave values"):
        cpu.route(torch.randn(1, 8, 8, 192), qk_dim, region, topk)
    with pytest.raises(ValueError, match="region must be two positive sizes"):
        cpu.route(torch.randn(1, 8, 8, 192), 64, (0, 4), 2)


def test_second_derivatives_name_the_implementation_that_has_them():
    arguments, options = problem(SWIN_STAGES[2])
    arguments[0].requires_grad_()
    out = cpu.attention(*arguments, **options)
    (gradient,) = torch.autograd.grad(out.sum(), arguments[0], create_graph=True)
    with pytest.raises(ImplementationError, match=r"no second derivatives .* use impl='eager'"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("qkv", "message"),
    [
        (torch.zeros(1, 4, 4, 12, dtype=torch.double), "float32 and bfloat16, not float64"),
        (torch.zeros(1, 4, 4, 12, device="meta"), "not of meta"),
        (torch.zeros(1, 1, 1, 9000), "channels"),
        (torch.zeros(1, 4, 4, 12), ""),
    ],
)
def test_what_is_not_supported_has_a_reason(qkv, message):
    reason = cpu.unsupported(qkv, num_heads=2, region=(2, 2), topk=1, lepe_kernel=5)
    assert message in reason
    assert bool(message) == bool(reason)


def test_a_map_in_float64_is_never_read_as_something_else():
    arguments, options = problem(SWIN_STAGES[2], torch.double)
    with pytest.raises(ImplementationError, match="float32 and bfloat16, not float64"):
        cpu.attention(*arguments, **options)
    with pytest.raises(ImplementationError, match="float32 and bfloat16, not float64"):
        cpu.route(arguments[0], 64, (2, 2), 1)


def test_without_a_compiler_the_error_says_so(monkeypatch):
    monkeypatch.setattr(cpu, "_library", lambda: "there is no C++ compiler")
    arguments, options = problem(SWIN_STAGES[2])
    assert cpu.unsupported(arguments[0], num_heads=2, region=(2, 2), topk=1, lepe_kernel=5)
    with pytest.raises(ImplementationError, match=r"'fused' cannot run here: there is no C\+\+ compiler"):
        cpu.attention(*arguments, **options)


PEAK = """
import re, sys, torch
from pathlib import Path
from attnbench.mechanisms.bra import cpu

def resident(line):
    return 1024 * int(re.search(line + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

H, W, topk = map(int, sys.argv[1:])
qkv = torch.randn(1, H, W, 60).requires_grad_()
weight, bias = torch.randn(20, 1, 5, 5), torch.randn(20)
routes = torch.rand(1, 49, 49).topk(topk, dim=-1).indices
options = {"num_heads": 1, "scale": 0.2, "attend_padding": False}
small = cpu.attention(qkv[:, :7, :7], routes[:, :, :1], weight, bias, region=(1, 1), **options)
small.sum().backward()  # loads what is loaded but once
qkv.grad = None
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = resident("VmRSS")
out = cpu.attention(qkv, routes, weight, bias, region=(-(-H // 7), -(-W // 7)), **options)
out.backward(torch.ones_like(out))
print(resident("VmHWM") - before)
"""


def peak_bytes(height: int, width: int, topk: int) -> int:
    """How far the resident set rises in a forward and a backward pass."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of a process can be read and reset on Linux only")
    command = [sys.executable, "-c", PEAK, str(height), str(width), str(topk)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_memory_does_not_grow_with_topk():
    few, many = peak_bytes(140, 140, 1), peak_bytes(140, 140, 20)
    assert many < 1.5 * few  # gathered, the keys and values of 20 regions would be 63 MB
    assert few > 140 * 140 * 80 * 4  # the output and a gradient: something was measured


@pytest.mark.slow
def test_a_map_of_600_by_500_trains_in_less_than_a_gigabyte():
    """BiFormer's issue tracker: the official code needs 100 GB for it."""
    assert 600 * 500 * 80 * 4 < peak_bytes(600, 500, 2) < 1e9
