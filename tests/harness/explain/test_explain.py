"""The account of a step: bytes of known operators, events of known times, phases by caller, and sums."""

import json
import os
import random
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from click.testing import CliRunner
from command_line import call
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from attnbench import AttnbenchError, create_model, registry
from attnbench.commands import explain as command
from attnbench.figures.files import check_plottable
from attnbench.harness.counting import macs
from attnbench.harness.explain import ceilings as roof
from attnbench.harness.explain import plot, text
from attnbench.harness.explain.account import SHARES, Account, Timed
from attnbench.harness.explain.ceilings import Ceilings
from attnbench.harness.explain.gap import Comparison, Effort, Explained, compare
from attnbench.harness.explain.phases import Place, Places
from attnbench.harness.explain.recorder import ALLOCATIONS, Operator, record
from attnbench.harness.explain.step import Subject
from attnbench.harness.explain.timeline import Event, Timeline, _event, timeline
from attnbench.harness.explain.traffic import Storages, Traffic, compulsory
from attnbench.harness.setting import Setting, make_step
from attnbench.record import Cell

pytestmark = pytest.mark.alone

CPU = torch.device("cpu")
PICO = Cell(mechanism="bra", layout="swin_pico", metric="explain", resolution=28, batch_size=2)
ROOF = Ceilings(flops_per_s=1e9, bytes_per_s=1e8, launch_s=1e-6, dtype="float32")


class Watch(TorchDispatchMode):
    """Collects the traffic of operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.storages, self.seen = Storages(), list[tuple[str, Traffic]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        traffic = self.storages.traffic(func, args, kwargs or {}, result)
        if traffic is not None:
            self.seen.append((func._schema.name.partition("::")[2], traffic))
        return result


def test_bytes_moved_are_inputs_and_outputs_once() -> None:
    x, table, rows = torch.ones(8, 16), torch.ones(1000, 16), torch.zeros(4, dtype=torch.long)
    with Watch() as watch:
        x.t()  # a view
        x.mm(torch.ones(16, 2))
        F.embedding(rows, table)
        x[:, :1].expand(8, 16) + x
        x.mul_(2)
        x.zero_()
        x[0].copy_(x[1])
    moved = [(name, traffic.moved) for name, traffic in watch.seen]
    assert moved == [
        ("ones", 16 * 2 * 4),
        ("mm", (8 * 16 + 16 * 2 + 8 * 2) * 4),
        ("embedding", 2 * 4 * 16 * 4 + 4 * 8),  # four rows read and written, and their numbers
        ("add", (8 + 8 * 16 + 8 * 16) * 4),  # an expanded column is one column
        ("mul_", 2 * 8 * 16 * 4),
        ("zero_", 8 * 16 * 4),
        ("copy_", 2 * 16 * 4),
    ]


def test_a_storage_at_a_freed_address_is_another() -> None:
    storages = Storages()
    numbers = {storages.number(torch.ones(1000)) for _ in range(20)}
    assert len(numbers) == 20


def test_compulsory_bytes_are_what_one_kernel_would_move() -> None:
    x, weight = torch.ones(100), torch.ones(100)
    with Watch() as watch:
        y = x * weight  # 0
        z = y + x  # 1: y stays inside the group, x is read once
        z.relu()  # 2: outside
    traffic = [traffic for _, traffic in watch.seen]
    assert compulsory([[0, 1], [2], [0, 1, 2]], traffic) == [3 * 400, 400, 2 * 400]
    assert sum(traffic[i].moved for i in (0, 1)) == 6 * 400


def test_views_of_one_storage_count_no_more_than_it_holds() -> None:
    qkv = torch.ones(300)
    with Watch() as watch:
        q, k, v = qkv.split(100)
        (q * k) + (q * v)
    assert compulsory([[0, 1, 2]], [traffic for _, traffic in watch.seen]) == [300 * 4]


STEP = Event("attnbench::step", 0, 1000, 1, 1)


def test_times_on_a_cpu_are_begin_to_end_and_the_gap_before() -> None:
    events = [
        STEP,
        Event("aten::linear", 90, 400, 1, 2),  # composite: what counts is inside
        Event("aten::view", 95, 98, 1, 3),
        Event("aten::addmm", 100, 350, 1, 4),
        Event("aten::copy_", 110, 120, 1, 5),  # inside addmm, though an operator is called so
        Event("aten::copy_", 500, 600, 1, 6),
        Event("aten::mm", 2000, 2100, 1, 7),  # after the step
    ]
    found = timeline(events, ["aten::addmm", "aten::copy_"])
    assert found.busy == pytest.approx([250e-9, 100e-9])
    assert found.gap == pytest.approx([100e-9, 150e-9])
    assert found.tail == pytest.approx(400e-9)
    assert sum(found.busy) + sum(found.gap) + found.tail == pytest.approx(found.total)
    assert (found.inside, found.between) == ([1, 0], [3, 1])


def test_times_on_a_gpu_are_the_kernels_however_soon_the_launch_returns() -> None:
    events = [
        STEP,
        Event("aten::mm", 10, 20, 1, 2),
        Event("aten::softmax", 25, 60, 1, 3),
        Event("aten::_softmax", 30, 50, 1, 4),
        Event("gemm", 100, 700, 7, 2, kernel=True),
        Event("softmax_a", 720, 800, 7, 4, kernel=True),
        Event("softmax_b", 800, 900, 7, 4, kernel=True),
        Event("warm-up", 5, 90, 7, 99, kernel=True),  # launched before the step
    ]
    found = timeline(events, ["aten::mm", "aten::_softmax"])
    assert found.busy == pytest.approx([600e-9, 180e-9])
    assert found.gap == pytest.approx([0, 20e-9])
    assert found.launches == [1, 2]
    assert found.total == pytest.approx(800e-9)


class Raw(NamedTuple):
    """An event as torch's profiler has it."""

    device: str
    number: int
    linked: int
    annotation: bool = False

    def name(self) -> str:
        return "event"

    def device_type(self) -> Any:
        return SimpleNamespace(name=self.device)

    def correlation_id(self) -> int:
        return self.number

    def linked_correlation_id(self) -> int:
        return self.linked

    def is_user_annotation(self) -> bool:
        return self.annotation

    def start_ns(self) -> int:
        return 1

    end_ns = start_thread_id = start_ns


