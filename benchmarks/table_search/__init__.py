"""Searches simulated on a table of trained networks: the parts of `python -m benchmarks.search`."""
