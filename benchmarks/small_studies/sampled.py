"""Searches with several samplers on real data, and what each rule of choice came to when it was trained afresh."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import typer
from sqlalchemy import URL

from benchmarks.small_studies.make import Design, fresh_accuracies, search_request, train_afresh
from benchmarks.small_studies.quiet import Quiet
from budgetnas.errors import EXIT_DONE, BudgetnasError
from budgetnas.metrics import Interval, difference_interval
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.reopen import DataPlace, study_specification
from budgetnas.samplers.named import BUDGET, search_sampler
from budgetnas.searching.callbacks import TrialEnd
from budgetnas.searching.session import run_search
from budgetnas.searching.study import OpenStudy, open_study
from budgetnas.space.candidates import Candidate
from budgetnas.storage import SEARCHED, Records, Role, Run, State
from budgetnas.training import runtime_rules


def best_single(opened: OpenStudy) -> Candidate:
    """Return the candidate of the training with the highest accuracy."""
    runs = [run for run in opened.records.runs(study=opened.name) if run.role in SEARCHED]
    complete = [run for run in runs if run.state is State.COMPLETE]
    curves = opened.records.curves(run.id for run in complete)
    best = max(complete, key=lambda run: (curves[run.id][-1].eval_accuracy, -run.params, -run.id))
    return best.candidate


def recommended(opened: OpenStudy) -> Candidate:
    """Return the candidate that the sampler for budgets names, whichever sampler made the study."""
    told = opened.specification
    sampler = search_sampler(BUDGET, 0, told.candidates, told.budget, len(opened.optuna_study.trials))
    assert hasattr(sampler, "recommend"), "the sampler for budgets has it"
    return told.candidates.candidate(sampler.recommend(opened.optuna_study).params)


MORE_TRIALS: Final = 2
"""Trials that a pruned search plans with, for each trial of a search without a pruner."""
_ENDED: Final = (State.COMPLETE, State.PRUNED)
RULES: Final[Mapping[str, Callable[[OpenStudy], Candidate]]] = {"single": best_single, "recommend": recommended}


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one search came to.

    Attributes:
        sampler: Its sampler.
        seed: The sampler's seed.
        epochs: Epochs that were trained in the search.
        trainings: Its trainings, the pruned ones included.
        complete: Its complete trainings.
        repeats: How many of its trainings repeated a candidate.
        fresh: By rule the mean accuracy of the fresh trainings of the candidate that it names, a share of 1.
    """

    sampler: str
    seed: int
    epochs: int
    trainings: int
    complete: int
    repeats: int
    fresh: Mapping[str, float]


class EpochLimit(Quiet):
    """Ends a search when the next trial could exceed the number of epochs in all.

    Args:
        stopper: Ends the search.
        records: The search's records.
        study: Name of the search.
        epochs: Epochs of a complete trial.
        limit: Epochs of all trials.
    """

    def __init__(self, stopper: Stopper, records: Records, study: str, epochs: int, limit: int) -> None:
        self._stopper, self._records, self._study = stopper, records, study
        self._most = limit - epochs

    def on_trial_end(self, end: TrialEnd) -> None:
        """Stop the search after a trial if there are too few epochs for another."""
        if self.is_over():
            self._stopper.stop(EXIT_DONE)

    def is_over(self) -> bool:
        """Return whether there are too few epochs for another trial."""
        return sum(run.epochs_done for run in _counted(self._records, self._study)) > self._most