def test_neither_the_runtimes_calls_nor_annotations_on_the_device_are_taken_for_work() -> None:
    operator, mark = _event(Raw("CPU", 5, 0)), _event(Raw("CPU", 6, 0, annotation=True))
    kernel = _event(Raw("CUDA", 77, 5))
    assert operator is not None
    assert mark is not None
    assert kernel is not None
    assert (operator.id, operator.kernel) == (5, False)
    assert (kernel.id, kernel.kernel) == (5, True)
    assert _event(Raw("CPU", 77, 5)) is None  # cudaLaunchKernel
    assert _event(Raw("CUDA", 78, 6, annotation=True)) is None
    assert _event(Raw("CUDA", 79, 0)) is None


@pytest.mark.parametrize("names", [["aten::mm", "aten::mm"], ["aten::bmm", "aten::mm"]])
def test_a_step_that_runs_other_operators_is_refused(names: list[str]) -> None:
    events = [STEP, Event("aten::mm", 10, 20, 1, 2), Event("aten::bmm", 30, 40, 1, 3)]
    with pytest.raises(AttnbenchError, match="different operators"):
        timeline(events, names)


def recorded(mechanism: str, mode: str = "infer", impl: str = "auto") -> list[Operator]:
    torch.manual_seed(0)
    model = create_model("swin_pico", mechanism, impl=impl)
    step = make_step(model, model.layout, Setting(CPU, mode, "fp32", 1, 28))
    step()
    return record(step, model)


def test_phases_are_the_submodules_and_functions_of_the_file() -> None:
    operators = recorded("bra", "train", impl="eager")
    attention = {op.place.phase for op in operators if op.place.part == "attention"}
    assert {"qkv", "proj", "route", "attend", "gathered_attention"} <= attention
    others = {op.place.phase for op in operators if op.place.part != "attention"}
    assert others == {
        "patch_embed",
        "norms",
        "mlp",
        "residual",
        "merging",
        "head",
        "loss and input",
        "optimizer",
    }
    lines = {op.line for op in operators if op.place.phase == "attend"}
    assert all(line.startswith("mechanisms/_explicit.py:") for line in lines)


