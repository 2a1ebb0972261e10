"""Small pictures in text of which tokens one query attends to."""

from dataclasses import replace
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor, nn

from attnbench.layouts.swin import SWIN_T
from attnbench.registry import MechanismSpec, Site

SIDE = 14
"""Tokens a side of the map that is drawn; that of the Swin-T layout's third stage."""
STAGES = (0, 2)
QUERY = (4, 8)
"""Row and column of the query; an even row, since a line of text shows two."""
_INK = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}


def pictures(spec: MechanismSpec) -> list[tuple[str, list[str]]]:
    """What one query sees with the Swin-T layout's settings of the first and third stage.

    Static patterns are drawn from ``support``. Of a dynamic one, the tokens that the query's output depends
    on in one image; if those are all, the ones with more influence than average. Image and weights are
    random, and the same in every run.

    Returns:
        Caption and lines of each different picture. None for a mechanism that declares no pattern.
    """
    sites = [replace(s, height=SIDE, width=SIDE) for s in SWIN_T.sites(224, 224) if s.block < 2]
    sites = [site for site in sites if site.stage in STAGES]
    if not all(hasattr(spec.build(site, impl="eager"), "support") for site in sites):
        return []
    alike: dict[str, list[Site]] = {}
    for site in sites:
        # Two images differ under the same rule, so it is the rule that tells dynamic ones apart.
        rule = "" if spec.facts.pattern == "static" else spec.options(site)
        alike.setdefault(f"{rule} {_support(spec, site).tolist()}", []).append(site)
    return [(_caption(group), draw(_seen(spec, group[-1]))) for group in alike.values()]


def _caption(alike: list[Site]) -> str:
    stages = " and ".join(str(stage + 1) for stage in sorted({site.stage for site in alike}))
    blocks = {site.block for site in alike}
    every_stage = len({site.stage for site in alike}) == len(STAGES)
    where = "" if every_stage else f"stage {stages}"
    if len(blocks) == 2:
        return where or "every block"
    which = "even blocks" if 0 in blocks else "odd blocks"
    return f"{where}, {which}" if where else which


def draw(seen: Tensor) -> list[str]:
    """(H, W) bool as text, two rows to a line, in a frame; marks at its edge show where the query is."""
    height, width = seen.shape
    ink = seen.tolist() + [[False] * width] * (height % 2)
    lines = [f"  {' ' * QUERY[1]}▾", f" ┌{'─' * width}┐"]
    for row in range(0, height, 2):
        cells = "".join(_INK[pair] for pair in zip(ink[row], ink[row + 1], strict=True))
        lines.append(f"{'▸' if row == QUERY[0] else ' '}│{cells}│")
    return [*lines, f" └{'─' * width}┘"]


def side_by_side(drawn: list[tuple[str, list[str]]]) -> list[str]:
    """Pictures side by side, each under its caption."""
    if not drawn:
        return []
    columns = [[f" {caption}", *lines] for caption, lines in drawn]
    widths = [max(map(len, column)) for column in columns]
    rows = zip_longest(*columns, fillvalue="")
    return ["   ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _seen(spec: MechanismSpec, site: Site) -> Tensor:
    """(H, W) bool: tokens that the query depends on."""
    row, column = QUERY
    support = _support(spec, site)
    seen = support[row * site.width + column].view(site.height, site.width)
    # In a mechanism that is dynamic elsewhere, a block whose declared pattern has gaps is drawn from it.
    if spec.facts.pattern == "static" or not support.all():
        return seen
    return _influence(spec, site)


def _support(spec: MechanismSpec, site: Site) -> Tensor:
    return spec.build(site, impl="eager").support(site.height, site.width)  # type: ignore[operator]


def _influence(spec: MechanismSpec, site: Site) -> Tensor:
    """(H, W) bool: tokens with a gradient; if all have one, those above average."""
    # NumPy's old generator gives the same numbers in all releases; torch promises that of none.
    random = np.random.RandomState(0)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(random.standard_normal(shape))

    module: nn.Module = spec.build(site, impl="eager").double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.copy_(normal(*parameter.shape) * fan_in**-0.5)
    x = normal(1, site.height, site.width, site.dim).requires_grad_()
    y = module(x)[0, QUERY[0], QUERY[1]]
    (gradient,) = torch.autograd.grad(y @ normal(site.dim), x)
    influence = gradient[0].abs().sum(-1)
    return influence > (influence.mean() if influence.all() else 0)