def make_sampled(design: Design, records: Records, url: URL, arm: str, seed: int) -> None:
    """Make a search and the fresh trainings of what it names, or what is missing of them.

    Args:
        design: What is the same for all searches.
        records: Records of the storage.
        url: The storage.
        arm: The sampler; with a pruner SAMPLER+PRUNER. Pruned searches have more trials, until the epochs are used.
        seed: Seed of the sampler.
    """
    name, started = f"{arm}/{seed}", time.monotonic()
    sampler, _, pruner = arm.partition("+")
    trials = design.trials * (MORE_TRIALS if pruner else 1)
    stopper = Stopper()
    view = EpochLimit(stopper, records, name, design.epochs, design.trials * design.epochs)
    with stopper.listening():
        while not view.is_over():
            asked = search_request(replace(design, sampler=sampler, trials=trials), seed, name, pruner=pruner or "none")
            searched = run_search(asked, stopper, view)
            if not searched.outcome.finished and not view.is_over():
                raise BudgetnasError(f"study {name} did not finish")
            trials += design.trials
    stopper, runtime = Stopper(), runtime_rules("auto", "auto")
    with stopper.listening():
        place = DataPlace(design.data.name, design.data.data_dir)
        candidates = list(_named(records, url, name).values())
        train_afresh(records, name, candidates, design.fresh, place, runtime, stopper, Quiet())
    typer.echo(f"{name}: {time.monotonic() - started:.0f} s", err=True)


def _counted(records: Records, study: str) -> list[Run]:
    return [run for run in records.runs(study=study) if run.role in SEARCHED and run.state in _ENDED]


def read_sampled(records: Records, url: URL) -> list[Sampled]:
    """Return what every search of a storage came to that has its fresh trainings."""
    found = (_read(records, url, name) for name in records.study_names() if "/" in name)
    return sorted((one for one in found if one is not None), key=lambda one: (one.sampler, one.seed))


def _read(records: Records, url: URL, study: str) -> Sampled | None:
    runs = _counted(records, study)
    if not any(run.state is State.COMPLETE for run in runs):
        return None
    fresh = {rule: fresh_accuracies(records, study, one) for rule, one in _named(records, url, study).items()}
    if not all(len(one) == max(map(len, fresh.values())) > 0 for one in fresh.values()):
        return None
    sampler, _, seed = study.partition("/")
    return Sampled(
        sampler=sampler,
        seed=int(seed),
        epochs=sum(run.epochs_done for run in runs),
        trainings=len(runs),
        complete=sum(run.state is State.COMPLETE for run in runs),
        repeats=sum(run.role is Role.REPEAT for run in runs),
        fresh={rule: statistics.fmean(values) for rule, values in fresh.items()},
    )


def _named(records: Records, url: URL, study: str) -> dict[str, Candidate]:
    opened = open_study(url, records, study, study_specification(records, study))
    try:
        return {rule: choose(opened) for rule, choose in RULES.items()}
    finally:
        opened.close()


def sampled_lines(searches: Sequence[Sampled]) -> Iterator[str]:
    """Yield one line for each search, then the comparisons of each sampler with the others, in points of accuracy."""
    yield f"| sampler | seed | epochs | trainings | complete | repeats | {' | '.join(f'{r}, fresh' for r in RULES)} |"
    yield f"|---|---:|---:|---:|---:|---:|{'---:|' * len(RULES)}"
    for one in searches:
        cells = " | ".join(f"{100 * one.fresh[rule]:.2f}" for rule in RULES)
        made = f"{one.epochs} | {one.trainings} | {one.complete} | {one.repeats}"
        yield f"| {one.sampler} | {one.seed} | {made} | {cells} |"
    samplers = list(dict.fromkeys(one.sampler for one in searches))
    for rule in RULES:
        of = {name: [one.fresh[rule] for one in searches if one.sampler == name] for name in samplers}
        for name in samplers:
            yield f"{rule}: {name} {100 * statistics.fmean(of[name]):.2f} (n = {len(of[name])})"
        for ours in samplers:
            for name in samplers:
                if ours.startswith(BUDGET) and name != ours and min(len(of[ours]), len(of[name])) > 1:
                    yield f"{rule}: {ours} less {name}: {_told(difference_interval(of[ours], of[name]))} (Welch)"


def _told(one: Interval) -> str:
    return (
        f"{100 * one.estimate:+.2f} points, 95 % interval {100 * one.low:+.2f} to {100 * one.high:+.2f} (n = {one.n})"
    )
