"""Live progress of a search on stderr."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from budgetnas.api.progress.lines import Lines
from budgetnas.api.progress.terminal import duration
from budgetnas.api.progress.trainings import Progress, where
from budgetnas.architecture import count
from budgetnas.architecture.budget import Budget
from budgetnas.data import Data
from budgetnas.errors import listed, plural
from budgetnas.metrics import ACCURACY
from budgetnas.searching.callbacks import SearchCallbacks, Tally, TrialEnd, TrialStart
from budgetnas.searching.plan import InitialTrialPlan, Plan
from budgetnas.searching.study import OpenStudy


@dataclass
class _Trial:
    """A running trial."""

    name: str  # its number, and the initial trial that it is
    epochs: int  # epochs of its recipe
    macs: int  # multiply-accumulates of its network, per image
    done: float = 0.0  # epochs done, with a fraction for the current epoch


class SearchProgress(Progress, SearchCallbacks):
    """Shows a search: the plan, each trial, the tally and the time left, for any number of running trials."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(lines)
        self._plan: Plan | None = None
        self._tally = Tally(0, 0, 0, 0, 0)
        self._best: float | None = None
        self._running: dict[int, _Trial] = {}
        self._seen: set[int] = set()
        self._trial = _Trial("", 0, 0)
        self._expected = 0.0
        self._done = 0.0
        self._started = time.monotonic()

    def on_plan(self, opened: OpenStudy, plan: Plan, data: Data) -> None:
        """Print the plan."""
        for text in data.notices:
            self.on_message(text)
        for line in plan_lines(opened, plan, data):
            self.lines.say(line)
        runs = opened.records.runs(study=opened.name)
        self.measure = opened.specification.measure
        known = [
            self.measure.of(curve[-1])
            for curve in opened.records.curves(run.id for run in runs if run.state == "complete").values()
        ]
        self._best = max(known, default=None)
        self._plan = plan
        self._expected = plan.expected_macs
        self._started = time.monotonic()

    def on_trial_start(self, start: TrialStart) -> None:
        """Print the network of the trial."""
        plan = self._plan
        assert plan is not None, "the plan comes before the first trial"
        name = f"trial {start.number}" + (f" ({start.initial_trial})" if start.initial_trial else "") + _repeat(start)
        self.prefix, self.epochs, self.last = f"{name}: ", start.candidate.recipe.epochs, ""
        self._tally = start.tally
        macs = count(start.candidate.architecture).macs
        self._trial = self._running[start.number] = _Trial(name, self.epochs, macs)
        if not start.initial_trial and start.number not in self._seen:
            self._expected += macs - plan.mean_macs
        self._seen.add(start.number)
        recipe = start.candidate.recipe.describe(brief=True)
        self.lines.say(f"{self.prefix}{start.candidate.architecture.describe()}, {start.params:,} parameters; {recipe}")

    def on_trial_end(self, end: TrialEnd) -> None:
        """Print the result of the trial."""
        trial = self._running.pop(end.number, _Trial("", 0, 0))
        trained = end.pruned_after / trial.epochs if end.pruned_after and trial.epochs else 1.0
        self._done += trained * trial.macs
        self._expected -= (1 - trained) * trial.macs
        self._tally = end.tally
        if end.accuracy is None:
            self.lines.say(f"trial {end.number}: failed: {end.reason}")
        elif end.pruned_after is not None:
            self.lines.say(f"trial {end.number}: pruned {end.reason}; {self._standing()}{self._time_left()}")
        else:
            self._best = max(end.accuracy, self._best or 0.0)
            note = f" ({end.reason})" if end.reason else ""
            outlook = f"{self._standing()}{self._time_left()}"
            self.lines.say(f"trial {end.number}: {end.accuracy:.2%} {self.measure.where}{note}; {outlook}")

    def on_workers(self, epochs: Mapping[int, int]) -> None:
        """Update the status of a search by several workers."""
        for number in set(self._running) - set(epochs):
            del self._running[number]  # requeued; on_trial_start is called when it resumes
        for number, done in epochs.items():
            self._running[number].done = done
        shown = (
            f"{trial.name}: epoch {min(int(trial.done) + 1, trial.epochs)}/{trial.epochs}"
            for trial in self._running.values()
        )
        self.lines.advance(self._progress())
        self.lines.status(f"{', '.join(shown) or 'no trial is running'}; {self._standing()}{self._time_left()}")

    def _share(self, epoch: int, done: int, total: int) -> float:
        self._trial.done = epoch - 1 + done / total
        return self._progress()

    def _progress(self) -> float:
        """Return the share of all trials that are trained, including those of earlier searches."""
        if self._plan is None or not self._plan.trials:
            return 0.0
        running = sum(trial.done / trial.epochs for trial in self._running.values() if trial.epochs)
        return (self._tally.trained + running) / self._plan.trials

    def _outlook(self, epoch: int, done: int, total: int) -> str:
        return f"; {self._standing()}{self._time_left()}"

    def _standing(self) -> str:
        tally, trials = self._tally, self._plan.trials if self._plan else 0
        best = "none yet" if self._best is None else f"{self._best:.2%}" + (" (one run)" if tally.repeats else "")
        again = f" ({plural(tally.repeats, 'repeat')})" if tally.repeats else ""
        rare = {"duplicate": tally.duplicate, "pruned": tally.pruned, "failed": tally.failed}
        others = "".join(f", {name} {count}" for name, count in rare.items() if count)
        return f"best {best}; trained {tally.trained}/{trials}{again}, rejected {tally.rejected}{others}"

    def _time_left(self) -> str:
        elapsed = time.monotonic() - self._started
        if self._plan is None or self._tally.trained >= self._plan.trials:
            return ""
        done = self._done + sum(trial.macs * trial.done / trial.epochs for trial in self._running.values())
        paced = elapsed * max(0.0, self._expected - done) / done if done > 0.02 * self._expected else None
        left = self._plan.seconds if paced is None else paced
        return "" if left is None else f"; about {duration(left)} left"


