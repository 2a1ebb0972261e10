"""Probes as they are trained: the claims that docs/probes.md rests on, and a mechanism that reads too far.

The slow tests train small models, about five seconds each on an idle core. None asks for a time.
"""

import json
from functools import cache
from pathlib import Path
from statistics import median

import pytest
import torch
from click.testing import CliRunner

from attnbench import AttnbenchError, datasets, plugins, registry, store
from attnbench.commands.probe import command
from attnbench.harness.conformance import checks
from attnbench.harness.probes import campaign, fitting, measure, scoring, show
from attnbench.harness.probes.probe import Draw
from attnbench.record import Cell, Measurement

DENSE = "retrieval_dense"

LEAKING = """
import torch
from torch import Tensor, nn
from attnbench import Site, register_mechanism


@register_mechanism("leaking", title="Says it reads its row, reads everything", pattern="static")
class Leaking(nn.Module):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self.heads = site.num_heads
        self.qkv, self.proj = nn.Linear(site.dim, 3 * site.dim), nn.Linear(site.dim, site.dim)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        q, k, v = self.qkv(x).view(B, H * W, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(B, H, W, C))

    def support(self, height: int, width: int) -> Tensor:
        row = torch.arange(height * width) // width
        return row[:, None] == row
"""

PROBE = '''
import torch
from attnbench.datasets import register_dataset
from attnbench.harness.probes.probe import Draw, Probe


@register_dataset("brightness", title="Brightness", task="probe", num_classes=2, layouts=("probe",))
class Brightness(Probe):
    """Every cell says whether it is bright."""

    num_classes, chance, floor = 2, 50.0, 100.0
    question = "are you bright?"
    steps, batch_size = 40, 8

    def draw(self, generator, count, side):
        bright = torch.randint(2, (count, side**2), generator=generator)
        noise = torch.randint(-2, 3, (count, side**2), generator=generator) / 8
        shade = (bright * 2 - 1 + noise).view(count, 1, side, side)
        images = shade.repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1).contiguous()
        return Draw(images, bright, torch.arange(side**2).repeat(count, 1))
'''


def cell(mechanism: str, probe: str = DENSE, **fields: object) -> Cell:
    return Cell(mechanism=mechanism, metric="probe", **{**campaign.conditions(probe), **fields})


@cache
def trained(mechanism: str, seed: int = 0, **options: object) -> dict[str, float]:
    """Values of a mechanism trained on dense retrieval at the rate that its grid chooses in results/."""
    torch.set_num_threads(1)
    of = cell(mechanism, seed=seed, options=options)
    found = measure.measure(of, campaign.budget_of(DENSE), rates=(3e-3,))
    return {m.name: float(m.value) for m in found if m.value is not None}


def near(value: float, probe: str = DENSE) -> bool:
    return abs(value - datasets.get(probe).load().chance) <= 2


@pytest.mark.slow
def test_full_attention_answers_everything() -> None:
    assert trained("full")["accuracy"] > 99


@pytest.mark.slow
def test_windows_answer_what_lies_in_a_window_and_guess_what_no_window_reaches() -> None:
    found = [trained("shifted_window", seed) for seed in range(3)]  # one of five answers 92 %
    assert median(of_seed["one_hop"] for of_seed in found) > 95
    assert all(near(of_seed["out_of_reach"]) for of_seed in found)


@pytest.mark.slow
def test_a_model_without_attention_guesses() -> None:
    assert near(trained("identity")["accuracy"])


@pytest.mark.slow
def test_reach_is_not_enough_for_criss_cross() -> None:
    """Two blocks reach every cell; what needs both is hardly answered."""
    found = trained("criss_cross")
    assert found["one_hop"] > 95
    assert found["composed"] < 30


@pytest.mark.slow
@pytest.mark.usefixtures("isolated_registry")
def test_a_mechanism_that_reads_beyond_its_support_is_shown_by_the_probe_and_by_check(tmp_path: Path) -> None:
    path = tmp_path / "leaking.py"
    path.write_text(LEAKING)
    registry.add_plugin(path)
    of = cell("leaking")
    found = measure.measure(of, campaign.budget_of(DENSE), rates=(3e-3,))
    values = {m.name: m.value for m in found}
    assert values["out_of_reach"] > 90
    (result,) = (r for r in checks.check_mechanism("leaking", only=["support"]) if r.check == "support")
    assert result.failed
    assert "which support() denies" in str(result)


def quick(mechanism: str, **fields: object) -> list[Measurement]:
    budget = fitting.Budget(steps=4, batch_size=2, rates=(1e-3, 3e-3))
    return measure.measure(cell(mechanism, **fields), budget)


def test_a_seed_gives_the_same_numbers_again() -> None:
    first, again, other = (quick("shifted_window", seed=seed) for seed in (1, 1, 2))
    assert [m.value for m in first] == [m.value for m in again]
    assert first[-1].value != other[-1].value
    details = first[0].details
    assert [attempt["rate"] for attempt in details["tried"]] == [1e-3, 3e-3]
    assert details["rate"] in (1e-3, 3e-3)
    assert len(details["trace"]) == 4
    assert not details["did_train"]


def test_test_pictures_are_the_same_for_all_models_and_no_training_picture() -> None:
    probe = datasets.get(DENSE).load()
    one = scoring.pictures(probe, 8, "test", 32, 8, "cpu")
    assert one is scoring.pictures(probe, 8, "test", 32, 8, "cpu")
    stream = probe(8).sample(torch.Generator().manual_seed(0), 300, "train").images
    seen = {image.numpy().tobytes() for image in stream}
    assert not seen & {image.numpy().tobytes() for image in one.images}


