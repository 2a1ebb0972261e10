"""The conformance suite, check by check."""

from attnbench.harness.conformance import checks


@checks.parametrize("row_attention")
def test_conformance(mechanism: str, check: str) -> None:
    checks.assert_passes(mechanism, check)