def _repeat(start: TrialStart) -> str:
    return "" if start.repeat_of is None else f" (repeat of trial {start.repeat_of}, training seed {start.seed})"


def plan_lines(opened: OpenStudy, plan: Plan, data: Data) -> list[str]:
    """Return the lines that describe the search."""
    specification = opened.specification
    recipes, budget, runtime = specification.recipes, specification.budget, plan.runtime
    name, images = data.validation_classes.rarest
    rarest = "" if specification.measure == ACCURACY else f", and the rarest, {name}, has {plural(images, 'image')}"
    lines = [
        f"study {plan.study}: {plan.trained} of {plural(plan.trials, 'run')} trained"
        + (", resuming" if plan.trained and plan.trained < plan.trials else ""),
        f"data: {data.identity.label()}, {len(data.classes)} classes, "
        f"{data.in_channels}x{data.resolution}x{data.resolution}",
        f"images: {len(data.train):,} for training, {len(data.validation):,} for validation, "
        f"of which the commonest class has {data.validation_classes.commonest[1]:.1%}{rarest}",
        f"budget: at most {', '.join(limit.exact for limit in budget.limits)}",
        f"space: {plan.space_size:,} architectures; "
        f"{plan.feasible_share:.1%} of {plan.feasible_draws:,} random ones fit",
        f"each trial: {plural(recipes.epochs, 'epoch')}, batch {recipes.batch}, {' or '.join(recipes.optimizers)}; "
        f"{'by' if plan.pool else 'on'} {plan.pool or where(runtime)}",
    ]
    if data.identity.is_own:
        lines.insert(3, f"classes: {listed(data.classes, limit=20)}")
    if specification.choice is not None:
        choice = specification.choice
        epochs = "" if choice.final_epochs is None else f" for {plural(choice.final_epochs, 'epoch')}"
        best = "best candidate" if choice.finalists == 1 else f"{choice.finalists} best candidates"
        has_reference = any(trial.state in ("queued", "trained") for trial in plan.initial_trials)
        reference = " and the best initial network" if has_reference else ""
        shipped = "the winner and the initial network are" if has_reference else "the winner is"
        lines.append(
            f"then the final, with {choice.seeds} fresh seeds each: the {best}{reference}; then {shipped} trained"
            f"{epochs} on all training images, and evaluated once on the test split"
        )
    if specification.measure != ACCURACY:
        lines.append(f"judged by: {specification.objective}, the mean of the accuracies of all classes")
    lines += [_initial_line(trial, budget) for trial in plan.initial_trials]
    pruning = specification.fidelity.describe(recipes.epochs)
    if pruning:
        lines.append(f"pruning: {pruning}")
    if plan.seconds is not None:
        most = "at most " if pruning else ""
        lines.append(
            f"estimate: {most}about {duration(plan.seconds)} for {plural(plan.trials - plan.trained, 'run')}"
            f"{', if none is pruned' if pruning else ''}, "
            f"from a few timed steps of {plan.measured_on}"
        )
    if plan.final_seconds is not None:
        lines.append(f"estimate: about {duration(plan.final_seconds)} for the final, if its networks are typical")
    return lines


def _initial_line(trial: InitialTrialPlan, budget: Budget) -> str:
    if trial.excesses and len(budget.limits) > 1:
        sentences = [excess.sentence() for excess in trial.excesses]
        return f"initial trial {trial.name}: rejected, over the budget: {'; '.join(sentences)}"
    over = f" by {trial.excesses[0].amount:,}: rejected" if trial.excesses else ""
    return f"initial trial {trial.name}: {trial.params:,} parameters, {trial.state}{over}"
