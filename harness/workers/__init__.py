"""Processes in which cells are measured, so that a crash costs one cell."""
