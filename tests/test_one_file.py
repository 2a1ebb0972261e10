"""A mechanism, a metric, a data set and a layout: one new file each, and no other edit."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from attnbench import datasets, layouts, metrics, registry
from attnbench.__main__ import cli

MECHANISM = '''
"""A dynamic mechanism: every token reads the token of the image that is most like its mean."""

import torch
from torch import Tensor, nn

from attnbench import Site, register_mechanism


@register_mechanism("nearest_mean", title="Nearest mean", year=2026, pattern="image", complexity="O(N)")
class NearestMean(nn.Module):
    def __init__(self, site: Site, *, gain: float = 1.0) -> None:
        super().__init__()
        self.gain, self.proj = gain, nn.Linear(site.dim, site.dim)

    def macs(self, height: int, width: int) -> dict[str, int]:
        return {"projection": height * width * self.proj.weight.numel()}

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        chosen = (tokens - tokens.mean(1, keepdim=True)).square().sum(-1).argmin(1)
        read = tokens[torch.arange(len(x), device=x.device), chosen]
        return self.proj(x + self.gain * read[:, None, None])
'''
METRIC = '''
"""How many modules a model is made of."""

from attnbench.metrics import Value, register_metric
from attnbench.record import Measurement


@register_metric(
    "modules",
    title="modules",
    values=[Value("modules", "modules", "Modules", "modules", better="lower")],
    order=15,
    on_machine=False,
    needs="counts",
)
def measure(cell, bench):
    from attnbench.harness.models.build import build

    return [Measurement.of(cell, "modules", len(list(build(cell, "eager").modules())), "modules")]
'''
DATASET = '''
"""Two kinds of noise."""

from attnbench.datasets import register_dataset


@register_dataset("two_noises", title="Two noises", num_classes=2, channels=1, version="1")
def load(size):
    return size
'''
LAYOUT = '''
"""One stage of two blocks."""

import dataclasses

from attnbench.layouts import register_layout
from attnbench.layouts.swin import SWIN_PICO

register_layout(dataclasses.replace(SWIN_PICO, name="one_stage", title="One stage", depths=(2,)))
'''


@pytest.fixture
def plugin(tmp_path: Path, isolated_registry: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The four files as ``--plugin`` options; what they register is forgotten afterwards."""
    metrics.names(), layouts.names()  # the folders are read once: into what stays, not into the copies
    monkeypatch.setattr(metrics, "_registered", dict(metrics._registered))
    monkeypatch.setattr(layouts, "_registered", dict(layouts._registered))
    options = []
    for name, text in (("mechanism", MECHANISM), ("metric", METRIC), ("data", DATASET), ("layout", LAYOUT)):
        path = tmp_path / f"my_{name}.py"
        path.write_text(text)
        options += ["--plugin", str(path)]
    return options


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_each_is_used_by_every_command_that_names_its_kind(plugin: list[str], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    run = [
        "run",
        "--layout",
        "one_stage",
        "--mechanisms",
        "nearest_mean,identity",
        "--metrics",
        "modules,macs",
    ]
    invoke(*run, "--in-process", "--out", out, *plugin)
    records = f"{out}/records"
    (path,) = Path(records).glob("*.jsonl")
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    values = {(r["cell"]["mechanism"], r["name"]): r["value"] for r in kept}
    assert values["nearest_mean", "modules"] == values["identity", "modules"] + 2  # a Linear in each block
    assert {r["cell"]["layout"] for r in kept} == {"one_stage"}
    table = ["table", "ablation", "--records", records, *plugin]
    for form in ("md", "csv", "latex", "html"):
        assert "odules" in invoke(*table, "--format", form), form
    told = invoke(*table, "--explain", "nearest_mean", "modules")
    assert f"measured by attnbench: {values['nearest_mean', 'modules']} modules (modules)" in told
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text(
        "".join(json.dumps(r | {"value": r["value"] - 1}) + "\n" for r in kept if r["name"] == "modules")
    )
    compared = CliRunner().invoke(cli, ["compare", str(fewer), records, *plugin])
    assert compared.exit_code == 1
    assert "**more**" in compared.output
    assert "modules" in invoke("list", "--kind", "metrics", *plugin)
    assert "one_stage" in invoke("list", "--kind", "layouts", *plugin)
    assert "two_noises" in invoke("list", "--kind", "datasets", *plugin)


def test_the_four_files_are_found(plugin: list[str]) -> None:
    for path in plugin[1::2]:
        registry.add_plugin(path)
    assert "nearest_mean" in registry.names()
    assert "modules" in metrics.names()
    assert "one_stage" in layouts.names()
    assert datasets.get("two_noises").facts.num_classes == 2
    assert not registry.failures()
