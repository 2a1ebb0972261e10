"""Growth with resolution: equations 8 and 9 against a search and against counts, and the exponents."""

import csv
import io
import math
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_line import call
from torch import Tensor, nn

from attnbench import AttnbenchError, Site, get, names, register_mechanism
from attnbench.commands.complexity import command
from attnbench.harness.counting import complexity
from attnbench.harness.counting.scaling import rules
from attnbench.layouts.swin import SWIN_T
from attnbench.mechanisms.bra.regions import optimal_regions
from attnbench.scaling_rules import Rule
from attnbench.tables import render
from attnbench.tables.growth import growth

STAGE_1 = complexity.Counter(SWIN_T, 0)
FEW = (56, 224, 512, 1024, 2048)


@pytest.mark.parametrize(("side", "topk"), [(56, 1), (28, 4), (14, 16), (512, 1), (100, 9)])
def test_equation_9_minimises_equation_8(side: int, topk: int) -> None:
    def flops(regions: float) -> float:
        return 3 * side**2 * 96**2 + 2 * regions**4 * 96 + 2 * topk * side**4 * 96 / regions**2

    best = optimal_regions(side, side, topk)
    searched = min(flops(best * (0.5 + i / 1000)) for i in range(1500))
    assert flops(best) <= searched * (1 + 1e-12)


@pytest.mark.parametrize(("side", "regions", "topk"), [(56, 7, 1), (56, 14, 4), (60, 12, 3)])
def test_macs_of_bra_are_those_counted(side: int, regions: int, topk: int) -> None:
    rule = Rule("here", "", lambda *_: {"num_regions": regions, "topk": topk, "lepe_kernel": 0})
    counted = complexity.Counter(SWIN_T, 0).total(get("bra"), rule, side)
    n = side * side  # projections, routing, attention
    assert counted == 2 * (4 * n * 96**2 + regions**4 * 96 + 2 * topk * n**2 * 96 / regions**2)


def test_a_power_law_is_found_with_its_interval() -> None:
    sides = (10, 20, 40, 80)
    exact = complexity.fit([n**2 for n in sides], [3 * n**3 for n in sides])
    assert (exact.exponent, exact.low, exact.high) == pytest.approx((1.5, 1.5, 1.5))
    # By hand: slope 1 and residuals of 0.1 either way at log N = 0, 1, 2, 3.
    costs = [math.exp(x + e) for x, e in zip(range(4), (0.1, -0.1, -0.1, 0.1), strict=True)]
    scattered = complexity.fit([math.exp(x) for x in range(4)], costs)
    assert scattered.exponent == pytest.approx(1.0)
    assert scattered.high - 1 == pytest.approx(4.303 * math.sqrt(0.04 / 2 / 5), rel=1e-3)
    assert scattered.agrees(1.25)
    assert not scattered.agrees(1.5)


@pytest.mark.parametrize(
    ("complexity_", "exponent"),
    [("O(N)", 1), ("O(1)", 0), ("O(N^2)", 2), ("O(N^4/3)", 4 / 3), ("O(N^1.5)", 1.5)],
)
def test_declared_exponents_are_read(complexity_: str, exponent: float) -> None:
    assert complexity.exponent_of(complexity_) == pytest.approx(exponent)


@pytest.mark.parametrize("text", ["", "O(N log N)", "O(N^k)", "O(N^2/x)"])
def test_other_declarations_are_not_guessed(text: str) -> None:
    assert complexity.exponent_of(text) is None


EXPECTED = {"bra": [4 / 3, 2], "sequential_axial": [1.5], "shifted_window": [1, 2], "full": [2]}


