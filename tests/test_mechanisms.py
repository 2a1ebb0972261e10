"""Every registered mechanism holds the whole conformance suite. A new file is tested with no test written."""

from attnbench import get, names
from attnbench.harness.conformance import checks

DYNAMIC = {"bra": "query", "quadtree": "query", "deformable": "image"}


@checks.parametrize()
def test_mechanism_conforms(mechanism: str, check: str) -> None:
    checks.assert_passes(mechanism, check)


def test_who_is_dynamic() -> None:
    """As declared; that it is so is measured above, by the check ``pattern``."""
    assert {name: get(name).facts.pattern for name in names()} == {
        name: DYNAMIC.get(name, "static") for name in names()
    }