class _Says(torch.nn.Module):
    """A model that always gives one answer."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(images), 8, 8, 2)
        logits[..., self.answer] = 1
        return logits


@pytest.mark.parametrize("answer", [0, 1])
def test_one_answer_for_all_is_half_right_where_classes_count_alike(answer: int) -> None:
    probe = datasets.get("flood").load()(8)
    draw: Draw = scoring.pictures(type(probe), 8, "test", 32, 8, "cpu")
    assert scoring.score(_Says(answer), probe, draw).accuracy == 50.0  # type: ignore[arg-type]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, [*arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.mark.usefixtures("isolated_registry")
def test_the_command_trains_once_and_prints_what_was_asked(tmp_path: Path) -> None:
    given = (DENSE, "--mechanisms", "full,identity", "--steps", "2", "--out", str(tmp_path))
    text = run(*given, "--seeds", "2")
    assert "find the cell with your glyph" in text
    assert "did not train in any seed" in text
    lines = (tmp_path / "records").glob("*.jsonl")
    count = sum(len(path.read_text().splitlines()) for path in lines)
    assert run(*given, "--seeds", "2") == text
    records = store.read(tmp_path / "records", pytest.fail)
    assert len(records) == count
    assert {(m.cell.mechanism, m.cell.seed) for m in records} == {
        (name, seed) for name in ("full", "identity") for seed in (0, 1)
    }
    rows = json.loads(run(DENSE, "--records", str(tmp_path / "records"), "--format", "json"))
    assert {row["seeds"] for row in rows} == {2}


@pytest.mark.usefixtures("isolated_registry")
def test_a_probe_and_a_mechanism_from_plug_in_files_work_without_an_edit(tmp_path: Path) -> None:
    for name, text in (("brightness", PROBE), ("leaking", LEAKING)):
        (tmp_path / f"{name}.py").write_text(text)
        plugins.add(tmp_path / f"{name}.py")
    text = run("brightness", "--mechanisms", "leaking,identity", "--out", str(tmp_path / "out"))
    assert "are you bright?" in text
    assert "Says it reads its row" in text
    rows = json.loads(run("brightness", "--records", str(tmp_path / "out" / "records"), "--format", "json"))
    assert {row["mechanism"]: row["accuracy"] > 90 for row in rows} == {"leaking": True, "identity": True}


def test_who_cannot_stand_on_a_probes_rung_is_as_its_authors_have_it_and_says_so() -> None:
    for name, told in (("full", ""), ("identity", "identity cannot carry position codes")):
        of = cell(name, "offset")
        model, why = measure.build(of, measure.probe_of(of))
        assert why.startswith(told)
        assert bool(why) == bool(told)
        assert any("position" in part for part, _ in model.named_modules()) == (not told)
    asked = cell("identity", "offset", options={"rung": "bias"})
    with pytest.raises(AttnbenchError, match="cannot carry position codes"):
        measure.build(asked, measure.probe_of(asked))


@pytest.mark.usefixtures("isolated_registry")
def test_a_mechanism_that_fails_is_a_record_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "leaking.py"
    path.write_text(LEAKING.replace("B, H, W, C = x.shape", "raise ValueError('on purpose')"))
    registry.add_plugin(path)
    with pytest.raises(AttnbenchError, match=r"nothing could be trained: leaking on .*on purpose"):
        run(DENSE, "--mechanisms", "leaking", "--steps", "2", "--out", str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("retrieval",), "unknown probe 'retrieval'"),
        ((DENSE, "--mechanisms", "fulll"), "did you mean full"),
        ((DENSE, "--seeds", "0"), "must be a whole number from 1"),
        ((DENSE, "--rates", "fast"), "must be a number above 0 and below 1"),
        ((DENSE, "--format", "xml"), "format 'xml'"),
        ((DENSE, "--layout", "prob"), "layout 'prob'"),
        ((DENSE, "--records", "nowhere"), "there is no file or folder nowhere"),
        ((DENSE, "--show", "picture.txt"), "must end with one of"),
    ],
)
def test_wrong_input_is_one_clear_line(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    extra = () if "--records" in arguments else ("--out", str(tmp_path))
    result = CliRunner().invoke(command, [*arguments, *extra])
    assert result.exit_code != 0
    text = str(result.exception) if isinstance(result.exception, AttnbenchError) else result.output
    assert told in " ".join(text.split())


def test_pyramids_answer_for_the_picture_alone(tmp_path: Path) -> None:
    small = ("--layout", "swin_pico", "--mechanisms", "identity", "--steps", "4", "--out", str(tmp_path))
    text = run("majority", *small)
    assert "layout swin_pico" in text
    assert "what identity has" in text
    with pytest.raises(AttnbenchError, match="asks single cells; swin_pico, of 4 stages, answers"):
        run(DENSE, "--layout", "swin_pico", "--mechanisms", "full", "--out", str(tmp_path))


def test_examples_can_be_read_and_drawn(tmp_path: Path) -> None:
    for name in datasets.names("probe"):
        assert datasets.get(name).load().question in show.in_words(name)
    words = show.in_words(DENSE)
    assert "14 of 64 cells are asked" in words
    assert "which cell" in words
    pytest.importorskip("matplotlib")
    run("--show", str(tmp_path / "all.png"))
    assert (tmp_path / "all.png").stat().st_size > 10_000
