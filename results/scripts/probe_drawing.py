"""What making a probe's pictures costs beside training on them, for one mechanism or more.

    python -m attnbench.results.scripts.probe_drawing retrieval_dense bra shifted_window

CPU time of one thread: training steps as ``attnbench probe`` takes them, pictures included, and the same
pictures drawn alone, in turns. Printed is the drawing's share of a step, median over the rounds.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator

import torch

from attnbench import datasets
from attnbench.harness.probes import campaign, fitting, measure
from attnbench.harness.probes.probe import Draw
from attnbench.record import Cell

STEPS = 48
"""Steps of a round."""


def main() -> None:
    """Print a line for each mechanism."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("probe", choices=datasets.names("probe"))
    parser.add_argument("mechanism", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{given.probe}: drawing, ms a step; its share of a step")
    for mechanism in given.mechanism:
        drawing, share = _share(given.probe, mechanism, given.rounds)
        print(f"{mechanism:20} {drawing:6.2f} ms  {100 * share:5.1f} %", flush=True)


def _share(probe: str, mechanism: str, rounds: int) -> tuple[float, float]:
    """CPU time of drawing in ms a step, and its share of a step."""
    budget = campaign.budget_of(probe, steps=STEPS * (rounds + 1))
    cell = Cell(mechanism=mechanism, metric="probe", **campaign.conditions(probe))
    task = measure.probe_of(cell)
    model, _ = measure.build(cell, task)
    steps = fitting.steps(model, task, budget, 1e-3, torch.Generator().manual_seed(0))
    draws = fitting.batches(task, budget, torch.Generator().manual_seed(0))
    times = [(_time(draws), _time(steps)) for _ in range(rounds + 1)][1:]
    drawing = statistics.median(drawn for drawn, _ in times)
    return 1000 * drawing / STEPS, statistics.median(drawn / whole for drawn, whole in times)


def _time(steps: Iterator[torch.Tensor] | Iterator[Draw]) -> float:
    """CPU time of a round, in seconds."""
    began = time.process_time()
    for _ in itertools.islice(steps, STEPS):
        pass
    return time.process_time() - began


if __name__ == "__main__":
    main()
