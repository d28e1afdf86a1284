"""A search seen from outside: what its storage tells, whoever trains, on this machine or another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from budgetnas.samplers.attributes import repeat_of
from budgetnas.search.listener import TrialEnd, TrialStart
from budgetnas.search.study import OpenStudy
from budgetnas.search.trial import tally
from budgetnas.space.search_space import Candidate
from budgetnas.storage import Role, Run, State

_ENDED: Final = frozenset({State.COMPLETE, State.PRUNED, State.FAILED})


class WatchView(Protocol):
    """Whoever shows what is seen."""

    def trial_started(self, start: TrialStart) -> None:
        """Hear that a trial is about to be trained."""

    def trial_ended(self, end: TrialEnd) -> None:
        """Hear how a trial ended."""

    def at_work(self, epochs: Mapping[int, int]) -> None:
        """Hear which trials are trained, and how many epochs of each are done."""


class Watch:
    """Looks at a study now and then and tells what became of its trials since.

    A look that sees nothing new is one query for the runs that have not ended.

    Args:
        opened: The study.
        view: Is told.

    Attributes:
        ended: Runs that ended, as last seen.
    """

    def __init__(self, opened: OpenStudy, view: WatchView) -> None:
        self._opened, self._view = opened, view
        runs = opened.records.search_runs_beyond(opened.name, 0, ())
        self._newest = max((run.id for run in runs), default=0)
        self._open = {run.id: State.INTERRUPTED for run in runs if run.state not in _ENDED}
        self.ended = len(runs) - len(self._open)

    def look(self) -> None:
        """Tell what is new."""
        records, study = self._opened.records, self._opened.name
        runs = records.search_runs_beyond(study, self._newest, self._open)
        for run in runs:
            before = self._open.get(run.id)
            if before is not State.RUNNING and run.state is not State.INTERRUPTED:
                self._view.trial_started(self._start(run))
            if run.state in _ENDED:
                self._open.pop(run.id, None)
                self.ended += 1
                self._view.trial_ended(self._end(run))
            else:
                self._open[run.id] = run.state
            self._newest = max(self._newest, run.id)
        self._view.at_work({run.trial or 0: run.epochs_done for run in runs if run.state is State.RUNNING})

    def _start(self, run: Run) -> TrialStart:
        candidate = Candidate(run.architecture, run.recipe)
        number, told = run.trial or 0, tally(self._opened)
        return TrialStart(number, run.label, candidate, run.params, told, self._repeat_of(run), run.seed)

    def _repeat_of(self, run: Run) -> int | None:
        if run.role is not Role.REPEAT or run.trial is None:
            return None
        return repeat_of(self._opened.storage.get_trial(self._opened.trial_id(run.trial)))

    def _end(self, run: Run) -> TrialEnd:
        trial, known = run.trial or 0, tally(self._opened)
        if run.state is State.FAILED:
            return TrialEnd(trial, None, run.reason, known)
        last = self._opened.records.curve(run.id)[-1]
        if run.state is State.PRUNED:
            return TrialEnd(trial, last.eval_accuracy, run.reason, known, last.epoch)
        return TrialEnd(trial, last.eval_accuracy, "", known)
