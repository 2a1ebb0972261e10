"""The checks of the conformance suite, by subject; :mod:`attnbench.harness.conformance.checks` runs them."""
