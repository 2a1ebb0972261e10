"""Probes: generated tasks that tell mechanisms apart for a stated reason, and how a run of one is scored."""
