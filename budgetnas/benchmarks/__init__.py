"""Measurements of this program, each a module to run: `python -m budgetnas.benchmarks.NAME`."""
