"""Distinct candidates of a study's own space, to be queued."""

from __future__ import annotations

import random

from budgetnas.searching.study import OpenStudy
from budgetnas.space.ranges import Params, draw_evenly


def queue_drawn(opened: OpenStudy, number: int, generator: random.Random) -> None:
    """Queue so many distinct candidates within the budget."""
    for params in drawn(opened, number, generator):
        opened.optuna_study.enqueue_trial(params)


def drawn(opened: OpenStudy, number: int, generator: random.Random) -> list[Params]:
    """Return so many distinct candidates within the budget, by their parameters."""
    space, budget = opened.specification.candidates, opened.specification.budget
    ranges = space.ranges()
    found: dict[tuple[str, str], Params] = {}
    while len(found) < number:
        params = space.space.draw_feasible(space.inputs, budget, generator)
        params["optimizer"] = draw_evenly(ranges["optimizer"], generator)
        params |= {name: draw_evenly(ranges[name], generator) for name in space.names(params) if name not in params}
        found[space.candidate(params).key] = params
    return list(found.values())
