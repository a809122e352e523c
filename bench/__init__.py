"""Benchmarks: what we claim, measured beside our peers on the same work in one go."""
