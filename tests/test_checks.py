"""Each check rejects the liar made for it, and no other; an honest mechanism passes all."""

import importlib.util
import sys
from pathlib import Path

import pytest

from attnbench import checks


def _load_liars() -> object:
    path = Path(__file__).parent / "liars.py"
    spec = importlib.util.spec_from_file_location("attnbench_liars", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that its classes can be pickled
    spec.loader.exec_module(module)
    return module


liars = _load_liars()


@pytest.mark.parametrize("name", liars.SPECS)
def test_liar_is_caught_by_the_checks_named_for_it_alone(name: str) -> None:
    results = checks.check_mechanism(liars.SPECS[name])
    failed = {result.check: result.why for result in results if result.failed}
    assert set(failed) == set(liars.CAUGHT_BY[name]), failed
    for result in results:
        assert result.passed or result.failed or result.skipped
        if result.failed:
            assert result.reproduce.startswith(f"attnbench check {name} ")
            assert f"--only {result.check}" in result.reproduce


def test_every_check_has_a_liar() -> None:
    caught = {check for checks in liars.CAUGHT_BY.values() for check in checks}
    shapes = {"odd_sizes", "single_row_or_column", "smaller_than_window", "larger_than_nominal"}
    assert {check.name for check in checks.iter_checks()} - shapes == caught
