"""Explicit attention / torch's fused attention in time, by stage: what the choice of ``auto`` rests on.

    python -m attnbench.results.scripts.explicit_or_fused shifted_window full ... [--pairs 9] [--batch 2]

On one thread of a CPU, as ``attnbench versus`` compares with official code: the same weights and images,
turns in random order, medians of the ratios. Above 1 the fused one is faster. Prints a Markdown table.
"""

import argparse

import torch

from attnbench import markdown, registry
from attnbench.harness import environment
from attnbench.harness.versus.pair import Pair, Reference
from attnbench.harness.versus.race import CASES, race
from attnbench.registry import Site


def main() -> None:
    """Print a row for each mechanism, mode and precision."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mechanisms", nargs="+")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--batch", type=int, default=2)
    asked = parser.parse_args()
    environment.pin_allocator()
    torch.set_num_threads(1)
    print(markdown.head(("explicit / fused", "stage 1", "2", "3", "4"), left=(0,)))
    for name in asked.mechanisms:
        for mode, precision in CASES:
            found = race(both(name), mode, precision, batch=asked.batch, pairs=asked.pairs)
            stages = (f"{stage:.2f}" for stage in found.medians().values())
            print(markdown.row((f"{name}, {mode} {precision}", *stages)), flush=True)


def both(name: str) -> Reference:
    """The explicit implementation in the place of official code."""

    def build(site: Site) -> Pair:
        explicit, fused = (registry.get(name).build(site, impl=impl) for impl in ("eager", "sdpa"))
        fused.load_state_dict(explicit.state_dict())
        return Pair(explicit, fused, explicit)

    return Reference(name, build)


if __name__ == "__main__":
    main()
