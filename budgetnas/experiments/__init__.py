"""Experiments around a search: the final evaluation, replays of published runs, comparison of optimisers."""
