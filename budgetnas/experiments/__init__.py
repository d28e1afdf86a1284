"""Trainings beside a search: the final, replays of published runs, and the comparison of optimisers."""
