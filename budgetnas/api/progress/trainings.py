"""Live progress of trainings, finals, replays and exports on stderr."""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Sequence
from typing import Final

from budgetnas.api.progress.lines import Lines
from budgetnas.api.progress.terminal import duration
from budgetnas.bundle.retraining import ExportCallbacks
from budgetnas.errors import plural
from budgetnas.experiments.final import FinalCallbacks, FinalTraining, LongTrainings
from budgetnas.experiments.final_results import FinalResult
from budgetnas.experiments.replay import ReplayCallbacks, ReplayPlan
from budgetnas.experiments.replay_results import ReplayResult, marked
from budgetnas.metrics import ACCURACY, Epoch
from budgetnas.storage import Run
from budgetnas.training import Callbacks, RuntimeConfig

_COLUMNS: Final = 98
"""Longer sentences are broken into several lines."""


def where(runtime: RuntimeConfig) -> str:
    """Return device, precision and, on a CPU, threads of a training."""
    threads = f", threads: {runtime.threads}" if runtime.device == "cpu" else ""
    return f"{runtime.device}, {runtime.precision}{threads}"


class Progress(Callbacks):
    """Progress of any training: steps, epochs, messages, restarts."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.measure = ACCURACY
        self.prefix = ""
        self.epochs = 0
        self.last = ""

    def on_progress(self, text: str) -> None:
        """Show a step that takes seconds."""
        self.lines.status(f"{text} ...")

    def on_message(self, text: str) -> None:
        """Print the message."""
        self.lines.say(f"note: {text}")

    def on_restart(self, runtime: RuntimeConfig, reason: str) -> None:
        """Print why the training starts over."""
        self.lines.say(f"{self.prefix}starts over: {reason}")

    def on_step(self, epoch: int, done: int, total: int) -> None:
        """Update the status."""
        where = f"{self.prefix}epoch {epoch}/{self.epochs}, step {done}/{total}"
        self.lines.advance(self._share(epoch, done, total))
        self.lines.status(f"{where}{self.last}{self._outlook(epoch, done, total)}")

    def on_epoch_end(self, epoch: Epoch) -> None:
        """Keep the figures of the epoch for the status."""
        self.last = f", last epoch {self.measure.of(epoch):.2%}"

    def _share(self, epoch: int, done: int, total: int) -> float:
        """Return the share of the work that is done."""
        return (epoch - 1 + done / total) / self.epochs

    def _outlook(self, epoch: int, done: int, total: int) -> str:
        return ""


class FinalProgress(Progress, FinalCallbacks):
    """Shows a final: its entrants, each training, and the time left."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(lines)
        self._training: FinalTraining | None = None
        self._started = time.monotonic()
        self._next = ""  # line on the next training, until its first step shows that no other process has begun it

    def on_final_start(self, result: FinalResult, *, resumed: bool) -> None:
        """Print the entrants."""
        protocol, self.measure = result.protocol, result.measure
        state = "resumes" if resumed else "begins"
        classes = result.validation_classes
        shares = "" if classes is None else f"; {classes.describe('the validation images', self.measure)}"
        if self.measure != ACCURACY:
            shares += f"; judged by {self.measure.on('validation')}"
        networks = plural(len(result.entrants), "network")
        self.lines.say(f"the final of {result.study} {state}: {networks}, {protocol.seeds} fresh seeds each{shares}")
        for entrant in result.entrants:
            why = "finalist" if entrant.is_finalist else "reference: the best initial network"
            several = entrant.search_trainings > 1
            seen = f"the mean of its {entrant.search_trainings} runs" if several else "its single run"
            recipe = entrant.run.recipe.describe(brief=True)
            self.lines.say(f"{why}: {entrant.name}, {entrant.run.params:,} parameters; {recipe}")
            self.lines.say(f"  smoothed {entrant.score:.2%}, {seen} {entrant.search_accuracy:.2%}")

    def on_long_trainings(self, planned: LongTrainings) -> None:
        """Print the long trainings and their time."""
        networks = "the winner" + (" and the reference" if planned.networks > 1 else "")
        time_left = "" if planned.seconds is None else f"; about {duration(planned.seconds)} for these alone"
        self.lines.say(
            f"then {networks}: {plural(planned.epochs, 'epoch')} on train + validation with the recipe for long "
            f"trainings, {planned.seeds} seeds each{time_left}"
        )

    def on_final_run(self, training: FinalTraining) -> None:
        """Remember which training is next."""
        self._training, self._started = training, time.monotonic()
        self.prefix = f"final {training.done + 1}/{training.total}, {training.name}, seed {training.seed}: "
        self.epochs, self.last = training.epochs, ""
        self._next = f"{self.prefix}on {training.part}{self._outlook(1, 0, 1)}"

    def on_step(self, epoch: int, done: int, total: int) -> None:
        """Print which training starts, and the status."""
        if self._next:
            self.lines.say(self._next)
            self._next = ""
        super().on_step(epoch, done, total)

    def on_worker_run(self, text: str) -> None:
        """Print what a worker has trained."""
        self.lines.say(f"final: {text}")

    def on_epoch_end(self, epoch: Epoch) -> None:
        """Keep the figures of the epoch; the last trainings are evaluated only at their end."""
        accuracy = epoch.train_accuracy if math.isnan(epoch.eval_accuracy) else self.measure.of(epoch)
        self.last = f", last epoch {accuracy:.2%}"

    def _share(self, epoch: int, done: int, total: int) -> float:
        trained = super()._share(epoch, done, total)
        return trained if self._training is None else (self._training.done + trained) / self._training.total

    def _outlook(self, epoch: int, done: int, total: int) -> str:
        if self._training is None or self._training.seconds_left is None:
            return ""
        left = self._training.seconds_left - (time.monotonic() - self._started)
        return f"; about {duration(max(0.0, left))} left"


