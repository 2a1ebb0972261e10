"""Mechanisms beside their official code, on the same map with the same weights."""
