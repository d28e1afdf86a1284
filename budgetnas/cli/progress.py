"""Live progress on stderr: a status line that renews itself in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from rich.live import Live
from rich.markup import escape
from rich.text import Text

from budgetnas.architecture import count
from budgetnas.architecture.budget import Budget
from budgetnas.bundle.retraining import ExportCallbacks
from budgetnas.cli.console import by_limit, duration, stderr
from budgetnas.data import Data
from budgetnas.errors import plural
from budgetnas.experiments.final import FinalCallbacks, FinalTraining
from budgetnas.experiments.final_results import FinalResult
from budgetnas.experiments.replay import ReplayCallbacks, ReplayPlan
from budgetnas.experiments.replay_results import ReplayResult, comparison
from budgetnas.metrics import Epoch
from budgetnas.search.listener import Tally, TrialEnd, TrialStart
from budgetnas.search.plan import InitialTrialPlan, Plan
from budgetnas.search.study import OpenStudy
from budgetnas.search.view import SearchView
from budgetnas.storage import Run
from budgetnas.training import Callbacks, RuntimeConfig

_PLAIN_EVERY_SECONDS: Final = 10.0
_logger = logging.getLogger("budgetnas")


class Lines:
    """Lines on stderr and, in a terminal, one status below them that renews itself."""

    def __init__(self) -> None:
        self._console = stderr()
        self._live = Live(console=self._console, refresh_per_second=4, transient=True) if sys.stderr.isatty() else None
        self._told_at = time.monotonic()
        self._notes = _Notes(self)

    def __enter__(self) -> Self:
        _logger.addHandler(self._notes)
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _logger.removeHandler(self._notes)
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(escape(text))
        self._told_at = time.monotonic()

    def status(self, text: str) -> None:
        """Renew the status; without a terminal, print it now and then."""
        if self._live is not None:
            self._live.update(Text(text, overflow="ellipsis", no_wrap=True))
        elif time.monotonic() - self._told_at >= _PLAIN_EVERY_SECONDS:
            self.say(text)


class _Notes(logging.Handler):
    """Prints what parts of the program log, for those that have no view to tell."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.say(f"note: {record.getMessage()}")


class Progress(Callbacks):
    """What is common to searches and replays: epochs, notices, restarts.

    Args:
        lines: Where to print.
    """

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.prefix = ""
        self.epochs = 0
        self.last = ""

    def preparing(self, text: str) -> None:
        """Show what takes a moment."""
        self.lines.status(f"{text} ...")

    def on_message(self, text: str) -> None:
        """Print something worth telling."""
        self.lines.say(f"note: {text}")

    def on_restart(self, runtime: RuntimeConfig, reason: str) -> None:
        """Tell why a training begins again."""
        self.lines.say(f"{self.prefix}begins again: {reason}")

    def on_step(self, epoch: int, done: int, total: int) -> None:
        """Renew the status."""
        where = f"{self.prefix}epoch {epoch}/{self.epochs}, step {done}/{total}"
        self.lines.status(f"{where}{self.last}{self._outlook(epoch, done, total)}")

    def on_epoch_end(self, epoch: Epoch) -> None:
        """Print what an epoch gave."""
        self.last = f", last epoch {epoch.eval_accuracy:.2%}"
        self._count_epoch(epoch)

    def _outlook(self, epoch: int, done: int, total: int) -> str:
        return ""

    def _count_epoch(self, epoch: Epoch) -> None:
        pass


@dataclass
class _Trial:
    """A trial that is being trained.

    Attributes:
        name: Its number, and the seed it is.
        epochs: Epochs that it was asked for.
        macs: Multiply-accumulates of its network, per image.
        done: Epochs done, of which the last may be a part.
    """

    name: str
    epochs: int
    macs: int
    done: float = 0.0


