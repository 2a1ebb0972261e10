"""Data sets and probes, one file each; :mod:`attnbench.datasets` finds them by listing this folder."""
