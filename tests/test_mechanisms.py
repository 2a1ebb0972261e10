"""Every registered mechanism holds the whole conformance suite. A new file is tested with no test written."""

from attnbench import checks


@checks.parametrize()
def test_mechanism_conforms(mechanism: str, check: str) -> None:
    checks.assert_passes(mechanism, check)
