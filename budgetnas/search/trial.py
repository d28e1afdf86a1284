"""One trial: its parameters to a candidate, past the gate, to a recorded training or a record that serves."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from budgetnas.architecture.budget import Verdict
from budgetnas.errors import EXIT_FAILED, Interrupted, RunFailedError, StoppedEarly
from budgetnas.metrics import Epoch
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import Claim, RunImages, RunRequest, TrainFunction, claim_repeat, claim_run, train_run
from budgetnas.samplers.attributes import add, compact, describe, repeat_of
from budgetnas.samplers.constraint_filter import FIXED_PARAMS
from budgetnas.search.listener import SearchListener, Tally, TrialEnd, TrialStart
from budgetnas.search.pruning import compared, verdict
from budgetnas.search.study import SEED_ATTRIBUTE, OpenStudy, requeue
from budgetnas.space.search_space import Candidate, CandidateSpace, Choice, LogRange, Params, Range, Value, WholeRange
from budgetnas.storage import Rejection, Role, State
from budgetnas.storage.engine import storage_failed
from budgetnas.storage.leases import Heartbeat, Lease, note_work, trained
from budgetnas.training import Callbacks, Runtime, RuntimeConfig, train

FIRST_SEED = 0
"""Training seed of a candidate's first run; a repeat gets the next."""


class RejectedError(RunFailedError):
    """A trial whose candidate the gate turned away: no run was made."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """A curve, its training seed, why it is what it is if that needs telling, and whether it was cut."""

    curve: tuple[Epoch, ...]
    seed: int
    note: str = ""
    cut: bool = False


@dataclass(frozen=True, slots=True)
class TrialRunner:
    """Runs the trials of an open study: an objective for ``study.optimize``.

    Attributes:
        opened: The study.
        images: Training and validation images, on the device.
        runtime: Chooses the runtime config of each trial.
        stopper: Notes requests to stop.
        listener: Whoever shows progress.
        slot: The right to train one run.
        heartbeat: What keeps it.
        trainer: What trains.
    """

    opened: OpenStudy
    images: RunImages
    runtime: Runtime
    stopper: Stopper
    listener: SearchListener
    slot: Lease
    heartbeat: Heartbeat
    trainer: TrainFunction = train

    def __call__(self, trial: optuna.Trial) -> float:
        """Return the validation accuracy after the last epoch.

        Raises:
            RunFailedError: If its training failed.
            RejectedError: If the candidate is over the budget.
            optuna.TrialPruned: If it was cut at a rung.
            Interrupted: If a stop was requested; the trial is queued again.
            LeaseLost: If another process took the trial over; nothing more is written.
        """
        note_work(self.opened.records, self.slot, trial=trial.number)
        candidate = suggest_candidate(trial, self.opened.specification.candidates)
        repeated = repeat_of(trial)
        request = RunRequest(
            candidate,
            FIRST_SEED,
            Role.SEARCH if repeated is None else Role.REPEAT,
            study=self.opened.name,
            trial=trial.number,
            label=str(trial.user_attrs.get(SEED_ATTRIBUTE, "")),
        )
        try:
            counted = self.opened.specification.budget.verdict(candidate.architecture)
            describe(trial, self.opened.storage, candidate, counted)
            self._gate(trial, candidate, counted)
            outcome = self._outcome(trial, request, counted.params)
        except RunFailedError as error:
            add(trial, reason=error.reason, **({"rejected": True} if isinstance(error, RejectedError) else {}))
            self.listener.trial_ended(TrialEnd(trial.number, None, error.reason, tally(self.opened)))
            raise
        except KeyboardInterrupt:
            requeue(self.opened, trial.number)
            raise Interrupted from None  # Optuna would catch it and count the trial as failed
        except Interrupted:
            requeue(self.opened, trial.number)
            raise
        except (SQLAlchemyError, StorageInternalError) as error:
            raise Interrupted(EXIT_FAILED, storage_failed(error)) from None  # the trial is queued again later
        last = outcome.curve[-1]
        more = ({"reason": outcome.note} if outcome.cut else {}) | ({} if repeated is None else {"seed": outcome.seed})
        add(trial, curve=compact(outcome.curve), **more)
        cut_after = last.epoch if outcome.cut else None
        self.listener.trial_ended(
            TrialEnd(trial.number, last.eval_accuracy, outcome.note, tally(self.opened), cut_after)
        )
        if outcome.cut:
            raise optuna.TrialPruned(outcome.note)
        return last.eval_accuracy

    def _outcome(self, trial: optuna.Trial, request: RunRequest, params: int) -> _Outcome:
        records = self.opened.records
        claim, request = self._claim(request)
        run, known = claim.run, claim.known
        reporter = self._reporter(trial, request, run)
        if known is None:
            candidate, told = request.candidate, tally(self.opened)
            self.listener.trial_started(
                TrialStart(trial.number, request.label, candidate, params, told, repeat_of(trial), request.seed)
            )
            try:
                train_run(
                    claim,
                    request,
                    self.images,
                    request.runtime(self.runtime, self.images),
                    records,
                    self.stopper,
                    reporter,
                    self.heartbeat,
                    self.trainer,
                )
            except StoppedEarly as stop:
                return _Outcome(records.curve(run), request.seed, stop.reason, cut=True)
            return _Outcome(records.curve(run), request.seed)
        if known.state is State.RUNNING:
            self._reject(trial, request.candidate)
            raise RejectedError(f"turned away: trial {known.trial} trains the same candidate at this moment")
        curve = records.curve(run)
        for epoch in curve:
            reporter.report(epoch)
        note = f"known already: the record of run {run} was used"
        cut = known.state is State.PRUNED
        return _Outcome(curve, request.seed, f"{known.reason}; {note}" if cut else note, cut)

    def _claim(self, request: RunRequest) -> tuple[Claim, RunRequest]:
        """Claim the training; that of a repeat has a seed of its own."""
        identity, records = self.images.identity, self.opened.records
        runtime = request.runtime(self.runtime, self.images)
        if request.role is Role.REPEAT:
            return claim_repeat(request, identity, runtime, records, self.slot)
        return claim_run(request, identity, runtime, records, self.slot), request

    def _reporter(self, trial: optuna.Trial, request: RunRequest, run: int) -> _Reporter:
        epochs = request.candidate.recipe.epochs
        to_the_end = request.label or request.role is Role.REPEAT
        rungs = () if to_the_end else self.opened.specification.fidelity.rungs(epochs)
        return _Reporter(
            self.opened,
            trial.number,
            trial._trial_id,
            run,
            frozenset(rungs),
            epochs,
            self.listener,
        )

    def _gate(self, trial: optuna.Trial, candidate: Candidate, counted: Verdict) -> None:
        """Catch what came past the sampler: parameters that somebody enqueued."""
        if not counted.fits:
            self._reject(trial, candidate)
            raise RejectedError(f"rejected before it was built: {counted.sentence()}")

    def _reject(self, trial: optuna.Trial, candidate: Candidate) -> None:
        budget = self.opened.specification.budget
        attributes = self.opened.storage.get_trial_system_attrs(trial._trial_id)
        origin = "enqueued" if FIXED_PARAMS in attributes else "sampler"
        rejection = Rejection.of(candidate.architecture, origin, budget, trial.number)
        self.opened.records.reject(self.opened.name, [rejection])


def suggest_candidate(trial: optuna.Trial, space: CandidateSpace) -> Candidate:
    """Return the candidate that a trial's parameters name, each suggested by the trial."""
    ranges = space.ranges()
    params: Params = {}
    for name in space.joint_names():
        params[name] = _suggest(trial, name, ranges[name])
    for name in space.names_for(params["optimizer"]):
        params[name] = _suggest(trial, name, ranges[name])
    return space.candidate(params)


