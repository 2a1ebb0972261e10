"""Explicit attention written out by hand is the formula: values, gradients, second derivatives."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from attnbench.mechanisms import _explicit
from attnbench.mechanisms._attend import attend, attend_stacked
from attnbench.mechanisms._explicit import explicit

# leading axes, L, S, channels of q and k, of v, shape of the bias
CASES = {
    "bias of each head": ((2, 3), 4, 4, 5, 5, (3, 4, 4)),
    "windows, other keys than queries": ((2, 3, 2), 4, 6, 5, 3, (3, 1, 4, 6)),
    "no bias, one channel": ((2, 2), 3, 5, 1, 1, None),
    "one query": ((3,), 1, 4, 2, 2, (1, 1, 4)),
    "bias of each key": ((1, 2), 3, 3, 2, 2, (3,)),
    "more keys than a vector has numbers": ((2,), 2, 17, 2, 2, (1, 2, 17)),
}


@pytest.fixture(autouse=True)
def _no_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small cases go the way of large ones."""
    monkeypatch.setattr(_explicit, "_FEW_WEIGHTS", 0)


def _case(name: str) -> tuple[Tensor, ...]:
    lead, L, S, d, e, bias = CASES[name]
    draw = torch.Generator().manual_seed(0)
    shapes = [bias, (*lead, L, d), (*lead, S, d), (*lead, S, e)]
    return tuple(
        torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_() for shape in shapes if shape
    )


def _run(*given: Tensor) -> Tensor:
    return explicit(0.3, given[0] if len(given) == 4 else None, *given[-3:])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("keys_first", [True, False])
def test_values_and_both_derivatives_are_those_of_the_formula(
    name: str, keys_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_explicit, "_keys_first", lambda q, k: keys_first)
    given = _case(name)
    found = _run(*given)
    assert "ByHand" in str(found.grad_fn)
    plain = _explicit._formula(0.3, given[0] if len(given) == 4 else None, *given[-3:])
    torch.testing.assert_close(found, plain)
    with torch.no_grad():
        torch.testing.assert_close(_run(*given), plain)
    assert torch.autograd.gradcheck(_run, given)
    assert torch.autograd.gradgradcheck(_run, given)


def test_stacked_is_the_same_as_three() -> None:
    q, k, v = _case("no bias, one channel")[-3:]
    k, v = k[..., :3, :], v[..., :3, :]
    stacked = torch.stack((q, k, v)).detach().requires_grad_()
    found, three = attend_stacked(stacked, scale=0.3), attend(q, k, v, scale=0.3)
    torch.testing.assert_close(found, three)
    (of_stack,) = torch.autograd.grad(found.square().sum(), stacked)
    of_three = torch.autograd.grad(three.square().sum(), (q, k, v))
    of_three = (of_three[0], of_three[1][..., :3, :], of_three[2][..., :3, :])
    torch.testing.assert_close(of_stack, torch.stack(of_three))
    assert torch.autograd.gradgradcheck(lambda qkv: attend_stacked(qkv, scale=0.3), (stacked,))


@pytest.mark.parametrize("keys_first", [True, False])
@pytest.mark.parametrize("stacked", [True, False])
def test_heads_between_the_channels_are_taken_image_by_image(
    stacked: bool, keys_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_explicit, "_keys_first", lambda q, k: keys_first)
    monkeypatch.setattr(_explicit, "_WEIGHTS_OF_AN_IMAGE", 0)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 5, 3, 4, 2, generator=draw, dtype=torch.float64)  # (B, N, 3, heads, d)
    given: tuple[Tensor, ...] = tokens.permute(2, 0, 3, 1, 4).unbind(0)
    assert _explicit._by_image(None, *given)
    if stacked:
        given = (tokens.permute(2, 0, 3, 1, 4),)
    given = tuple(t.detach().requires_grad_() for t in given)
    found, plain = explicit(0.3, None, *given), _explicit._formula(0.3, None, *given)
    torch.testing.assert_close(found, plain)
    assert found.transpose(1, 2).is_contiguous()
    cotangent = torch.randn(found.shape, generator=draw, dtype=torch.float64)
    for theirs in (cotangent, cotangent.transpose(2, 3).contiguous().transpose(2, 3)):
        of_found, of_plain = (
            torch.autograd.grad(y, given, theirs, retain_graph=True) for y in (found, plain)
        )
        torch.testing.assert_close(of_found, of_plain)
    assert torch.autograd.gradgradcheck(lambda *qkv: explicit(0.3, None, *qkv), given)
    found.transpose(1, 2).mul_(2)  # no view, of which autograd would say that it must not be changed


