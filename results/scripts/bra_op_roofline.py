"""BRA's attention alone against the roofline of this GPU.

Run ``python -m attnbench.results.scripts.bra_op_roofline``.

For each stage of the Swin-T layout: time of routing and of the fused operator, forward and backward, with
and without LePE, by replays of a CUDA graph between events (so launches from Python do not count), and what
share of it the roofline would take: the larger of compulsory bytes over the bandwidth of a copy and FLOPs
over the rate of a matrix product, both measured just before. Goals for stages 1 to 3: 60 % forward, 45 %
backward.

Writes a table to the terminal and, with ``--out``, the same as CSV. Without a GPU the whole is rehearsed by
``TRITON_INTERPRET=1 python -m attnbench.results.scripts.bra_op_roofline --rehearse``: Triton's interpreter
on one small map, whose times mean nothing.
"""

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from attnbench.mechanisms.bra import triton_operator as fused
from attnbench.mechanisms.bra.triton_launch import Problem
from attnbench.results.scripts.bra_kernels import DTYPES, problems

GOALS = {"forward": 0.60, "backward": 0.45}
Clock = Callable[[Callable[[], object]], float]


def compulsory_bytes(problem: Problem, what: str) -> int:
    """Bytes that any implementation moves: q, k, v read, the output written; or those, dO, gradients.

    For routing, q and k read. Log-sum-exp, routes and LePE's weights are under 3 % of it and left out.
    """
    tokens = problem.batch * problem.height * problem.width
    qkv = problem.heads * (2 * problem.qk + problem.v)
    out = problem.heads * problem.v
    values = {"route": qkv - out, "forward": qkv + out, "backward": 2 * qkv + out}
    return tokens * problem.element_bytes * values[what]


def flops(problem: Problem, what: str) -> int:
    """FLOPs of the definition, two a multiply-add; backward twice forward."""
    if what == "route":
        return 2 * problem.batch * problem.regions**2 * problem.heads * problem.qk
    pairs = problem.batch * problem.regions * problem.topk * problem.tokens**2
    local = problem.batch * problem.height * problem.width * problem.heads * problem.v * problem.lepe**2
    forward = 2 * (pairs * problem.heads * (problem.qk + problem.v) + local)
    return forward if what == "forward" else 2 * forward


def calls(problem: Problem, dtype: torch.dtype, device: str) -> dict[str, Callable[[], object]]:
    """The operator forward and backward on random tensors."""
    torch.manual_seed(0)
    B, H, W, C = problem.batch, problem.height, problem.width, problem.heads * problem.v
    channels = problem.heads * (2 * problem.qk + problem.v)
    qkv = torch.randn(B, H, W, channels, device=device, dtype=dtype)
    order = torch.rand(B, problem.regions, problem.regions, device=device).argsort(-1)
    routes = order[..., : problem.topk].contiguous()
    taps = bias = None
    if problem.lepe:
        taps = torch.randn(C, 1, problem.lepe, problem.lepe, device=device)
        bias = torch.randn(C, device=device)
    options = (problem.heads, C, *problem.region, problem.scale, problem.attend_padding)
    grad = torch.randn(B, H, W, C, device=device, dtype=dtype)
    _, lse, bits = fused.bra_forward(qkv, routes, taps, bias, *options)

    def backward() -> list[Tensor]:
        found = [fused.bra_backward(grad, qkv, routes, taps, lse, bits, *options)]
        return [*found, fused.bra_backward_lepe(grad, qkv, problem.lepe)] if problem.lepe else found

    return {
        "route": lambda: fused.bra_route(qkv, problem.heads * problem.qk, *problem.region, problem.topk),
        "forward": lambda: fused.bra_forward(qkv, routes, taps, bias, *options),
        "backward": backward,
    }


def graph_seconds(call: Callable[[], object], replays: int = 20, rounds: int = 15) -> float:
    """Median seconds of a call on a CUDA device, replayed from a graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    seconds = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(replays):
            graph.replay()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3 / replays)
    return statistics.median(seconds[3:])


def host_seconds(call: Callable[[], object]) -> float:
    """Seconds of one call; for the rehearsal."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ceilings(dtype: torch.dtype, device: str, clock: Clock, size: int) -> tuple[float, float]:
    """Bytes a second of a copy (read and written), FLOP a second of a square product of ``size``."""
    source = torch.randn(32 * size * size, device=device, dtype=dtype)
    target = torch.empty_like(source)
    rate = 2 * source.numel() * source.element_size() / clock(lambda: target.copy_(source))
    a, b = source[: size * size].view(size, size), source[-size * size :].view(size, size)
    out = torch.empty_like(a)
    return rate, 2 * size**3 / clock(lambda: torch.mm(a, b, out=out))


def measure(
    name: str, stages: list[Problem], device: str, clock: Clock, size: int
) -> list[dict[str, object]]:
    """A row for each stage, direction, and LePE or not."""
    dtype = DTYPES[name]
    bandwidth, rate = ceilings(dtype, device, clock, size)
    rows: list[dict[str, object]] = []
    for stage, with_lepe in enumerate(stages, start=1):
        for problem in (with_lepe, replace(with_lepe, lepe=0)):
            for what, call in calls(problem, dtype, device).items():
                floor = max(compulsory_bytes(problem, what) / bandwidth, flops(problem, what) / rate)
                seconds = clock(call)
                rows.append(
                    {
                        "dtype": name,
                        "stage": stage,
                        "lepe": problem.lepe,
                        "pass": what,
                        "microseconds": round(seconds * 1e6, 1),
                        "roofline_microseconds": round(floor * 1e6, 1),
                        "share": round(floor / seconds, 3),
                        "goal": GOALS.get(what, "") if stage < 4 else "",
                        "copy_tb_per_s": round(bandwidth / 1e12, 3),
                        "product_tflop_per_s": round(rate / 1e12, 1),
                    }
                )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["bfloat16", "float32"])
    parser.add_argument("--out", type=Path, help="a CSV file for the same figures")
    parser.add_argument("--rehearse", action="store_true", help="one small map in Triton's interpreter")
    options = parser.parse_args()
    if options.rehearse:
        small = replace(
            problems(torch.float32, 1)[1], height=8, width=8, region=(4, 4), topk=2, heads=1, lepe=3
        )
        rows = measure("float32", [small], "cpu", host_seconds, 64)
    else:
        if not torch.cuda.is_available():
            sys.exit("no CUDA device here; --rehearse runs a small map in Triton's interpreter")
        rows = []
        for name in options.dtypes:
            rows += measure(name, problems(DTYPES[name], options.batch), "cuda", graph_seconds, 8192)
    header: dict[str, object] = {name: name for name in rows[0]}
    for row in [header, *rows]:
        print("  ".join(f"{value!s:>{len(name)}}" for name, value in row.items()))
    if options.out:
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
