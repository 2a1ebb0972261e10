"""The official modules of installed packages equal ours, and the race between two modules is fair."""

import time
import warnings
from statistics import median

import pytest
import torch
from torch import Tensor, nn

from attnbench import AttnbenchError, ImplementationError, Site
from attnbench.harness.versus import race as racing
from attnbench.harness.versus.pair import Pair, Reference
from attnbench.harness.versus.race import Ratios, race
from attnbench.harness.versus.references import INSTALLED


@pytest.mark.parametrize("title", INSTALLED)
@pytest.mark.parametrize("site", [Site(64, 2, 14, 14, 2, 0), Site(64, 2, 14, 14, 2, 1)], ids=["even", "odd"])
def test_both_of_a_pair_compute_the_same(title: str, site: Site) -> None:
    try:
        pair = INSTALLED[title].build(site)
    except ImplementationError as error:
        pytest.skip(str(error))
    x = torch.randn(2, 14, 14, 64)
    with torch.no_grad():
        torch.testing.assert_close(pair.own(x), pair.run_official(x), rtol=1e-4, atol=1e-5)


class _Slow(nn.Module):
    """A module whose step takes so long; it computes twice its input."""

    def __init__(self, seconds: float, factor: float = 2.0) -> None:
        super().__init__()
        self.seconds, self.factor = seconds, nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        end = time.process_time() + self.seconds
        while time.process_time() < end:
            pass
        return self.factor * x


@pytest.fixture
def one_small_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "sites", lambda stages: iter([Site(4, 1, 2, 2)]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_small_site")
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_official_over_ours(mode: str) -> None:
    def build(site: Site) -> Pair:
        official, own = _Slow(0.03), _Slow(0.003)
        return Pair(official, own, official)

    found = race(Reference("full", build, (0,)), mode, "fp32", pairs=7)
    low, high = found.interval()
    assert 1 < low <= median(found.whole) <= high
    assert len(found.whole) == 7
    assert "(stage 1)" in found.slowest_stage()


class _MadeUpTime:
    """A clock that only the modules of a test move."""

    def __init__(self) -> None:
        self.now, self.warm = 0.0, ""
        self.turns: list[str] = []

    def process_time(self) -> float:
        return self.now

    perf_counter = process_time


class _Cold(nn.Module):
    """Takes longer after anything else has run, and longer still if that was at another place."""

    def __init__(self, clock: _MadeUpTime, name: str) -> None:
        super().__init__()
        self.clock, self.name, self.factor = clock, name, nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        same_place = self.clock.warm[:1] == self.name[:1]
        self.clock.now += 0.01 if self.clock.warm == self.name else 0.02 if same_place else 0.05
        if self.clock.warm != self.name:
            self.clock.turns.append(self.name)
        self.clock.warm = self.name
        return self.factor * x


@pytest.mark.parametrize("seed", range(3))
def test_a_module_beside_its_copy(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes first at a place finds it cold; neither gains by that."""
    clock = _MadeUpTime()
    monkeypatch.setattr(racing, "time", clock)
    monkeypatch.setattr(racing, "sites", lambda stages: iter([Site(4, 1, 2, 2), Site(4, 1, 2, 2, 1, 0)]))

    def build(site: Site) -> Pair:
        official, own = (_Cold(clock, f"{site.stage} {name}") for name in ("official", "own"))
        return Pair(official, own, official)

    found = race(Reference("full", build, (0, 1)), "infer", "fp32", pairs=5, seed=seed)
    assert found.whole == pytest.approx([1.0] * 5)
    assert found.medians() == pytest.approx({0: 1.0, 1: 1.0})
    orders = [clock.turns[-20:][i : i + 2] for i in range(0, 20, 2)]  # five pairs at two places
    assert [orders[2], orders[3], orders[6], orders[7]] == [
        order[::-1] for order in (orders[0], orders[1], orders[4], orders[5])
    ]


@pytest.mark.usefixtures("one_small_site")
def test_what_differs_is_not_timed() -> None:
    official = _Slow(0.0, factor=2.001)
    with pytest.raises(AttnbenchError, match="differs from the official module"):
        race(
            Reference("full", lambda site: Pair(official, _Slow(0.0), official), (0,)),
            "infer",
            "fp32",
            pairs=5,
        )


@pytest.mark.usefixtures("one_small_site")
def test_what_cannot_run_says_why() -> None:
    def build(site: Site) -> Pair:
        raise ImplementationError("not on this machine")

    assert str(race(Reference("full", build, (0,)), "infer", "fp32", pairs=5)) == "— (not on this machine)"


@pytest.mark.usefixtures("one_small_site")
def test_official_code_that_says_nothing_of_why_it_does_not_run() -> None:
    def build(site: Site) -> Pair:
        raise NotImplementedError

    assert str(race(Reference("full", build, (0,)), "infer", "fp32", pairs=5)) == "— (NotImplementedError)"


@pytest.mark.usefixtures("one_small_site")
def test_what_official_code_prints_is_not_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    class Loud(_Slow):
        def forward(self, x: Tensor) -> Tensor:
            print("hello")
            warnings.warn("as it was then", stacklevel=1)
            return super().forward(x)

    race(
        Reference("full", lambda site: Pair(loud := Loud(0.0), _Slow(0.0), loud), (0,)),
        "infer",
        "fp32",
        pairs=5,
    )
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("one_small_site")
def test_official_code_that_fails_later_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tired(_Slow):
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            if self.runs > 5:
                raise MemoryError("no more")
            return super().forward(x)

    tired = Tired(0.0)
    with pytest.raises(AttnbenchError, match="the pair does not run: MemoryError: no more"):
        race(Reference("full", lambda site: Pair(tired, _Slow(0.0), tired), (0,)), "infer", "fp32", pairs=5)


def test_the_interval_is_of_the_median() -> None:
    ratios = Ratios(whole=[1.0 + i / 100 for i in range(15)])
    low, high = ratios.interval()
    assert (low, high) == (1.03, 1.11)  # the 4th and the 12th of 15
    assert str(ratios) == "1.07 [1.03, 1.11]"
