"""Throughput: samples of time and what they say."""