def test_the_backward_pass_is_charged_to_the_phases_that_made_it() -> None:
    operators = [op for op in recorded("bra", "train", impl="eager") if op.direction == "backward"]
    without = [op.name for op in operators if op.place.phase == "loss and input"]
    assert len(without) < 0.02 * len(operators)  # of the loss itself
    products = {op.place.phase for op in operators if op.macs}
    assert {"qkv", "proj", "attend", "mlp", "head", "merging"} <= products


@pytest.mark.parametrize("mechanism", ["bra", "deformable", "shifted_window"])
def test_macs_of_the_operators_are_the_counters(mechanism: str) -> None:
    forward = sum(op.macs for op in recorded(mechanism, impl="eager"))
    with torch.device("meta"):
        model, image = create_model("swin_pico", mechanism, impl="eager"), torch.zeros(1, 1, 28, 28)
    assert forward == macs.count(model.eval(), image)
    both = recorded(mechanism, "train", impl="eager")
    assert sum(op.macs for op in both if op.direction == "backward") == (
        macs.count_backward(model.train(), image).macs
    )


PLUGIN = """
from torch import Tensor, nn
from attnbench import Site, register_mechanism


def mix(x: Tensor) -> Tensor:
    return x * x.mean((1, 2), keepdim=True)


@register_mechanism("gate_of_a_user", pattern="static", year=2026)
class Gate(nn.Module):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self.out = nn.Linear(site.dim, site.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(mix(x)).tanh()
"""


@pytest.mark.usefixtures("isolated_registry")
def test_a_users_own_file_has_phases_without_declaring_any(tmp_path: Path) -> None:
    (tmp_path / "gate_of_a_user.py").write_text(PLUGIN)
    registry.add_plugin(tmp_path / "gate_of_a_user.py")
    operators = recorded("gate_of_a_user")
    attention = {op.place.phase for op in operators if op.place.part == "attention"}
    assert attention == {"out", "mix", "forward"}
    assert any(op.line.endswith("gate_of_a_user.py:7") for op in operators)


def account(*rows: tuple[str, int, int, float, float]) -> Account:
    """Of operators given as (phase, MACs, bytes, busy, gap)."""
    timed = []
    for phase, count, size, busy, gap in rows:
        watch = Watch()
        with watch:
            torch.zeros(size // 4)
        place = Place("layers.0", "attention", phase)
        operator = Operator("aten::op", place, "file.py:1", "forward", count, watch.seen[0][1])
        timed.append(Timed(operator, busy, gap, 1))
    return Account(timed, ROOF)


def test_shares_add_up_and_each_finds_its_cause() -> None:
    for row, largest in (
        (("a", 10**6, 40, 0.003, 0.0), "arithmetic"),  # 2 ms of arithmetic
        (("a", 10, 400_000, 0.005, 0.0), "bandwidth"),  # 4 ms of traffic
        (("a", 10, 40, 1e-6, 0.001), "launch"),
        (("a", 10, 40, 0.001, 0.0), "rest"),
        (("a", 10**6, 400_000, 1e-5, 0.0), "arithmetic"),  # quicker than the roof: from a cache
    ):
        total = account(row).total()
        assert total.bound == largest
        assert sum(total.shares.values()) == pytest.approx(total.seconds)
        assert min(total.shares.values()) >= 0


def explained(
    name: str, step_s: float, *rows: tuple[str, int, int, float, float], noise: float = 0.0
) -> Explained:
    draw = random.Random(name)
    cell = Cell(mechanism=name, layout="swin_pico", metric="explain", resolution=28)
    steps = [step_s * (1 + noise * draw.random()) for _ in range(12)]
    return Explained(cell, "eager", step_s, [0.001], account(*rows), steps)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (("gather", 10, 400_000, 0.004, 0.0), "bandwidth"),
        (("loop", 10, 40, 1e-6, 0.004), "launch"),
        (("slow", 10, 40, 0.004, 0.0), "rest"),
        (("dense", 2 * 10**6, 40, 0.004, 0.0), "arithmetic"),
    ],
)
def test_the_diagnosis_names_the_largest_reason_and_where_it_is(
    row: tuple[str, int, int, float, float], says: str
) -> None:
    baseline = explained("shifted_window", 0.0011, ("base", 10**5, 40, 0.001, 0.0001))
    own = explained("bra", 0.0051, ("base", 10**5, 40, 0.001, 0.0001), row)
    found = Comparison(own, baseline, ROOF, Setting(CPU, "infer", "fp32", 1, 28))
    assert sum(found.gap().values()) == pytest.approx(0.004)
    assert max(found.gap(), key=lambda share: found.gap()[share]) == says
    sentence = found.sentence()
    assert sentence.startswith("bra takes 4.64 times as long as shifted_window")
    assert f"is {says}" in sentence
    assert f"is in {row[0]} " in sentence


