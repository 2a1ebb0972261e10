"""A session on real models: warm-up, fresh images, and workloads that lie about what they computed."""

import itertools
import time
from dataclasses import replace

import pytest
import torch
from made_up import cell
from torch import Tensor, nn

from attnbench.harness.setting import Flags
from attnbench.harness.timing import plausible, regimes, session
from attnbench.harness.timing.clock import Sample
from attnbench.harness.timing.honesty import DishonestError
from attnbench.harness.timing.session import Session, Sessions
from attnbench.harness.timing.warmup import Cap
from attnbench.layouts.swin import SWIN_PICO

pytestmark = pytest.mark.alone

CPU = torch.device("cpu")


class Honest(nn.Module):
    """Stands for an attention module: some work, in one product."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(28, 28)

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.004)
        return self.mix(x)


class KeepsForever(Honest):
    """Computes the first answer only."""

    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = super().forward(x).detach()
        return self.kept + 0 * self.mix.weight.sum()


class KeepsByAddress(Honest):
    """Takes a tensor at the same address for the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        address = x.data_ptr()
        if address not in self.kept:
            self.kept[address] = super().forward(x)
        return self.kept[address]


class KeepsByValue(Honest):
    """Looks the values up: right, and quick whenever it sees an image twice."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[float, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        value = float(x.double().sum())
        if value not in self.kept:
            self.kept[value] = super().forward(x)
        return self.kept[value]


class LearnsNothing(Honest):
    """Saves its backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class Toy(nn.Module):
    """A model of one attention module beside a residual path, by which its output always changes."""

    layout = replace(SWIN_PICO, depths=(1,))

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.head = nn.Linear(28 * 28, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x + self.attention(x)).flatten(1))

    def attentions(self) -> list[nn.Module]:
        return [self.attention]

    def macs(self, height: int, width: int) -> dict[str, int]:
        return {"attention": 28**3, "head": 28 * 28 * 10}

    macs_useful = macs_backward = macs


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch):
    """Makes a session of a toy with a given attention module, prepared in a mode."""

    def make(attention: nn.Module, mode: str = "infer") -> Session:
        monkeypatch.setattr(session, "build", lambda cell: Toy(attention))
        made = Session(cell("toy"), CPU)
        assert made.prepare(cell("toy", mode=mode), Cap(0.05)).repeats >= 1
        return made

    return make


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_an_honest_candidate_passes(toy, mode: str) -> None:
    made = toy(Honest(), mode)
    samples = [made.sample(4) for _ in range(3)]
    assert all(0.012 < s.device_s <= s.host_s for s in samples)
    made.verify(samples[-1].device_s / 4)
    made.close()
    with pytest.raises(RuntimeError, match=r"prepare\(\) comes first"):
        made.sample(1)


@pytest.mark.parametrize("attention", [KeepsForever, KeepsByAddress])
def test_an_answer_that_is_kept_for_other_images_is_found_out(toy, attention: type) -> None:
    made = toy(attention())
    sample = made.sample(4)
    with pytest.raises(DishonestError, match="attention module 0 gives other images the answer"):
        made.verify(sample.device_s / 4)


def test_an_answer_that_is_looked_up_is_found_out(toy) -> None:
    made = toy(KeepsByValue())
    sample = made.sample(20)
    assert sample.device_s / 20 < 0.002  # nineteen of twenty steps did nothing
    with pytest.raises(DishonestError, match="times as long on images not seen before"):
        made.verify(sample.device_s / 20)


def test_a_slow_machine_is_no_proof_of_a_kept_answer(toy) -> None:
    made = toy(Honest())
    made.sample(4)
    made.verify(step_s=1e-4)  # the steps that were timed were forty times as fast: the machine changed


def test_a_timed_answer_that_the_step_does_not_give_is_found_out(toy) -> None:
    made = toy(Honest())
    made.sample(2)
    made._last = made._last + 1
    with pytest.raises(DishonestError, match="returned another answer"):
        made.verify(1.0)


def test_a_backward_pass_that_is_left_out_is_found_out(toy) -> None:
    made = toy(LearnsNothing(), "train")
    made.sample(2)
    with pytest.raises(DishonestError, match="attention module 0 gets no gradient"):
        made.verify(1.0)


def test_a_candidate_that_is_not_finite_is_refused(toy) -> None:
    class Broken(Honest):
        def forward(self, x: Tensor) -> Tensor:
            return x * float("nan")

    with pytest.raises(FloatingPointError, match="not finite"):
        toy(Broken())


