"""The official modules of installed packages equal ours, and the race between two modules is fair."""

import time
from statistics import median

import pytest
import torch
from torch import Tensor, nn

from attnbench import AttnbenchError, ImplementationError, Site
from attnbench.harness.versus import race as racing
from attnbench.harness.versus.race import Ratios, race
from attnbench.harness.versus.references import REFERENCES, Pair


@pytest.mark.parametrize("title", REFERENCES)
@pytest.mark.parametrize("site", [Site(64, 2, 14, 14, 2, 0), Site(64, 2, 14, 14, 2, 1)], ids=["even", "odd"])
def test_both_of_a_pair_compute_the_same(title: str, site: Site) -> None:
    try:
        pair = REFERENCES[title][1](site)
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
    monkeypatch.setattr(racing, "sites", lambda: iter([Site(4, 1, 2, 2)]))
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

    found = race(build, mode, "fp32", pairs=7)
    low, high = found.interval()
    assert 1 < low <= median(found.whole) <= high
    assert len(found.whole) == 7
    assert "(stage 1)" in found.slowest_stage()


@pytest.mark.usefixtures("one_small_site")
def test_what_differs_is_not_timed() -> None:
    official = _Slow(0.0, factor=2.001)
    with pytest.raises(AttnbenchError, match="differs from the official module"):
        race(lambda site: Pair(official, _Slow(0.0), official), "infer", "fp32", pairs=5)


@pytest.mark.usefixtures("one_small_site")
def test_what_cannot_run_says_why() -> None:
    def build(site: Site) -> Pair:
        raise ImplementationError("not on this machine")

    assert str(race(build, "infer", "fp32", pairs=5)) == "— (not on this machine)"


def test_the_interval_is_of_the_median() -> None:
    ratios = Ratios(whole=[1.0 + i / 100 for i in range(15)])
    low, high = ratios.interval()
    assert (low, high) == (1.03, 1.11)  # the 4th and the 12th of 15
    assert str(ratios) == "1.07 [1.03, 1.11]"