def test_no_gap_is_said_to_be_none() -> None:
    models = [explained(name, 0.0011, ("base", 10**5, 40, 0.001, 0.0001)) for name in ("bra", "full")]
    found = Comparison(models[0], models[1], ROOF, Setting(CPU, "infer", "fp32", 1, 28))
    assert "no gap to explain" in found.sentence()


def test_steps_that_do_not_differ_beyond_their_interval_are_not_explained() -> None:
    """The quickest steps differ by 5 %, in what no operator accounts for; the interval holds 1."""
    rows = ("base", 10**5, 40, 0.001, 0.0001)
    for own_s, noise, told in ((0.00105, 0.5, False), (0.0007, 0.05, True)):
        own, baseline = (
            explained("bra", own_s, rows, noise=noise),
            explained("full", 0.0011, rows, noise=noise),
        )
        found = Comparison(own, baseline, ROOF, Setting(CPU, "infer", "fp32", 1, 28))
        times = found.times()
        assert times is not None
        assert (times.low <= 1 <= times.high) is not told
        assert ("cannot tell them apart" in found.sentence()) is not told
        assert ("of what it saves is outside" in found.sentence()) is told
        assert f"{times.low:.2f} to {times.high:.2f}" in found.sentence()


def test_a_share_larger_than_the_gap_is_told_in_milliseconds() -> None:
    own = explained("bra", 0.0021, ("base", 10**5, 40, 0.002, 0.0001))
    baseline = explained("full", 0.0011, ("base", 10**5, 40, 0.0001, 0.001))
    found = Comparison(own, baseline, ROOF, Setting(CPU, "infer", "fp32", 1, 28))
    assert sum(found.gap().values()) == pytest.approx(0.001)
    assert "it spends 1.90 ms more on rest and 0.90 ms less on the rest" not in found.sentence()
    assert "ms less on the others" in found.sentence()
    assert "%" not in found.sentence().partition(":")[2]


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_operators_of_a_block_are_those_between_its_begin_and_its_end(mode: str) -> None:
    subject = Subject.prepare(PICO, Setting(CPU, mode, "fp32", 2, 28))
    places, spans = Places(subject.model), list[tuple[int, int]]()
    with Watch() as watch, ExitStack() as hooks:

        def ran(*_: Any) -> int:
            left_out = (*ALLOCATIONS, "_record_function_enter_new", "_record_function_exit")  # profiler::
            return len([name for name, _ in watch.seen if name not in left_out])

        begins: list[int] = []
        for block in places.modules(subject.model):
            hooks.callback(block.register_forward_pre_hook(lambda *_: begins.append(ran())).remove)
            hooks.callback(block.register_forward_hook(lambda *_: spans.append((begins[-1], ran()))).remove)
        subject.step()
        assert ran() == len(subject.operators)
    assert len(spans) == len(places.blocks) == len(set(places.blocks))
    for path, (begin, end) in zip(places.blocks, spans, strict=True):
        its = [
            index
            for index, operator in enumerate(subject.operators)
            if operator.place.block == path and operator.direction == "forward"
        ]
        assert its == list(range(begin, end))


