"""An ablation grid: what its file may say, what is measured after a kill, what table and figure tell."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from attnbench import AttnbenchError, grids, store
from attnbench.figures import ablated as ablated_figure
from attnbench.harness.run import combinations
from attnbench.record import Measurement
from attnbench.tables import render
from attnbench.tables.ablated import ablated

EXAMPLES = Path(__file__).parent.parent / "examples" / "ablations"
GRID = """
title = "Windows and heads"
metrics = ["params", "macs"]

[fixed]
mechanism = "shifted_window"
layout = "swin_pico"

[axes]
options.window_size = [2, 3, 4, 7]
options.num_heads = [1, 2, 3]
"""


def write(folder: Path, text: str = GRID) -> Path:
    path = folder / "grid.toml"
    path.write_text(text)
    return path


def place(out: Path) -> combinations.Place:
    return combinations.Place(out, torch.device("cpu"), in_process=True)


def cells_on_disk(folder: Path) -> list[tuple[str, str]]:
    """Key and time of each record."""
    lines = [line for path in folder.rglob("records/*.jsonl") for line in path.read_text().splitlines()]
    return [(record["key"], record["created"]) for record in map(json.loads, lines)]


@pytest.mark.slow
def test_24_cells_killed_half_way_and_started_again_measure_only_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attnbench", "ablate", str(write(tmp_path)), "--device", "cpu"]
    command += ["--in-process", "--plot", "figure.png"]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len({key for key, _ in cells_on_disk(tmp_path)}) < 12:
        assert running.poll() is None
        time.sleep(0.05)
    running.kill()
    running.wait()
    before = cells_on_disk(tmp_path)
    known = len({key for key, _ in before})
    assert 12 <= known < 24
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"24 cells in the grid; {24 - known} measured now" in done.stdout, done.stdout + done.stderr
    after = cells_on_disk(tmp_path)
    assert after[: len(before)] == before, "what was measured stays as it was"
    assert len({key for key, _ in after}) == 24
    assert len({key for key, _ in after[len(before) :]} & {key for key, _ in before}) == 0
    assert "num_heads 3 does not fit stage 0: dim 16 is not a multiple of num_heads 3" in done.stdout
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "24 cells in the grid; 0 measured now" in again.stdout
    assert again.returncode == 3  # some cells of the grid have failed, before
    assert cells_on_disk(tmp_path) == after


SMALL = GRID.replace("[2, 3, 4, 7]", "[2, 7]").replace("[1, 2, 3]", "[2, 3]").replace(', "macs"', "")


class Silent:
    """Progress that nobody sees."""

    def phase(self, title: str, total: int) -> None: ...
    def step(self, what: str) -> None: ...
    def at_least(self, done: int, what: str) -> None: ...
    def say(self, line: str) -> None: ...


def test_table_and_figure_say_which_cells_failed_and_why(tmp_path: Path) -> None:
    grid = grids.read(write(tmp_path, SMALL))
    plan = combinations.planned(grid, place(tmp_path))
    summary = combinations.measure(plan.requests, Silent())
    assert (summary.measured, len(summary.failed)) == (4, 2)
    table = ablated(grid, plan.cells, store.read(tmp_path / "records", pytest.fail))
    text = render.render(table, "md")
    why = "dim 16 is not a multiple of num_heads 3"
    assert list(table.raw.index) == ["2, 2", "2, 3", "7, 2", "7, 3"]
    assert table.value("2, 2", "parameters") > 0
    assert table.value("2, 3", "parameters") is None
    assert text.count("— [") == 2
    assert why in text
    figure = ablated_figure.draw(grid, table)
    crosses = [line for axis in figure.axes for line in axis.lines if line.get_gid() == "failed"]
    assert sorted(float(line.get_xdata()[0]) for line in crosses) == [2.0, 7.0]
    assert figure.get_supxlabel().count(why) == 2


def test_what_was_not_measured_is_told_apart_from_what_failed(tmp_path: Path) -> None:
    grid = grids.read(write(tmp_path, SMALL))
    plan = combinations.planned(grid, place(tmp_path))
    table = ablated(grid, plan.cells, [])
    assert "not measured yet: the same command goes on" in render.render(table, "md")


def test_seeds_are_drawn_together_with_their_spread(tmp_path: Path) -> None:
    text = GRID.replace("options.num_heads = [1, 2, 3]", "seed = [0, 1, 2]")
    grid = grids.read(write(tmp_path, text.replace('"params", "macs"', '"params", "accuracy"')))
    plan = combinations.planned(grid, place(tmp_path))
    records = []
    for own in plan.cells:
        for cell in own:
            if cell.metric == "accuracy" and not (cell.seed == 2 and cell.options["window_size"] == 2):
                records.append(Measurement.of(cell, "top1", 50.0 + cell.seed, "%"))
    table = ablated(grid, plan.cells, records)
    assert list(table.raw.index) == ["2", "3", "4", "7"]
    assert table.value("7", "top1_percent") == 51.0
    assert table.value("7", "top1_percent_sd") == 1.0
    assert table.value("2", "top1_percent") == 50.5
    assert "seed 2: not measured yet" in render.render(table, "md")
    assert len(plan.requests) == 12
    assert len(ablated_figure.draw(grid, table).axes) == 2


def test_axes_set_several_things_and_none_has_a_word(tmp_path: Path) -> None:
    text = """
    metrics = ["params"]
    [fixed]
    mechanism = "bra"
    layout = "swin_pico"
    options.lepe_kernel = 3
    [axes]
    variant = [
        { label = "as published", options.topk = [1, 4, 16, "none"] },
        { resolution = 56, options.topk = 1, options.lepe_kernel = 0 },
    ]
    implementation = ["eager", "auto"]
    """
    first, _, last, _ = grids.read(write(tmp_path, text)).points()
    assert dict(first.options) == {"lepe_kernel": 3, "topk": [1, 4, 16, None]}
    assert (first.fields["resolution"], first.fields["implementation"]) == (28, "eager")
    assert dict(last.options) == {"lepe_kernel": 0, "topk": 1}
    assert last.fields["resolution"] == 56
    assert last.label == "resolution=56, topk=1, lepe_kernel=0, eager"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_are_grids_whose_models_can_be_built(path: Path, tmp_path: Path) -> None:
    from attnbench.harness.models.build import build

    grid = grids.read(path)
    plan = combinations.planned(grid, place(tmp_path))
    assert len(plan.cells) == len(grid.points()) > 3
    with torch.device("meta"):
        for own in plan.cells:
            build(own[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("metrics", "metrik"), "unknown entry of .* 'metrik'; did you mean metrics"),
        (('"params"', '"speed"'), "unknown metric 'speed'"),
        (('["params", "macs"]', "[]"), "metrics must be a list of names"),
        (('mechanism = "shifted_window"', ""), "no mechanism; set it in .fixed. or make it an axis"),
        (("shifted_window", "shifted_windows"), "unknown mechanism 'shifted_windows'; did you mean"),
        (("swin_pico", "swin_p"), "unknown layout 'swin_p'"),
        (("[2, 3, 4, 7]", "[]"), "axis window_size must be a list of values that is not empty"),
        (("options.num_heads = [1, 2, 3]", "precision = ['fp8']"), "unknown precision 'fp8'"),
        (("options.num_heads = [1, 2, 3]", "seed = ['a']"), "seed must be of type int, got a"),
        (("options.num_heads = [1, 2, 3]", "resolution = [0]"), "resolution must be a positive whole number"),
        (("options.num_heads = [1, 2, 3]", "heads = [1]"), "axis heads is none of mechanism, .* got 1"),
        (("options.num_heads = [1, 2, 3]", "x = [{topk = 1}]"), "unknown field of a grid 'topk'"),
        (("options.num_heads = [1, 2, 3]", "implementation = ['fused']"), "has no implementation 'fused'"),
        (("[axes]", "[axes"), "is not TOML"),
    ],
)
def test_a_file_that_says_what_no_grid_says_is_one_clear_error(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    with pytest.raises(AttnbenchError, match=message):
        combinations.planned(grids.read(write(tmp_path, GRID.replace(*change))), place(tmp_path))


def test_no_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(AttnbenchError, match=r"cannot read .*nowhere.toml: No such file"):
        grids.read(tmp_path / "nowhere.toml")


def test_the_command_without_a_file_says_so_in_one_line(tmp_path: Path) -> None:
    environment: dict[str, Any] = {**os.environ}
    command = [sys.executable, "-m", "attnbench", "ablate", "nowhere.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr == "attnbench: error: Invalid value for 'FILE.toml': there is no file nowhere.toml\n"
