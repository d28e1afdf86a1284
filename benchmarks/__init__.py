"""Measurements of this program, each a module to run from the root of the repository: `python -m benchmarks.NAME`."""