def off_by(own: Explained) -> list[float]:
    """How far, relatively, sums are from what they should be."""
    inside = sum(row.seconds for (part, _), row in own.phases.items() if part != "model")
    outside = sum(row.seconds for (part, _), row in own.phases.items() if part == "model")
    ratios = [
        sum(block.whole.seconds for block in own.blocks) / inside,  # phases of blocks: all of them
        sum(block.operators_s for block in own.blocks) / sum(own.watched_s),  # timed from outside
        (inside + outside) / own.step_s,  # a step that nothing watches
    ]
    return [abs(ratio - 1) for ratio in ratios]


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_phases_add_up_to_the_block_and_blocks_to_the_model(mode: str) -> None:
    """With times that no machine disturbs, and a profiler that takes as long for each event."""
    subject = Subject.prepare(PICO, Setting(CPU, mode, "fp32", 2, 28))
    draw, count = random.Random(0), len(subject.operators)
    busy, gap = ([draw.random() for _ in range(count)] for _ in range(2))
    its_own = 1e-3  # seconds of the profiler for each of an operator's two events
    subject.plain_s = [sum(busy) + sum(gap)]
    forward = dict.fromkeys(Places(subject.model).blocks, 0.0)
    for operator, *seconds in zip(subject.operators, busy, gap, strict=True):
        if operator.place.block and operator.direction == "forward":
            forward[operator.place.block] += sum(seconds)
    subject.blocks_s = [list(forward.values())]
    longer = ([s + its_own for s in seconds] for seconds in (busy, gap))
    one = [1] * count
    subject.timelines = [Timeline(*longer, one, one, one, subject.plain_s[0] + 2 * count * its_own)]
    accounted = subject.account(ROOF, 1.0)
    own = Explained(PICO, "", subject.step_s(), subject.block_s(), accounted, subject.plain_s)
    assert [block.path for block in own.blocks] == list(forward)
    assert max(off_by(own)) < 1e-9


@pytest.fixture
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.skipif(
    "ATTNBENCH_IDLE" not in os.environ, reason="by the clock: ATTNBENCH_IDLE=1 on an idle machine"
)
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_phases_add_up_to_the_block_and_blocks_to_the_model_within_5_percent(mode: str) -> None:
    cell = PICO.model_copy(update={"batch_size": 16})
    subject = Subject.prepare(cell, Setting(CPU, mode, "fp32", 16, 28))
    worst = 1.0
    for _ in range(40):  # noise of the machine, which other processes make, ends with more samples
        for _ in range(5):
            subject.round()
        accounted = subject.account(ROOF, 1e-6)
        own = Explained(cell, "", subject.step_s(), subject.block_s(), accounted, subject.plain_s)
        worst = max(off_by(own))
        if worst < 0.05:
            break
    assert worst < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", ["criss_cross", "deformable", "quadtree"])
def test_recorded_operators_are_found_again_in_training(mechanism: str) -> None:
    cell = Cell(mechanism=mechanism, layout="swin_pico", metric="explain", resolution=28)
    subject = Subject.prepare(cell, Setting(CPU, "train", "amp", 1, 28))
    subject.round()
    (found,) = subject.timelines
    assert len(found.busy) == len(subject.operators)
    assert sum(found.busy) + sum(found.gap) + found.tail == pytest.approx(found.total)


def test_ceilings_are_work_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    works: list[Any] = []
    monkeypatch.setattr(roof, "_best", lambda work, device: works.append(work) or 0.5)
    found = roof.measure(CPU, "amp")
    assert found.dtype == "bfloat16"
    assert found.flops_per_s == 2 * 1536**3 / 0.5  # the larger of two products, in the same time
    assert found.bytes_per_s == 3 * 4 * 2**24 / 0.5
    assert found.launch_s == 0.5 / 2000
    results = [work() for work in works]
    assert [tuple(result.shape) for result in results] == [(768, 768), (1536, 1536), (2**24,), (1,)]
    assert results[0].dtype == torch.bfloat16
    assert results[2][0] == 3  # 1 + 2 · 1


def test_the_roof_is_the_lower_of_both_ceilings() -> None:
    assert ROOF.attainable(1e9) == ROOF.flops_per_s
    assert ROOF.attainable(0.1) == pytest.approx(1e7)
    assert ROOF.floor(10**6, 0) == pytest.approx(0.002)
    assert ROOF.floor(0, 10**6) == pytest.approx(0.01)


