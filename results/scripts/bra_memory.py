"""Peak memory of BRA on a large map, forward and backward.

Run ``python -m attnbench.results.scripts.bra_memory``.

The case of BiFormer's issue tracker: a map of 600 × 500 tokens with 20 channels in 7 × 7 regions, for which
its code, which copies keys and values k-fold and forms all logits, needs 100 GB. The goal is under 1 GB with
``fused``, whatever k is; ``eager`` with ``chunk=1`` holds one region's copies and logits at a time.

Prints a line per case; ``--out`` writes the same as CSV. A case that runs out of memory says so.
"""

import argparse
import csv
import gc
from pathlib import Path
from typing import Any

import torch

from attnbench.errors import ImplementationError
from attnbench.harness import memory
from attnbench.registry import Site, get

CHANNELS, HEADS = 20, 2
CASES: tuple[tuple[str, int | None], ...] = (("fused", None), ("eager", 1), ("eager", None))
"""Implementation and regions at a time."""


def peak_bytes(
    device: torch.device, size: tuple[int, int], topk: int, impl: str, chunk: int | None
) -> int | str:
    """Peak of a forward and a backward pass in float32, or why there is none."""
    options: dict[str, Any] = {} if chunk is None else {"chunk": chunk}
    torch.manual_seed(0)
    module = get("bra").build(Site(CHANNELS, HEADS, *size), impl=impl, topk=topk, **options).to(device)
    x = torch.randn(1, *size, CHANNELS, device=device, requires_grad=True)

    def step() -> torch.Tensor:
        module.zero_grad(set_to_none=True)
        x.grad = None
        loss = module(x).square().mean()
        loss.backward()
        return loss.detach()

    try:
        return memory.measure(step, module, device, x.nbytes).peak
    except ImplementationError as error:
        return str(error)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    finally:
        gc.collect()


def main() -> None:
    """Measure every case for a small and a large k."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", nargs=2, type=int, default=(600, 500), metavar=("H", "W"))
    parser.add_argument("--topk", nargs="+", type=int, default=(4, 16, 49))
    parser.add_argument("--out", type=Path, help="a CSV file for the same figures")
    arguments = parser.parse_args()
    device, size = torch.device(arguments.device), (arguments.size[0], arguments.size[1])
    rows = []
    for impl, chunk in CASES:
        for topk in arguments.topk:
            found = peak_bytes(device, size, topk, impl, chunk)
            number = found if isinstance(found, int) else None
            reason = "" if isinstance(found, int) else found
            rows.append([impl, chunk or "all", topk, number, reason])
            shown = reason if number is None else f"{number / 2**20:.1f} MiB"
            print(f"{impl:<6} regions at a time {chunk or 'all':<4} k {topk:<3} {shown}", flush=True)
    if arguments.out:
        with arguments.out.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["implementation", "chunk", "topk", "peak_bytes", "reason"])
            table.writerows(rows)


if __name__ == "__main__":
    main()