class SearchProgress(Progress, SearchView):
    """Shows a search: the plan, each trial, the tally and the time left, however many trials are trained at once."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(lines)
        self._plan: Plan | None = None
        self._tally = Tally(0, 0, 0, 0, 0)
        self._best: float | None = None
        self._trials: dict[int, _Trial] = {}
        self._seen: set[int] = set()
        self._trial = _Trial("", 0, 0)
        self._expected = 0.0
        self._done = 0.0
        self._started = time.monotonic()

    def planned(self, opened: OpenStudy, plan: Plan, data: Data) -> None:
        """Print what is about to run."""
        for text in data.notices:
            self.on_message(text)
        for line in plan_lines(opened, plan, data):
            self.lines.say(line)
        runs = opened.records.runs(study=opened.name)
        known = [
            curve[-1].eval_accuracy
            for curve in opened.records.curves(run.id for run in runs if run.state == "complete").values()
        ]
        self._best = max(known, default=None)
        self._plan = plan
        self._expected = plan.expected_macs
        self._started = time.monotonic()

    def trial_started(self, start: TrialStart) -> None:
        """Print which network is trained."""
        plan = self._plan
        assert plan is not None, "a plan comes before the first trial"
        name = f"trial {start.number}" + (f" ({start.seed_id})" if start.seed_id else "") + _repeat(start)
        self.prefix, self.epochs, self.last = f"{name}: ", start.candidate.recipe.epochs, ""
        self._tally = start.tally
        macs = count(start.candidate.architecture).macs
        self._trial = self._trials[start.number] = _Trial(name, self.epochs, macs)
        if not start.seed_id and start.number not in self._seen:
            self._expected += macs - plan.mean_macs
        self._seen.add(start.number)
        recipe = start.candidate.recipe.describe()
        self.lines.say(f"{self.prefix}{start.candidate.architecture.describe()}, {start.params:,} parameters; {recipe}")

    def trial_ended(self, end: TrialEnd) -> None:
        """Print how a trial ended."""
        trial = self._trials.pop(end.number, _Trial("", 0, 0))
        trained = end.cut_after / trial.epochs if end.cut_after and trial.epochs else 1.0
        self._done += trained * trial.macs
        self._expected -= (1 - trained) * trial.macs
        self._tally = end.tally
        if end.accuracy is None:
            self.lines.say(f"trial {end.number}: failed: {end.reason}")
        elif end.cut_after is not None:
            self.lines.say(f"trial {end.number}: cut {end.reason}; {self._standing()}{self._time_left()}")
        else:
            self._best = max(end.accuracy, self._best or 0.0)
            note = f" ({end.reason})" if end.reason else ""
            outlook = f"{self._standing()}{self._time_left()}"
            self.lines.say(f"trial {end.number}: {end.accuracy:.2%} on validation{note}; {outlook}")

    def at_work(self, epochs: Mapping[int, int]) -> None:
        """Renew the status of a search by several workers."""
        for number in set(self._trials) - set(epochs):
            del self._trials[number]  # put back; whoever takes it up starts it again
        for number, done in epochs.items():
            self._trials[number].done = done
        shown = (
            f"{one.name}: epoch {min(int(one.done) + 1, one.epochs)}/{one.epochs}" for one in self._trials.values()
        )
        self.lines.status(f"{', '.join(shown) or 'no trial at work'}; {self._standing()}{self._time_left()}")

    def _outlook(self, epoch: int, done: int, total: int) -> str:
        self._trial.done = epoch - 1 + done / total
        return f"; {self._standing()}{self._time_left()}"

    def _standing(self) -> str:
        tally, trials = self._tally, self._plan.trials if self._plan else 0
        best = "none yet" if self._best is None else f"{self._best:.2%}" + (" (one run)" if tally.repeats else "")
        again = f" ({plural(tally.repeats, 'repeat')})" if tally.repeats else ""
        cut = f", cut {tally.cut} ({tally.epochs_saved:,} epochs saved)" if tally.cut else ""
        return (
            f"best {best}; proposed {tally.proposed}, rejected {tally.rejected}{by_limit(tally.broken)}, "
            f"duplicate {tally.duplicate}, "
            f"trained {tally.trained}/{trials}{again}, failed {tally.failed}{cut}"
        )

    def _time_left(self) -> str:
        elapsed = time.monotonic() - self._started
        if self._plan is None or self._tally.trained >= self._plan.trials:
            return ""
        done = self._done + sum(one.macs * one.done / one.epochs for one in self._trials.values())
        paced = elapsed * max(0.0, self._expected - done) / done if done > 0.02 * self._expected else None
        left = self._plan.seconds if paced is None else paced
        return "" if left is None else f"; about {duration(left)} left"


class FinalProgress(Progress, FinalCallbacks):
    """Shows a final: who is in it, each training, and the time left."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(lines)
        self._training: FinalTraining | None = None
        self._started = time.monotonic()

    def on_final_start(self, result: FinalResult, *, resumed: bool) -> None:
        """Print who is in the final."""
        protocol = result.protocol
        state = "goes on" if resumed else "begins"
        self.lines.say(
            f"the final of {result.study} {state}: {len(result.entrants)} networks, {protocol.seeds} fresh seeds each"
        )
        for one in result.entrants:
            why = "finalist" if one.is_finalist else "reference: the best seed"
            several = one.search_trainings > 1
            seen = f"the mean of its {one.search_trainings} runs" if several else "its one run"
            self.lines.say(
                f"{why}: {one.name}, {one.run.params:,} parameters; {one.run.recipe.describe()}; "
                f"smoothed {one.score:.2%}, {seen} {one.search_accuracy:.2%}"
            )

    def on_final_run(self, training: FinalTraining) -> None:
        """Note which training starts."""
        self._training, self._started = training, time.monotonic()
        self.prefix = f"final {training.done + 1}/{training.total}, {training.name}, seed {training.seed}: "
        self.epochs, self.last = training.epochs, ""
        self.lines.say(f"{self.prefix}on {training.part}{self._outlook(1, 0, 1)}")

    def on_epoch_end(self, epoch: Epoch) -> None:
        """Note what an epoch gave; nothing is evaluated after the last choice."""
        accuracy = epoch.train_accuracy if math.isnan(epoch.eval_accuracy) else epoch.eval_accuracy
        self.last = f", last epoch {accuracy:.2%}"

    def _outlook(self, epoch: int, done: int, total: int) -> str:
        if self._training is None or self._training.seconds_left is None:
            return ""
        left = self._training.seconds_left - (time.monotonic() - self._started)
        return f"; about {duration(max(0.0, left))} left"


