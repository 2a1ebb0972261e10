"""The probes that ship in results/: what they show of mechanisms whose reach is known."""

from pathlib import Path

import pytest

from attnbench import registry, seeds, store
from attnbench.tables.probe_profile import Profile, Row, profiles

PROFILES = {
    p.probe: p for p in profiles(store.read(Path(__file__).parents[1] / "results" / "records", pytest.fail))
}
DENSE = "retrieval_dense"
SEPARATING = sorted(set(PROFILES) - {"texture"})
"""All but the control, which every model solves."""
SEED_MECHANISMS = (
    "full", "shifted_window", "sliding_window", "spatially_separable", "sequential_axial", "criss_cross",
    "cross_shaped", "deformable", "dilated", "quadtree", "neighborhood", "bra",
)  # fmt: skip


def mean(row: Row, name: str) -> float:
    found = row.mean(name)
    assert found is not None, name
    return found.value


def test_full_attention_answers_everything_and_windows_what_lies_in_them() -> None:
    rows = PROFILES[DENSE].rows
    assert mean(rows["full"], "accuracy") > 99
    for name in ("shifted_window", "sliding_window"):
        assert mean(rows[name], "one_hop") > 95, name


@pytest.mark.parametrize("probe", SEPARATING)
def test_without_attention_a_model_stands_at_the_floor(probe: str) -> None:
    profile = PROFILES[probe]
    assert profile.floor is not None
    assert abs(mean(profile.rows["identity"], "accuracy") - profile.floor) <= 2


@pytest.mark.parametrize("probe", SEPARATING)
def test_out_of_reach_is_chance_for_static_mechanisms(probe: str) -> None:
    profile: Profile = PROFILES[probe]
    for row in profile.rows.values():
        static = registry.get(row.name).facts.pattern == "static"
        if static and (found := row.mean("out_of_reach")) is not None and row.share("out_of_reach") >= 2:
            assert abs(found.value - profile.chance) <= 2, row.name


def test_half_of_the_pairs_are_told_apart_by_some_probe() -> None:
    found: set[frozenset[str]] = set()
    for profile in PROFILES.values():
        found |= {pair for pair in seeds.apart(profile.accuracies()) if pair <= set(SEED_MECHANISMS)}
    assert len(found) >= 33