def test_queries_keys_and_bias_may_be_made_of_one_another() -> None:
    """Of a gradient that has gradients itself: what is behind two of them counts once."""
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    for made in (lambda: (None, x, x, x), lambda: (x @ x.mT, x, 2 * x, x.sin())):
        found = explicit(0.3, *made()), _explicit._formula(0.3, *made())
        first = [torch.autograd.grad(y.square().sum(), x, create_graph=True)[0] for y in found]
        torch.testing.assert_close(*first)
        torch.testing.assert_close(*(torch.autograd.grad(g.square().sum(), x)[0] for g in first))


@pytest.mark.parametrize(
    ("dtype", "queries", "keys", "first"),
    [
        (torch.float32, 1, 15, True),
        (torch.float32, 64, 49, True),
        (torch.float32, 63, 49, False),
        (torch.float32, 64, 48, False),
        (torch.float32, 3136, 65, False),
        (torch.bfloat16, 1, 31, True),
        (torch.bfloat16, 49, 49, False),
        (torch.bfloat16, 128, 49, True),
    ],
)
def test_few_keys_lie_first(
    dtype: torch.dtype, queries: int, keys: int, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    q, k = torch.empty(queries, 4, dtype=dtype), torch.empty(keys, 4, dtype=dtype)
    assert _explicit._keys_first(q, k) is first
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert not _explicit._keys_first(q, k)


@pytest.mark.parametrize("amp", [False, True])
def test_few_weights_have_the_gradients_of_autograd(amp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (torch.randn(2, 3, 8, 4, requires_grad=True) for _ in range(3))
    monkeypatch.setattr(_explicit, "_keys_first", lambda q, k: False)
    results = []
    for few in (2 * 3 * 8 * 8, 2 * 3 * 8 * 8 + 1):
        monkeypatch.setattr(_explicit, "_FEW_WEIGHTS", few)
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            results.append(explicit(0.5, None, q, k, v))
    assert ["ByHand" in str(out.grad_fn) for out in results] == [True, False]
    assert all(out.dtype == (torch.bfloat16 if amp else torch.float32) for out in results)
    gradients = [torch.autograd.grad(out.float().square().sum(), (q, k, v)) for out in results]
    tolerance = 0.05 if amp else 1e-5
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)


def test_a_key_that_is_masked_gets_nothing() -> None:
    bias, q, k, v = _case("bias of each head")
    masked = bias.detach().clone()
    masked[..., 2] = -torch.inf
    out = explicit(0.3, masked, q, k, v)
    _, of_k, of_v = torch.autograd.grad(out.sum(), (q, k, v))
    assert torch.isfinite(of_k).all()
    assert not of_k[..., 2, :].any()
    assert not of_v[..., 2, :].any()


def test_under_autocast_it_is_the_formula_to_the_precision_of_bfloat16() -> None:
    given = tuple(t.detach().float().requires_grad_() for t in _case("bias of each head"))
    with torch.autocast("cpu", torch.bfloat16):
        found, plain = _run(*given), _explicit._formula(0.3, *given)
    assert found.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(found, plain, atol=0.03, rtol=0.03)
    of_found, of_plain = (torch.autograd.grad(y.float().sum(), given) for y in (found, plain))
    for a, b in zip(of_found, of_plain, strict=True):
        assert a.dtype == b.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=0.05, rtol=0.05)


def test_keys_that_are_shared_are_broadcast() -> None:
    _, q, k, v = _case("bias of each head")
    found = explicit(0.3, None, q, k[:1], v[:1])
    torch.testing.assert_close(found, explicit(0.3, None, q, k[:1].expand_as(q), v[:1].expand_as(q)))


def test_transforms_of_torch_take_the_formula() -> None:
    bias, q, k, v = (t.detach() for t in _case("bias of each head"))

    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return explicit(0.3, bias, q, k, v).square().sum()

    each = torch.func.vmap(torch.func.grad(loss))(q, k, v)
    q.requires_grad_()
    (together,) = torch.autograd.grad(loss(q, k, v), q)
    torch.testing.assert_close(each, together)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(q.detach(), q.detach())
        tangent = forward_ad.unpack_dual(loss(dual, k, v)).tangent
    torch.testing.assert_close(tangent, (together * q).sum().detach())