class ReplayProgress(Progress, ReplayCallbacks):
    """Shows replays: each epoch, and at the end the printed figures beside ours."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(lines)
        self._seconds: float | None = None
        self._started = time.monotonic()

    def on_replay_start(self, plan: ReplayPlan) -> None:
        """Print what is about to run, and what the report says against itself about it."""
        warning = f" [NOT COMPARABLE: {'; '.join(plan.why_not)}]" if plan.why_not else ""
        self.prefix, self.epochs, self.last = f"{plan.run.name}{warning}: ", plan.recipe.epochs, ""
        self._seconds, self._started = plan.seconds, time.monotonic()
        self.lines.say(
            f"{self.prefix}{plan.params:,} parameters counted for CIFAR-10's images, as the report's network must have"
        )
        self.lines.say(f"{self.prefix}{plan.recipe.describe()}, cosine T_max {plan.recipe.t_max}")
        for sentence in plan.run.contradictions:
            self.lines.say(f"{self.prefix}the report contradicts itself: {sentence}")
        if plan.seconds is not None:
            self.lines.say(f"{self.prefix}about {duration(plan.seconds)}, from a few timed steps")

    def on_replay_end(self, result: ReplayResult, *, known: bool) -> None:
        """Print that a run is done."""
        warning = f" [NOT COMPARABLE: {'; '.join(result.why_not)}]" if result.why_not else ""
        source = f"record of run {result.record.id}" if known else f"run {result.record.id} recorded"
        last = comparison(result).last_test
        self.lines.say(f"{result.run.name}{warning}: last epoch {last:.2f} % on test ({source})")

    def _count_epoch(self, epoch: Epoch) -> None:
        self.lines.say(
            f"{self.prefix}epoch {epoch.epoch}/{self.epochs}: train {epoch.train_accuracy:.2%} "
            f"(loss {epoch.train_loss:.3f}), test {epoch.eval_accuracy:.2%} (loss {epoch.eval_loss:.3f}), "
            f"{epoch.seconds:.1f} s{self._left(epoch.epoch)}"
        )

    def _outlook(self, epoch: int, done: int, total: int) -> str:
        return self._left(epoch - 1 + done / total)

    def _left(self, epochs_done: float) -> str:
        elapsed = time.monotonic() - self._started
        share = epochs_done / self.epochs
        left = elapsed * (1 - share) / share if share > 0.01 else self._seconds
        return "" if left is None else f"; about {duration(left)} left"


class ExportProgress(Progress, ExportCallbacks):
    """Shows an export: what is being done, and each epoch of a training that is made again."""

    def on_retraining(self, run: Run, runtime: RuntimeConfig) -> None:
        """Print that the weights were not kept."""
        self.prefix, self.epochs, self.last = f"run {run.id}: ", run.recipe.epochs, ""
        self.lines.say(
            f"{self.prefix}its weights were not kept; trained again from its record: {run.recipe.describe()}, "
            f"seed {run.seed}, on {runtime.device}, {runtime.precision}"
        )

    def _count_epoch(self, epoch: Epoch) -> None:
        shown = "" if math.isnan(epoch.eval_accuracy) else f", validation {epoch.eval_accuracy:.2%}"
        self.last = shown
        self.lines.say(
            f"{self.prefix}epoch {epoch.epoch}/{self.epochs}: train {epoch.train_accuracy:.2%} "
            f"(loss {epoch.train_loss:.3f}){shown}, {epoch.seconds:.1f} s"
        )


def _repeat(start: TrialStart) -> str:
    return "" if start.repeat_of is None else f" (repeat of trial {start.repeat_of}, training seed {start.seed})"


def plan_lines(opened: OpenStudy, plan: Plan, data: Data) -> list[str]:
    """Return what is about to run, line by line."""
    specification = opened.specification
    recipes, budget, runtime = specification.recipes, specification.budget, plan.runtime
    lines = [
        f"study {plan.study}: {plan.trained} of {plan.trials} runs trained"
        + (", goes on" if plan.trained and plan.trained < plan.trials else ""),
        f"data: {data.identity.label()}, {len(data.classes)} classes, "
        f"{data.in_channels}x{data.resolution}x{data.resolution}; "
        f"{len(data.train):,} images to train with, {len(data.validation):,} to choose by",
        f"budget: at most {', '.join(f'{limit.value:,} {limit.words}' for limit in budget.limits)}; "
        f"{plan.feasible_share:.1%} of the space's {plan.space_size:,} architectures fit "
        f"(counted in {plan.feasible_draws:,} random ones)",
        f"each trial: {recipes.epochs} epochs, batch {recipes.batch}, {' or '.join(recipes.optimizers)}; "
        f"{'by' if plan.pool else 'on'} {plan.pool or _where(runtime)}",
    ]
    if specification.choice is not None:
        choice = specification.choice
        lines.append(
            f"then a final: the {choice.finalists} best and the best seed, {choice.seeds} fresh seeds each; the winner "
            "and the seed again on all training images, and one reading of the test split"
        )
    lines += [_seed_line(seed, budget) for seed in plan.seeds]
    pruning = specification.fidelity.describe(recipes.epochs)
    if pruning:
        lines.append(f"pruning: {pruning}")
    if plan.seconds is not None:
        most = "at most " if pruning else ""
        lines.append(
            f"estimate: {most}about {duration(plan.seconds)} for {plan.trials - plan.trained} runs"
            f"{', if none is cut' if pruning else ''}, "
            f"from a few timed steps of {plan.measured_on}"
        )
    return lines


def _seed_line(seed: InitialTrialPlan, budget: Budget) -> str:
    if seed.excesses and len(budget.limits) > 1:
        return f"seed {seed.seed}: rejected, over the budget: {'; '.join(one.sentence() for one in seed.excesses)}"
    over = f" by {seed.excesses[0].amount:,}: rejected" if seed.excesses else ""
    return f"seed {seed.seed}: {seed.params:,} parameters, {seed.fate}{over}"


def _where(runtime: RuntimeConfig) -> str:
    return f"{runtime.device}, {runtime.precision}" + (
        f", threads: {runtime.threads}" if runtime.device == "cpu" else ""
    )
