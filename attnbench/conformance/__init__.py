"""The checks of the conformance suite, by subject; :mod:`attnbench.checks` runs them."""