@pytest.mark.parametrize("name", EXPECTED)
def test_exponents_come_out_as_stated(name: str) -> None:
    found = complexity.measure(STAGE_1, name)
    assert [item.fit.exponent for item in found if item.fit] == pytest.approx(EXPECTED[name], abs=0.005)
    assert all(item.fit and item.declared and item.fit.agrees(item.declared) for item in found)
    assert all(item.fit and item.fit.high - item.fit.low < 0.02 for item in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_mechanism_grows_as_it_declares(name: str) -> None:
    for item in complexity.measure(STAGE_1, name):
        assert item.reason == ""
        assert item.declared is not None
        if any(item.counts.values()):
            assert item.fit is not None
            assert item.fit.agrees(item.declared), (item.rule, item.fit)


def test_cheaper_than_full_from_where_the_counts_cross() -> None:
    (window, _) = complexity.measure(STAGE_1, "shifted_window", FEW)
    assert (
        window.cheaper_from == 40
    )  # 10 × 10 tokens: on 9 × 9 the padding to 14 × 14 costs more than it saves
    spec, rule = get("shifted_window"), window.rule
    assert STAGE_1.total(spec, rule, 10) < STAGE_1.full(10)
    assert STAGE_1.total(spec, rule, 9) >= STAGE_1.full(9)
    assert complexity.measure(STAGE_1, "full", FEW)[0].cheaper_from is None


def test_rules_say_what_is_fixed() -> None:
    site = STAGE_1.sites(56)[0]
    assert [rule.says for rule in rules(get("block_grid"), site)] == ["window_size 7 fixed"]
    nine = rules(get("bra"), site)[0]
    assert nine.options(site, {"topk": 1}) == {"num_regions": 13, "topk": 1}
    assert nine.options(site, {"topk": None}) == {}


@pytest.fixture
def broken(isolated_registry: None) -> str:
    @register_mechanism("breaks_when_large", complexity="O(N)")
    class Breaks(nn.Module):
        def __init__(self, site: Site) -> None:
            super().__init__()
            self.linear = nn.Linear(site.dim, site.dim)

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] > 200:
                raise RuntimeError("too large for me")
            return self.linear(x)

    return "breaks_when_large"


def test_a_mechanism_that_fails_is_a_row_with_the_reason(broken: str) -> None:
    (item,) = complexity.measure(STAGE_1, broken, FEW)
    assert item.reason == "RuntimeError: too large for me"
    text = render.render(growth([item], SWIN_T, 0, 512), "md")
    assert "— [2]" in text
    assert "[2] failed: RuntimeError: too large for me" in text


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_command_prints_a_csv_with_every_resolution() -> None:
    text = run("--mechanisms", "full,bra", "--resolutions", "56,112,224", "--format", "csv")
    rows = {row["mechanism"]: row for row in csv.DictReader(io.StringIO(text))}
    assert list(rows) == ["full", "bra[S by equation 9]", "bra[S fixed]"]
    full = rows["full"]
    assert full["as_declared"] == "yes"
    n, c = 56 * 56, 96
    assert int(full["macs_224"]) == 2 * (4 * n * c**2 + 2 * n**2 * c)
    assert rows["bra[S fixed]"]["cheaper_from_px"] == "24"


def test_command_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "growth.svg"
    run("--mechanisms", "full,identity", "--resolutions", "56,112,224", "--plot", str(path))
    assert "Full: 2.00" in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mechanisms", "fulll"], "did you mean full"),
        (["--stage", "5"], "--stage must be at most 4"),
        (["--resolutions", "224"], "3 or more"),
        (["--format", "xlsx"], "unknown format 'xlsx'"),
        (["--plot", "plot.xyz"], "--plot must end with one of"),
        (["--plot", "no/such/folder/plot.png"], "there is no folder"),
    ],
)
def test_mistakes_are_told(arguments: list[str], message: str, tmp_path: Path) -> None:
    if "--plot" in arguments:
        pytest.importorskip("matplotlib")
    said = call("complexity", *arguments, cwd=tmp_path)
    assert not said.accepted()
    assert message in said.err


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(AttnbenchError, match=r"install attnbench\[report\]"):
        CliRunner().invoke(command, ["--plot", "a.png"], catch_exceptions=False)