class ReplayProgress(Progress, ReplayCallbacks):
    """Shows replays: each epoch, and the figure of the last.

    The reasons why figures are not comparable are printed once for each run; its other lines have an asterisk.
    """

    def __init__(self, lines: Lines) -> None:
        super().__init__(lines)
        self._seconds: float | None = None
        self._started = time.monotonic()

    def on_replay_start(self, plan: ReplayPlan) -> None:
        """Print the run and where the report contradicts itself about it."""
        self.prefix, self.epochs, self.last = f"{marked(plan.run.name, plan.why_not)}: ", plan.recipe.epochs, ""
        self._seconds, self._started = plan.seconds, time.monotonic()
        self._explain(plan.why_not)
        self.lines.say(f"{self.prefix}{plan.run.params:,} parameters on CIFAR-10's images, as in the report")
        self.lines.say(f"{self.prefix}{plan.recipe.describe()}, cosine T_max {plan.recipe.t_max}")
        for sentence in plan.run.contradictions:
            text = f"{self.prefix}the report contradicts itself: {sentence}"
            for line in textwrap.wrap(text, _COLUMNS, subsequent_indent="  "):
                self.lines.say(line)
        if plan.seconds is not None:
            self.lines.say(f"{self.prefix}about {duration(plan.seconds)}, from a few timed steps")

    def on_replay_end(self, result: ReplayResult, *, known: bool) -> None:
        """Print the result of a run."""
        self.prefix = f"{marked(result.run.name, result.why_not)}: "
        if known:
            self._explain(result.why_not)
        source = f"record of run {result.record.id}" if known else f"run {result.record.id} recorded"
        last = result.comparison()["last_test"]
        self.lines.say(f"{self.prefix}last epoch {last:.2f} % on test ({source})")

    def on_epoch_end(self, epoch: Epoch) -> None:
        """Print the figures of the epoch."""
        super().on_epoch_end(epoch)
        self.lines.say(
            f"{self.prefix}epoch {epoch.epoch}/{self.epochs}: train {epoch.train_accuracy:.2%} "
            f"(loss {epoch.train_loss:.3f}), test {epoch.eval_accuracy:.2%} (loss {epoch.eval_loss:.3f}), "
            f"{epoch.seconds:.1f} s{self._left(epoch.epoch)}"
        )

    def _explain(self, why_not: Sequence[str]) -> None:
        if why_not:
            self.lines.say(f"{self.prefix}NOT COMPARABLE with the report: {'; '.join(why_not)}")

    def _outlook(self, epoch: int, done: int, total: int) -> str:
        return self._left(epoch - 1 + done / total)

    def _left(self, epochs_done: float) -> str:
        elapsed = time.monotonic() - self._started
        share = epochs_done / self.epochs
        left = elapsed * (1 - share) / share if share > 0.01 else self._seconds
        return "" if left is None else f", {duration(left)} left"


class ExportProgress(Progress, ExportCallbacks):
    """Shows an export: its steps, and each epoch if the network is trained again."""

    def on_retraining(self, run: Run, runtime: RuntimeConfig) -> None:
        """Print that the weights were not stored and the network is retrained."""
        self.prefix, self.epochs, self.last = f"run {run.id}: ", run.recipe.epochs, ""
        self.lines.say(
            f"{self.prefix}its weights were not stored; retraining from its record: {run.recipe.describe()}, "
            f"seed {run.seed}, on {runtime.device}, {runtime.precision}"
        )

    def on_epoch_end(self, epoch: Epoch) -> None:
        """Print the figures of the epoch."""
        shown = "" if math.isnan(epoch.eval_accuracy) else f", validation {epoch.eval_accuracy:.2%}"
        self.last = shown
        self.lines.say(
            f"{self.prefix}epoch {epoch.epoch}/{self.epochs}: train {epoch.train_accuracy:.2%} "
            f"(loss {epoch.train_loss:.3f}){shown}, {epoch.seconds:.1f} s"
        )