def test_each_sample_sees_images_of_its_own_after_an_untimed_step_on_those_before(toy) -> None:
    attention = Honest()
    made, seen = toy(attention), []
    attention.register_forward_hook(lambda module, args, out: seen.append(args[0].clone()))
    for _ in range(3):
        made.sample(2)
    assert [torch.equal(a, b) for a, b in itertools.pairwise(seen)] == [
        *(False, True, True),  # on old images; twice on new ones, which are the old ones now
        *(False, True, True),
        *(False, True),
    ]


def test_no_step_goes_first_where_steps_are_long(toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_LEAD_S", 1e-6)
    attention, steps = Honest(), []
    made = toy(attention)
    attention.register_forward_hook(lambda *_: steps.append(1))
    made.sample(3)
    assert len(steps) == 3


def test_a_first_step_that_took_long_does_not_make_steps_long(toy) -> None:
    attention, steps, took = Honest(), [], iter([100.0, 0.1, 0.1])

    def clock(step, repeats: int) -> Sample:
        step()
        return Sample(seconds := next(took), seconds)

    made = toy(attention)
    made._clock, made._fastest_s = clock, 10.0
    attention.register_forward_hook(lambda *_: steps.append(1))
    counts = []
    for _ in range(3):
        steps.clear()
        made.sample(1)
        counts.append(len(steps))
    assert counts == [1, 1, 2]


def test_where_memory_is_short_a_candidate_gives_it_back_and_the_next_sample_begins_untimed(
    toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_LEAD_S", 0.0)
    attention = Honest()
    made, steps = toy(attention), []
    attention.register_forward_hook(lambda *_: steps.append(1))
    made.sample(3)
    assert len(steps) == 3
    monkeypatch.setattr(regimes, "memory", lambda: (1, 100))
    made.sample(3)
    monkeypatch.undo()
    assert len(steps) == 6
    made.sample(3)
    assert len(steps) == 6 + 1 + 3


def test_a_model_serves_all_modes_of_its_cell() -> None:
    built = []

    class Built:
        def __init__(self, cell: object) -> None:
            built.append(cell)

    sessions = Sessions(Built)
    first = sessions.open(cell("a"))
    assert sessions.open(cell("a", mode="train", precision="amp")) is first
    assert sessions.open(cell("b")) is not first
    assert len(built) == 2


def test_pins_hold_for_products_and_convolutions_alike() -> None:
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    try:
        for tf32 in (True, False):
            Flags(tf32=tf32).apply()
            assert torch.backends.cuda.matmul.allow_tf32 is tf32
            assert torch.backends.cudnn.allow_tf32 is tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_the_peak_is_one_that_models_stay_below() -> None:
    peak = plausible.peak_macs_per_s(CPU, "fp32")
    assert 1e9 < peak < 1e14
    assert plausible.fault(None, 1e-9, peak) == ""
    assert plausible.fault(int(peak), 1.0, peak) == ""
    assert "the work was not done" in plausible.fault(int(peak), 0.5, peak)


@pytest.mark.parametrize(("memory", "largest"), [(1, 1), (2, 2), (37, 36), (1000, 950), (10_000, 4096)])
def test_the_largest_batch_is_found_by_bisection(memory: int, largest: int) -> None:
    tried = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= memory

    found = regimes.largest_batch(fits, 4096)
    assert found <= memory
    assert found >= 0.85 * min(largest, 4096)
    assert len(tried) <= 20


def test_no_batch_at_all() -> None:
    with pytest.raises(MemoryError, match="not even"):
        regimes.largest_batch(lambda batch: False, 64)


def test_on_a_cpu_the_batch_is_reckoned_from_two_peaks() -> None:
    assert regimes.cpu_limit(150, 200, 20_000) == (10_000 - 100) // 50
    assert regimes.cpu_limit(150, 200, 10**9) == regimes.LIMIT["cpu"]
    assert regimes.cpu_limit(1500, 2000, 10) == 0
    available, total = regimes.memory()
    assert 2**20 < available <= total


def test_the_largest_regime_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regimes, "LIMIT", {"cpu": 3})
    made = Session(cell("timm_swin"), CPU)
    prepared = made.prepare(cell("timm_swin", regime="largest", batch_size=0), Cap(0.01))
    assert prepared.batch_size == 3
    assert made._workload.images.shape[0] == 3


def test_nothing_is_replayed_without_cuda(toy) -> None:
    assert "CUDA" in toy(Honest()).replay(1, 2).reason
    assert isinstance(toy(Honest()).sample(1), Sample)


@pytest.mark.gpu
def test_launch_overhead_is_a_figure_on_a_gpu() -> None:
    made = Session(cell("timm_swin", device="cuda"), torch.device("cuda"))
    prepared = made.prepare(cell("timm_swin", device="cuda", batch_size=1), Cap(2.0))
    found = made.replay(prepared.repeats, 5)
    assert not found.reason
    assert 0 < found.replayed_s <= 1.05 * found.issued_s
    assert 0 <= found.launch_share < 1