@pytest.fixture(scope="module")
def real() -> Comparison:
    conditions: dict[str, Any] = {"layout": "swin_pico", "metric": "explain", "resolution": 28}
    cells = Cell(mechanism="bra", impl="eager", **conditions), Cell(mechanism="timm_swin", **conditions)
    return compare(*cells, Setting(CPU, "infer", "fp32", 1, 28), Effort(rounds=2, budget_s=0))


def test_json_is_complete(real: Comparison) -> None:
    found = json.loads(json.dumps(text.content(real)))
    for model in (found["subject"], found["baseline"]):
        assert len(model["blocks"]) == 8
        total = model["total"]
        for rows in (model["phases"], model["operators"]):
            for figure in ("seconds", "macs", "moved", "calls"):
                assert sum(row[figure] for row in rows) == pytest.approx(total[figure])
        assert model["accounted_s"] + model["outside_s"] == pytest.approx(model["step_s"])
    gap = found["subject"]["step_s"] - found["baseline"]["step_s"]
    assert sum(found["gap"].values()) == pytest.approx(gap)
    assert set(found["gap"]) == {*SHARES, "outside"}
    phases = {row["phase"] for row in found["baseline"]["phases"] if row["part"] == "attention"}
    assert {"qkv", "window_partition", "proj"} <= phases  # timm's own functions


def test_the_text_says_it_first_and_shows_its_sums(real: Comparison) -> None:
    shown = text.markdown(real)
    assert shown.startswith("bra takes ")
    for part in (
        "Ceilings measured",
        "all operators",
        "slowest operators",
        "timed alone",
        "mechanisms/",
    ):
        assert part in shown


def test_a_plot_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AttnbenchError, match=r"install attnbench\[report\]"):
        check_plottable(tmp_path / "roof.png")


def test_a_plot_is_drawn(real: Comparison, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot.roofline(real, tmp_path / "roof.svg")
    assert "arithmetic intensity" in (tmp_path / "roof.svg").read_text()
    with pytest.raises(AttnbenchError, match="cannot write"):
        plot.roofline(real, tmp_path / "absent" / "roof.svg")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bar"], "unknown mechanism 'bar'"),
        (["bra", "--baseline", "swine"], "unknown mechanism 'swine'"),
        (["bra", "--mode", "inference"], "unknown mode"),
        (["bra", "--format", "xml"], "unknown format"),
        (["timm_swin", "--impl", "sdpa"], "takes no --impl"),
        (["bra", "--seconds", "0"], "'--seconds': must be"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    said = call("explain", *arguments, cwd=tmp_path)
    assert not said.accepted()
    assert says in said.err


def test_the_command_prints_json(tmp_path: Path) -> None:
    arguments = [
        "identity",
        "--layout",
        "swin_pico",
        "--seconds",
        "1",
        "--format",
        "json",
        "--baseline",
        "none",
    ]
    result = CliRunner().invoke(command.command, [*arguments, "--output", str(tmp_path / "why.json")])
    assert result.exit_code == 0, result.exception
    found = json.loads((tmp_path / "why.json").read_text())
    assert found["baseline"] is None
    assert found["gap"] == {}
    assert "its attention runs no operator" in found["diagnosis"]


class Fused(HigherOrderOperator):
    """A higher-order operator, as flex attention is one."""

    def __init__(self) -> None:
        super().__init__("attnbench_test_fused")

    def __call__(self, x: Tensor) -> Any:
        return super().__call__(x)


class Fusing(nn.Module):
    """A model with no attention."""

    def attentions(self) -> list[nn.Module]:
        return []


def test_a_higher_order_operator_is_refused() -> None:
    fused = Fused()
    fused.py_impl(torch._C.DispatchKey.CompositeExplicitAutograd)(torch.relu)

    @fused.py_impl(torch._C.DispatchKey.Autograd)
    def below(x: Tensor) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return fused(x)

    with pytest.raises(AttnbenchError, match=r"attnbench_test_fused .* explain another --impl"):
        record(lambda: fused(torch.ones(3)), Fusing())
