"""How much the place of the heap changes the speed of a model: processes of several layouts, several of each.

    python -m attnbench.results.scripts.heap_layout timm_swin [--layouts 10] [--processes 8] [--blocks 14]

Each process is timed beside one whose heap begins where it does without doing anything, made anew with it,
in turn, as the harness does it (``swin_pico``, inference, float32, batch 8, one thread). What the means of
the layouts differ by beyond what processes of one layout do is the layout's: analysis of variance, one way.
"""

import argparse
import math
import os
import random
from statistics import fmean, median, stdev, variance

import torch
from scipy.stats import f

from attnbench.harness import addresses, environment
from attnbench.harness.timing.session import Session
from attnbench.harness.timing.warmup import Cap
from attnbench.harness.workers.isolation import Worker
from attnbench.record import Cell

CPU = torch.device("cpu")


def session(cell: Cell, shift: int) -> Session:
    """A session whose heap begins so many bytes further on."""
    addresses.shift_heap(shift)
    return Session(cell, CPU)


def main() -> None:
    """Print the standard deviations within and between layouts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--layouts", type=int, default=10)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=14)
    asked = parser.parse_args()
    if min(asked.layouts, asked.processes, asked.blocks) < 2:
        parser.error("--layouts, --processes and --blocks must be 2 at least")
    torch.set_num_threads(1)
    environment.pin_allocator()
    cell = Cell(
        mechanism=asked.model,
        layout="swin_pico",
        metric="throughput",
        mode="infer",
        precision="fp32",
        resolution=28,
        batch_size=8,
    )
    draw = random.Random(0)
    shifts = [0, *(64 * draw.randrange(1, 2**15) for _ in range(asked.layouts - 1))]
    order = [shift for shift in shifts for _ in range(asked.processes)]
    draw.shuffle(order)
    found: dict[int, list[float]] = {shift: [] for shift in shifts}
    for shift in order:
        found[shift].append(_log_ratio(cell, shift, asked.blocks, draw))
    within = fmean(variance(ratios) for ratios in found.values())
    means = [fmean(ratios) for ratios in found.values()]
    between = max(0.0, variance(means) - within / asked.processes)
    statistic = variance(means) * asked.processes / within
    p = f.sf(statistic, len(shifts) - 1, len(shifts) * (asked.processes - 1))
    print(f"{asked.model}: standard deviation of the ratio, processes of one layout {within**0.5:.2%},")
    print(f"layouts {between**0.5:.2%} (F {statistic:.2f}, p {p:.3f}); means {stdev(means):.2%} apart,")
    print("in the order of the shift:", " ".join(f"{mean:+.2%}" for mean in means))


def _log_ratio(cell: Cell, shift: int, blocks: int, draw: random.Random) -> float:
    """Of one process: logarithm of the unshifted one's time over its own, median of the blocks."""
    pair = [("shifted", shift), ("plain", 0)]
    draw.shuffle(pair)
    cpus, workers = sorted(os.sched_getaffinity(0)), dict[str, Worker]()
    try:
        for name, size in pair:
            workers[name] = Worker(session, cell, size)
        repeats = max(worker.call("prepare", cell, Cap(0.3)).repeats for worker in workers.values())
        for worker in workers.values():
            worker.pause()
        ratios = []
        for block in range(blocks):
            taken: dict[str, float] = {}
            for name in draw.sample(list(workers), 2):
                workers[name].move_to(cpus[block % len(cpus)])
                taken[name] = workers[name].call("sample", repeats).device_s
                workers[name].pause()
            ratios.append(math.log(taken["plain"] / taken["shifted"]))
        return median(ratios)
    finally:
        for worker in workers.values():
            worker.close()


if __name__ == "__main__":
    main()
