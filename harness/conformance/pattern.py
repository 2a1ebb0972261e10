"""Checks: tokens depend on what the mechanism says they depend on, and on nothing else."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attnbench import registry
from attnbench.harness.conformance import dependence
from attnbench.harness.conformance.subject import (
    EQUAL,
    ODD,
    Failure,
    Size,
    Skip,
    Subject,
    check,
    difference,
    gradients,
    run,
    show,
)
from attnbench.registry import PATTERNS, Site

IMAGES = 3
MAPS = ((14, 14), ODD, (5, 9), (9, 16), (2, 3), (1, 8), (8, 1))
DESCRIPTIONS = {
    "static": "the attended positions are the same for all images",
    "image": "they move with the image, together for all queries (dynamic, query-agnostic)",
    "query": "they move with the image and differ between queries (dynamic, query-aware)",
}


@check("no_state_between_calls", "batch_independence", "depends_on_input")
def pattern(subject: Subject) -> str:
    """Whether attended positions move with the image, and by query, is as declared: static, image or query.

    See :mod:`attnbench.harness.conformance.dependence` for how it is measured.
    """
    declared = subject.spec.facts.pattern
    seen: dict[str, str] = {}
    for site, _, size in subject.cases():
        kind, evidence = _measure(subject, site, size)
        seen.setdefault(kind, f"{evidence}; first seen in stage {site.stage} block {site.block}")
    measured = max(seen, key=PATTERNS.index)
    evidence = (
        seen[measured].partition(";")[0] + " at every place" if measured == "static" else seen[measured]
    )
    text = f"measured {measured}: {DESCRIPTIONS[measured]} ({evidence})"
    if measured != declared:
        raise Failure(f"declared {declared or 'nothing'}, {text}")
    return text


def _measure(subject: Subject, site: Site, size: Size) -> tuple[str, str]:
    """One of PATTERNS at one site, and the evidence."""
    seeds = range(1, IMAGES + 1)
    supports = torch.stack([_support(subject, site, size, s, fixed_addresses=True) for s in seeds])
    moves, by_query = dependence.moving(supports)
    if moves:
        share = float((supports.any(0) & ~supports.all(0)).double().mean())
        evidence = f"{share:.1%} of the Jacobian's entries are zero for some of {IMAGES} images only"
        return "query" if by_query else "image", evidence
    module = subject.build(site, subject.impls[0])
    jumped = dependence.jumps(module, subject.image(site, size, seed=1), subject.image(site, size, seed=2))
    if len(jumped):
        fewest = int(jumped.sum(1).min())
        evidence = f"the output jumps between two images, at {fewest} of {jumped.shape[1]} tokens alone"
        return "image" if jumped.all() else "query", evidence
    return "static", f"one support for {IMAGES} images, no jump between two"


@check("pattern", "single_row_or_column")
def support(subject: Subject) -> str:
    """The non-zero pattern of the Jacobian equals support(height, width), or lies within it if dynamic."""
    subject.method("support")
    static = subject.spec.facts.pattern == "static"
    share: list[float] = []
    for site, _, size in subject.cases(*MAPS):
        module: Any = subject.build(site, "eager")
        declared = module.support(*size)
        if declared.shape != (size[0] * size[1],) * 2 or declared.dtype != torch.bool:
            raise Failure(f"support{size} must be (N, N) bool, got {tuple(declared.shape)} {declared.dtype}")
        share.append(float(declared.double().mean()))
        if not static and bool(declared.all()):
            continue  # nothing lies outside
        found = _support(subject, site, size, fixed_addresses=static).any(-1)
        undeclared, unused = found & ~declared, declared & ~found
        if undeclared.any():
            raise Failure(f"{_pairs(undeclared, size)}, which support() denies")
        if static and unused.any():
            raise Failure(f"support() claims {_pairs(unused, size, 'does not depend')}")
    kind = "equal to the Jacobian's" if static else "covers the Jacobian's"
    return f"{kind} on maps {', '.join(map(show, MAPS))}; {min(share):.0%} to {max(share):.0%} of all pairs"


@check("no_state_between_calls")
def padding_not_attended(subject: Subject) -> str:
    """Padding takes no part in attention.

    On an image of equal tokens all values are equal, so weights that add up to one give that value whatever
    the logits are, and what only moves logits has no gradient. Where padding is attended to, it has one.
    Parameters are looked for that matter on an ordinary image and cancel on an image of equal tokens on
    maps without padding; on maps with padding they must cancel too. Not for sites that reduce the map
    before they attend (phase ``sampling``): there a key may reach over the edge by definition.
    """
    seen = 0
    for site in subject.sites:
        module: Any = subject.build(site, "eager")
        if hasattr(module, "macs") and module.macs(site.height, site.width).get("sampling"):
            continue
        cancels: dict[str, Tensor] = {}
        for size in ((14, 14), (16, 16), (12, 12), (7, 7)):  # which of them need padding differs
            for name, entries in _on_equal_tokens(subject, site, size, matters=False).items():
                cancels[name] = entries | cancels.get(name, entries)
        seen += sum(int(c.sum()) for c in cancels.values())
        for size in (ODD, (9, 15), (5, 9), (5, 4)):
            here = _on_equal_tokens(subject, site, size, matters=True)
            wrong = [name for name in here if name in cancels and (cancels[name] & here[name]).any()]
            if wrong:
                raise Failure(f"{', '.join(wrong)} matters on an image of equal tokens: padding has weight")
    if not seen:
        raise Skip("no site has a parameter that only moves logits")
    return f"{seen} entries of parameters cancel on equal tokens, with padding as without"


@check("no_state_between_calls")
def full_attention_limit(subject: Subject) -> str:
    """Where the mechanism says that it is full attention (window >= map, all regions), it is.

    The class may declare ``full_attention_limit(height, width)``: the options under which it is.
    """
    declare = getattr(subject.spec.load(), "full_attention_limit", None)
    if declare is None:
        raise Skip("the class declares no full_attention_limit(height, width)")
    for site, _, size in subject.cases((7, 7), ODD, (3, 8)):
        site = replace(site, height=size[0], width=size[1])
        options = {**subject.options, **declare(*size)}
        limited = Subject(subject.spec, options)
        module, x = limited.build(site, "eager"), limited.image(site, size, batch=2)
        full = registry.get("full").build(site, impl="eager").double()
        full.load_state_dict(_as_full(module))
        error = difference(run(module, x), run(full, x))
        if error > EQUAL:
            raise Failure(f"with {declare(*size)} it differs from full attention by {error:.1e}")
    return f"with {declare(*ODD)} equal to full attention on {show(ODD)}, and on other maps"


def _support(subject: Subject, site: Site, size: Size, seed: int = 1, *, fixed_addresses: bool) -> Tensor:
    key = ("support", site, size, seed, fixed_addresses)
    module, x = subject.build(site, subject.impls[0]), subject.image(site, size, seed=seed)
    if key not in subject.memory:
        subject.memory[key] = dependence.support(module, x, fixed_addresses=fixed_addresses)
    return subject.memory[key]


def _pairs(wrong: Tensor, size: Size, verb: str = "depends") -> str:
    """How many pairs, and the first one by row and column."""
    i, j = (divmod(int(k), size[1]) for k in wrong.nonzero()[0])
    return f"{int(wrong.sum())} pairs of tokens: the first, output {i}, {verb} on input {j}"


def _on_equal_tokens(subject: Subject, site: Site, size: Size, *, matters: bool) -> dict[str, Tensor]:
    """Entries of each parameter that have a gradient on an ordinary image and, if ``matters``, on a flat one.

    Otherwise those that have none there. A flat image has equal tokens.
    """
    usual = subject.image(site, size)
    flat = usual[:, :1, :1].expand_as(usual).contiguous()
    found = [gradients(subject.build(site, "eager"), x) for x in (usual, flat)]
    subject.image(site, size)
    entries: dict[str, Tensor] = {}
    for name in found[0]:
        important = [_has_gradient(one, name) for one in found]
        if name not in ("output", "input") and important[0] is not None and important[1] is not None:
            entries[name] = important[0] & (important[1] == matters)
    return entries


def _has_gradient(found: dict[str, Tensor | None], name: str) -> Tensor | None:
    largest = max(float(g.abs().max()) for n, g in found.items() if g is not None and n != "output")
    gradient = found[name]
    return None if gradient is None else gradient.abs() > 1e-9 * largest


def _as_full(module: nn.Module) -> dict[str, Tensor]:
    """The weights under the names that full attention has; q, k and v are joined where they are separate."""
    state = module.state_dict()
    inside = next((n.removesuffix("proj.weight") for n in state if f".{n}".endswith(".proj.weight")), "")
    own = {name.removeprefix(inside): value for name, value in state.items()}
    parts: tuple[str, ...] = ()
    for parts in (("qkv",), ("q", "kv"), ("q", "k", "v"), ("q_proj", "k_proj", "v_proj")):
        if all(f"{part}.weight" in own for part in parts):
            break
    else:
        raise Failure("to be compared with full attention, projections must be named qkv (or q, kv) and proj")
    weight = torch.cat([own[f"{part}.weight"] for part in parts])
    bias = [own.get(f"{part}.bias", weight.new_zeros(len(own[f"{part}.weight"]))) for part in parts]
    return {
        "qkv.weight": weight,
        "qkv.bias": torch.cat(bias),
        "proj.weight": own["proj.weight"],
        "proj.bias": own["proj.bias"],
    }
