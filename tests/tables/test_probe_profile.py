"""Records of probes become tables: what was asked, what guessing is worth, why a row stands where it does."""

import csv
import io
import json

import pytest

from attnbench.record import Cell, Measurement
from attnbench.tables import probe_profile, probe_text

GUESS = 12.5
DETAILS = {
    "budget": {"steps": 300, "batch_size": 32, "rates": [0.001, 0.003]},
    "rate": 0.003,
    "did_train": True,
    "guessing_loss": 2.08,
    "shares": {},
    "chance": GUESS,
    "floor": GUESS,
}


def records(
    mechanism: str, accuracy: float, hops: dict[str, tuple[float, float]], *, seed: int = 0, **details: object
) -> list[Measurement]:
    """Of one training: ``hops`` gives percent right and percent of the questions."""
    cell = Cell(
        mechanism=mechanism,
        layout="probe",
        metric="probe",
        resolution=32,
        seed=seed,
        dataset="retrieval_dense",
        dataset_digest="d",
        machine="m",
        torch="2",
    )
    shares = {name: share for name, (_, share) in hops.items()}
    all_details = DETAILS | {"shares": shares} | details
    found = [Measurement.of(cell, "accuracy", accuracy, "%", details=all_details)]
    found += [Measurement.of(cell, name, right, "%") for name, (right, _) in hops.items()]
    return [*found, Measurement.of(cell, "train_loss", 1.5, "nats")]


FULL = {"one_hop": (100.0, 100.0)}
WINDOW = {"one_hop": (98.0, 30.0), "composed": (13.0, 25.0), "out_of_reach": (12.0, 45.0)}
NOTHING = {"out_of_reach": (12.4, 100.0)}


def table(*groups: list[Measurement], form: str = "md") -> str:
    found = [m for group in groups for m in group]
    return probe_text.render(probe_profile.profiles(found), form)


def why(*groups: list[Measurement]) -> str:
    (profile,) = probe_profile.profiles([m for group in groups for m in group])
    (row,) = profile.rows.values()
    return probe_profile.why(row, profile)


def test_a_table_says_what_was_asked_and_what_guessing_is_worth() -> None:
    text = table(records("full", 100.0, FULL), records("identity", 12.4, NOTHING))
    assert "find the cell with your glyph" in text
    assert "Guessing is right in 12.5 %" in text
    assert "300 steps of 32 pictures; the better of 2 learning rates" in text
    assert text.index("| Full") < text.index("| Identity")
    assert "Of rows of fewer than 3 seeds nothing is said" in text


@pytest.mark.parametrize(
    ("accuracy", "hops", "reason"),
    [
        (100.0, FULL, "answers what it reads (100 %)"),
        (39.0, WINDOW, "answers what it reads (30 %); does not compose (25 %); guesses out of reach (45 %)"),
        (12.4, NOTHING, "guesses out of reach (100 %)"),
        (50.0, {"one_hop": (60.0, 80.0), "composed": (20.0, 20.0)}, "60 % right in what it reads (80 %)"),
        (50.0, {"one_hop": (60.0, 80.0), "composed": (20.0, 20.0)}, "composes: 20 % right (20 %)"),
        (
            30.0,
            {"out_of_reach": (30.0, 100.0)},
            "30 % right OUT OF REACH: reads more than it says (100 %)",
        ),
    ],
)
def test_the_reason_follows_from_the_hops(
    accuracy: float, hops: dict[str, tuple[float, float]], reason: str
) -> None:
    assert reason in why(records("mine", accuracy, hops))


def test_a_model_that_did_not_train_is_said_so_with_its_loss() -> None:
    text = why(records("mine", 12.6, {"one_hop": (12.6, 100.0)}, did_train=False))
    assert text.startswith("did not train in any seed (loss 1.50; guessing 2.08)")
    both = records("mine", 12.6, {"one_hop": (12.6, 100.0)}, did_train=False)
    both += records("mine", 99.0, {"one_hop": (99.0, 100.0)}, seed=1)
    assert "did not train in 1 of 2 seeds" in why(both)


def test_intervals_and_letters_are_over_seeds() -> None:
    groups = [records("full", 100.0 - 0.1 * seed, FULL, seed=seed) for seed in range(5)]
    groups += [records("shifted_window", 39.0 + 0.3 * seed, WINDOW, seed=seed) for seed in range(5)]
    groups += [records("sliding_window", 39.1 + 0.2 * seed, WINDOW, seed=seed) for seed in range(5)]
    rows = {row["mechanism"]: row for row in csv.DictReader(io.StringIO(table(*groups, form="csv")))}
    assert rows["full"]["letters"] == "a"
    assert rows["shifted_window"]["letters"] == rows["sliding_window"]["letters"] == "b"
    assert float(rows["full"]["half_width"]) == pytest.approx(0.196, abs=0.002)
    assert "The typical pair is told apart from" in table(*groups)


def test_another_budget_is_no_part_of_the_row() -> None:
    first = records("full", 100.0, FULL) + records("identity", 12.5, NOTHING)
    other = [
        Measurement.of(m.cell.model_copy(update={"recipe": "other"}), m.name, 1.0, m.unit, details=m.details)
        for m in records("full", 50.0, FULL, seed=1)
    ]
    other = [m.model_copy(update={"created": "2000-01-01T00:00:00+00:00"}) for m in other]
    (profile,) = probe_profile.profiles([*other, *first])
    assert profile.rows["full"].seeds == 1
    assert profile.rows["full"].values["accuracy"] == {0: 100.0}


def test_a_failure_is_a_row_with_its_reason() -> None:
    cell = records("full", 1.0, FULL)[0].cell.model_copy(update={"mechanism": "broken"})
    failed = Measurement.of(cell, "probe", None, "", status="failed", reason="ValueError: too wide")
    text = table(records("full", 100.0, FULL), [failed])
    assert "failed: ValueError: too wide" in text


def test_rank_correlation_with_imagenet_stands_below() -> None:
    names = ("shifted_window", "criss_cross", "cross_shaped", "bra", "deformable")
    text = table(*(records(name, 30.0 + i, WINDOW) for i, name in enumerate(names)))
    assert "Kendall's τ with the published ImageNet accuracy of 5 mechanisms" in text
    assert "Kendall" not in table(records("full", 100.0, FULL))


def test_json_has_every_row() -> None:
    rows = json.loads(table(records("full", 100.0, FULL), records("identity", 12.4, NOTHING), form="json"))
    assert [row["mechanism"] for row in rows] == ["full", "identity"]
    assert rows[1]["share_out_of_reach"] == 100.0


@pytest.mark.parametrize(
    ("answers", "reason"), [(2048, "guesses out of reach"), (20480, "15 % right OUT OF REACH")]
)
def test_more_than_guessing_is_told_from_the_scatter_of_guessing(answers: int, reason: str) -> None:
    """Of 1843 guesses 14.6 % being right is 2.8 standard errors off, as one row in hundreds is."""
    hops = {"one_hop": (93.0, 10.0), "out_of_reach": (14.6, 90.0)}
    assert reason in why(records("mine", 22.0, hops, answers=answers))