def tally(opened: OpenStudy) -> Tally:
    """Return what became of all proposals of a study so far."""
    over, duplicate = opened.records.rejection_counts(opened.name)
    budget = opened.specification.budget
    broken = opened.records.broken_limits(opened.name, budget) if len(budget.limits) > 1 else ()
    counts = opened.records.search_counts(opened.name)
    return Tally(
        proposed=over + duplicate + counts.trials,
        rejected=over,
        duplicate=duplicate,
        trained=trained(opened.records, opened.name),
        failed=counts.failed,
        cut=counts.pruned,
        epochs_saved=counts.epochs_saved,
        repeats=counts.repeats,
        broken=broken,
    )


@dataclass(frozen=True, slots=True)
class _Reporter(Callbacks):
    opened: OpenStudy
    trial: int
    trial_id: int
    run: int
    rungs: frozenset[int]
    epochs: int
    listener: SearchListener

    def on_step(self, epoch: int, done: int, total: int) -> None:
        self.listener.on_step(epoch, done, total)

    def on_epoch_end(self, epoch: Epoch) -> None:
        self.report(epoch)
        self.listener.on_epoch_end(epoch)
        if epoch.epoch in self.rungs:
            self._judge(epoch)

    def on_restart(self, runtime: RuntimeConfig, reason: str) -> None:
        self.listener.on_restart(runtime, reason)

    def on_message(self, text: str) -> None:
        self.listener.on_message(text)

    def report(self, epoch: Epoch) -> None:
        """Store the intermediate value; unlike ``trial.report`` this replaces one of an interrupted training."""
        self.opened.storage.set_trial_intermediate_value(self.trial_id, epoch.epoch, epoch.eval_accuracy)

    def _judge(self, epoch: Epoch) -> None:
        fidelity, records = self.opened.specification.fidelity, self.opened.records
        states = compared(fidelity)
        others = records.accuracies_at(self.opened.name, epoch.epoch, states=states, but=self.run)
        cut = verdict(fidelity, epoch.eval_accuracy, others)
        if cut is not None:
            raise StoppedEarly(cut.reason(epoch, self.epochs))


def _suggest(trial: optuna.Trial, name: str, one: Range) -> Value:
    match one:
        case WholeRange(low, high):
            return trial.suggest_int(name, low, high)
        case LogRange(low, high):
            return trial.suggest_float(name, low, high, log=True)
        case Choice(values):
            return values[values.index(trial.suggest_categorical(name, values))]
