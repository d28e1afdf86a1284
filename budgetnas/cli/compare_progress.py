"""Live progress of ``budgetnas compare`` on stderr."""

from __future__ import annotations

import time

from budgetnas.api.progress.lines import Lines
from budgetnas.api.progress.terminal import duration
from budgetnas.api.progress.trainings import Progress, where
from budgetnas.errors import plural
from budgetnas.experiments.compare import CompareCallbacks, ComparePlan, CompareStep
from budgetnas.experiments.comparison import Attempt, Pair


class CompareProgress(Progress, CompareCallbacks):
    """Shows a comparison: its design, each run, each architecture's difference and the time left."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(lines)
        self._plan: ComparePlan | None = None
        self._ended = 0
        self._macs = 0
        self._done = 0.0
        self._started = time.monotonic()

    def on_compare_start(self, plan: ComparePlan) -> None:
        """Print the design."""
        self._plan, self.epochs, self._started = plan, plan.design.recipes.epochs, time.monotonic()
        for text in plan.data.notices:
            self.on_message(text)
        for line in plan_lines(plan):
            self.lines.say(line)

    def on_compare_run(self, step: CompareStep) -> None:
        """Start a run."""
        self.prefix, self.last = f"{step.describe()}: ", ""
        self._macs = step.entrant.macs

    def on_compare_run_end(self, step: CompareStep, attempt: Attempt, *, known: bool) -> None:
        """Print the result of a run."""
        self._ended += 1
        if not known:
            self._done += self._macs
            self._macs = 0
        where = self._plan.design.measure.where if self._plan else ""
        result = f"failed: {attempt.reason}" if attempt.accuracy is None else f"{attempt.accuracy:.2%} {where}"
        source = f" (record of run {attempt.run})" if known else ""
        trainings = self._plan.design.trainings if self._plan else 0
        self.lines.say(f"{step.describe()}: {result}{source}; run {self._ended}/{trainings}{self._left(self._done)}")

    def on_pair_end(self, pair: Pair) -> None:
        """Print an architecture's difference."""
        if pair.difference is None:
            self.lines.say(f"{pair.entrant.name}: dropped: {pair.why_dropped}")
        else:
            self.lines.say(f"{pair.entrant.name}: SGD minus Adam {100 * pair.difference:+.2f} points")

    def _outlook(self, epoch: int, done: int, total: int) -> str:
        share = (epoch - 1 + done / total) / self.epochs
        return self._left(self._done + share * self._macs)

    def _left(self, done: float) -> str:
        plan = self._plan
        if plan is None or not plan.seconds or done >= plan.macs:
            return ""
        elapsed = time.monotonic() - self._started
        left = elapsed * (plan.macs - done) / done if done > 0.02 * plan.macs else plan.seconds
        return f"; about {duration(left)} left"


def plan_lines(plan: ComparePlan) -> list[str]:
    """Return the design, line by line."""
    design, data, runtime = plan.design, plan.data, plan.runtime
    lines = [
        f"study {plan.study}: {len(design.entrants)} architectures, SGD and Adam, {len(design.sgd)} rates each and the "
        f"best again: {design.trainings} runs, {design.trainings - plan.missing} of them recorded already",
        f"data: {data.identity.label()}; {len(data.train):,} train images, {len(data.validation):,} validation images; "
        f"{data.validation_classes.describe('the latter')}",
        f"each run: {plural(design.recipes.epochs, 'epoch')}, batch {design.recipes.batch}; on {where(runtime)}",
    ]
    lines += [
        f"{entrant.name}: {entrant.architecture.describe()}, {entrant.params:,} parameters"
        for entrant in design.entrants
    ]
    if plan.seconds is not None:
        lines.append(f"estimate: about {duration(plan.seconds)}, from a few timed steps")
    return lines
