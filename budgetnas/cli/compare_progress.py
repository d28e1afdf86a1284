"""Live progress of ``budgetnas compare`` on stderr."""

from __future__ import annotations

import time

from budgetnas.architecture import count
from budgetnas.cli.console import duration
from budgetnas.cli.progress import Lines, Progress
from budgetnas.experiments.compare import ComparePlan, CompareStep, CompareView
from budgetnas.experiments.comparison import Attempt, Pair


class CompareProgress(Progress, CompareView):
    """Shows a comparison: its design, each training, each architecture's difference and the time left."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(lines)
        self._plan: ComparePlan | None = None
        self._ended = 0
        self._macs = 0
        self._done = 0.0
        self._started = time.monotonic()

    def compare_planned(self, plan: ComparePlan) -> None:
        """Print what is about to run."""
        self._plan, self.epochs, self._started = plan, plan.design.recipes.epochs, time.monotonic()
        for text in plan.data.notices:
            self.on_message(text)
        for line in plan_lines(plan):
            self.lines.say(line)

    def compare_started(self, step: CompareStep) -> None:
        """Note which network is trained."""
        self.prefix, self.last = f"{step.describe()}: ", ""
        self._macs = count(step.entrant.architecture).macs

    def compare_ended(self, step: CompareStep, attempt: Attempt, *, known: bool) -> None:
        """Print how a training ended."""
        self._ended += 1
        if not known:
            self._done += self._macs
            self._macs = 0
        told = f"failed: {attempt.reason}" if attempt.accuracy is None else f"{attempt.accuracy:.2%} on validation"
        source = f" (record of run {attempt.run})" if known else ""
        trainings = self._plan.design.trainings if self._plan else 0
        self.lines.say(f"{step.describe()}: {told}{source}; training {self._ended}/{trainings}{self._left(self._done)}")

    def pair_ended(self, pair: Pair) -> None:
        """Print an architecture's difference."""
        if pair.difference is None:
            self.lines.say(f"{pair.entrant.name}: dropped: {pair.why_dropped}")
        else:
            self.lines.say(f"{pair.entrant.name}: SGD less Adam {100 * pair.difference:+.2f} points")

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
    """Return what is about to run, line by line."""
    design, data, runtime = plan.design, plan.data, plan.runtime
    lines = [
        f"study {plan.study}: {len(design.entrants)} architectures, SGD and Adam, {len(design.sgd)} rates each and the "
        f"best again: {design.trainings} trainings, {design.trainings - plan.missing} of them recorded already",
        f"data: {data.identity.label()}; {len(data.train):,} images to train with, {len(data.validation):,} to judge",
        f"each training: {design.recipes.epochs} epochs, batch {design.recipes.batch}; on {runtime.device}, "
        f"{runtime.precision}" + (f", threads: {runtime.threads}" if runtime.device == "cpu" else ""),
    ]
    lines += [f"{one.name}: {one.architecture.describe()}, {one.params:,} parameters" for one in design.entrants]
    if plan.seconds is not None:
        lines.append(f"estimate: about {duration(plan.seconds)}, from a few timed steps")
    return lines
