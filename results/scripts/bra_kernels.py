"""What BRA's fused kernels take of a GPU, found without one.

Run ``python -m attnbench.results.scripts.bra_kernels``.

Compiles every kernel at every stage of the Swin-T layout (S = 7; k = 1, 4, 16, and in stage 4 all 49), in
each dtype, for compute capability 8.0, 9.0 and 10.0, as it would be launched at batch 128, and writes
``results/kernels.csv`` beside this file, with the Triton that compiled each. About two minutes at first;
Triton caches what it compiled. ``--capability 100`` writes that one's rows anew and leaves the others.
"""

import csv
import importlib.metadata
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click
import torch

from attnbench.layouts import get_layout
from attnbench.mechanisms.bra.triton_launch import Launch, Problem
from attnbench.results.scripts.kernel_resources import missing, resources

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
CAPABILITIES = (80, 90, 100)
TOPK = (1, 4, 16, 49)


def problems(dtype: torch.dtype, batch: int = 128) -> list[Problem]:
    """BRA's attention at the four stages of Swin-T at 224 px."""
    layout = get_layout("swin_t")
    found = []
    for stage, topk in enumerate(TOPK):
        dim, size = layout.embed_dim << stage, layout.img_size // layout.patch_size >> stage
        heads = dim // layout.head_dim
        found.append(
            Problem(
                batch, size, size,
                heads=heads, qk=dim // heads, v=dim // heads, region=(size // 7, size // 7), topk=topk,
                scale=dim**-0.5, attend_padding=False, lepe=5, element_bytes=dtype.itemsize,
                precision="tf32x3",
            )
        )  # fmt: skip
    return found


def launches(problem: Problem, dtype: torch.dtype) -> Iterator[tuple[str, Launch]]:
    """The kernels of a forward and backward pass, on tensors without memory."""
    from attnbench.mechanisms.bra import triton_backward_kv as backward_kv
    from attnbench.mechanisms.bra import triton_backward_lepe as backward_lepe
    from attnbench.mechanisms.bra import triton_backward_q as backward_q
    from attnbench.mechanisms.bra import triton_forward as forward
    from attnbench.mechanisms.bra import triton_lists as lists
    from attnbench.mechanisms.bra import triton_route as route

    def empty(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    B, H, W, C = problem.batch, problem.height, problem.width, problem.heads * problem.v
    qkv, out = empty(B, H, W, problem.heads * (2 * problem.qk + problem.v)), empty(B, H, W, C)
    row = empty(B, problem.heads, H * W, dtype=torch.float32)
    taps = empty(problem.lepe**2, C, dtype=torch.float32)
    bias = empty(C, dtype=torch.float32)
    routes = empty(B, problem.regions, problem.topk, dtype=torch.int64)
    words = empty(B, problem.regions, -(-problem.regions // 32), dtype=torch.int32)
    index, inverse = (words, None) if problem.masked else (routes, words)
    means = empty(B, problem.regions, 2 * problem.heads * problem.qk, dtype=torch.float32)
    yield "means", route.means_launch(qkv, means, problem.region)
    yield "choice", route.choice_launch(means, routes)
    if problem.masked:
        yield "bits", lists.bits_launch(routes, words)
    yield "forward", forward.forward_launch(qkv, index, taps, bias, out, row, problem)
    if inverse is not None:
        yield "inverse", lists.inverse_launch(routes, words, words)
    yield "backward_q", backward_q.backward_q_launch(qkv, index, out, row, row, qkv, problem)
    yield (
        "backward_kv",
        backward_kv.backward_kv_launch(qkv, words, inverse, taps, out, row, row, qkv, problem),
    )
    yield "backward_lepe", backward_lepe.backward_lepe_launch(qkv, out, row, problem.lepe)


def rows(name: str, capability: int) -> Iterator[dict[str, object]]:
    """A row of the table for each stage and kernel, in a dtype."""
    dtype = DTYPES[name]
    for stage, problem in enumerate(problems(dtype), start=1):
        for kernel, launch in launches(problem, dtype):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Triton 3.9 announces a default of 3.10
                found = resources(
                    launch.kernel,
                    launch.arguments,
                    launch.constants,
                    capability=capability,
                    warps=launch.warps,
                    stages=launch.stages,
                )
            tile = {"queries": launch.constants.get("BLOCK_M"), "keys": launch.constants.get("BLOCK_N")}
            place = {"capability": capability / 10, "dtype": name, "stage": stage, "kernel": kernel}
            yield {**place, **tile, "warps": launch.warps, **asdict(found)}


@click.command(help=__doc__)
@click.option(
    "--capability", "chosen", type=click.Choice([str(c) for c in CAPABILITIES]), help="This one alone."
)
def main(chosen: str | None) -> None:
    """Write the table."""
    reason = missing()
    if reason:
        raise SystemExit(f"kernels cannot be compiled here: {reason}")
    path = Path(__file__).parents[1] / "kernels.csv"
    triton = ".".join(importlib.metadata.version("triton").split(".")[:2])
    capabilities = CAPABILITIES if chosen is None else (int(chosen),)
    table: list[dict[str, object]] = [
        {"triton": triton, **row}
        for name in DTYPES
        for capability in capabilities
        for row in rows(name, capability)
    ]
    if chosen is not None:
        with path.open(newline="") as file:
            table += [row for row in csv.DictReader(file) if float(row["capability"]) != int(chosen) / 10]
    dtypes = list(DTYPES)
    table.sort(key=lambda row: (dtypes.index(str(row["dtype"])), float(str(row["capability"]))))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    click.echo(f"{len(table)} kernels in {path}")


if __name__ == "__main__":
    main()
