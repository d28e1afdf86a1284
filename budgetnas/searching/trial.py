"""A trial: ask Optuna for its parameters, train the candidate or use its record, and report the result."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from budgetnas.architecture.budget import Verdict
from budgetnas.errors import EXIT_FAILED, Interrupted, LeaseLost, RestartNeeded, RunFailedError, StoppedEarly
from budgetnas.metrics import Epoch
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import Claim, RunImages, RunRequest, TrainFunction, claim_repeat, claim_run, train_run
from budgetnas.samplers.attributes import add, compact, describe, repeat_of
from budgetnas.samplers.constraint_filter import FIXED_PARAMS, SpaceUsedUpError
from budgetnas.searching.callbacks import SearchCallbacks, Tally, TrialEnd, TrialStart
from budgetnas.searching.expectation import Expectation
from budgetnas.searching.pruning import compared, verdict
from budgetnas.searching.study import INITIAL_TRIAL, OpenStudy, lose_trial, requeue
from budgetnas.space.candidates import Candidate, CandidateSpace
from budgetnas.space.ranges import Choice, LogRange, Params, Range, Steps, Value, exists
from budgetnas.storage import Rejection, Role, Run, State
from budgetnas.storage.engine import storage_failed
from budgetnas.storage.leases import Heartbeat, Lease, note_work, trained
from budgetnas.training import Callbacks, Runtime, RuntimeConfig, train

FIRST_SEED = 0
"""Training seed of a candidate's first run; each repeat gets the next."""


class RejectedError(RunFailedError):
    """A trial whose candidate was rejected, so that no run was made."""


@dataclass(frozen=True, slots=True)
class TrialRunner:
    """Runs trials of an open study."""

    opened: OpenStudy
    images: RunImages  # training and validation images, on the device
    runtime: Runtime  # chooses the runtime config of each trial
    stopper: Stopper
    callbacks: SearchCallbacks
    expectation: Expectation  # what the pruner ``model`` compares
    trainer: TrainFunction = train

    def run(self, slot: Lease, heartbeat: Heartbeat) -> bool:
        """Run a trial to its end, and report the result to Optuna; return whether it counts as trained.

        A trial whose training fails, or whose candidate is rejected, ends as failed, with the reason.

        Raises:
            SpaceUsedUpError: If no new candidate is left.
            Interrupted: If a stop was requested; the trial is requeued.
            RestartNeeded: If this process can no longer train; the trial is requeued, up to a limit.
            LeaseLost: If another process took the trial over.
        """
        records, trial = self.opened.records, self.opened.optuna_study.ask()
        try:
            note_work(records, slot, trial=trial.number)
            request, counted = self._propose(trial)
            claim, request = self._claim(request, slot)
            callbacks = self._callbacks(trial, request, claim.run)
            note, pruned = "", False
            if claim.known is None:
                self._announce(trial, request, counted)
                try:
                    train_run(
                        claim,
                        request,
                        self.images,
                        request.runtime(self.runtime, self.images),
                        records,
                        self.stopper,
                        callbacks,
                        heartbeat,
                        self.trainer,
                    )
                except StoppedEarly as stop:
                    note, pruned = str(stop), True
            else:
                note, pruned = self._use_record(trial, request, claim.known, callbacks)
            curve = records.curve(claim.run)
            if claim.resumed:  # perhaps from another trial that had proposed the same candidate
                for epoch in curve:
                    callbacks.store(epoch)
            self._report(trial, request, curve, note, pruned=pruned)
            return True
        except RunFailedError as error:
            self._fail(trial, error)
            return False
        except RestartNeeded as restart:
            self.callbacks.on_message(lose_trial(self.opened, slot, trial.number, restart.reason))
            raise
        except (Interrupted, KeyboardInterrupt):
            requeue(self.opened, trial.number)
            raise
        except LeaseLost:
            raise
        except SpaceUsedUpError as error:
            add(trial, reason=str(error), rejected=True)
            self._end(trial, TrialState.FAIL)
            raise
        except (SQLAlchemyError, StorageInternalError) as error:
            # The trial stays in the state RUNNING without a lease, so the next process requeues it.
            raise Interrupted(EXIT_FAILED, storage_failed(error)) from None
        except Exception:
            self._end(trial, TrialState.FAIL)
            raise

    def _propose(self, trial: optuna.Trial) -> tuple[RunRequest, Verdict]:
        """Return the training that a trial's parameters name, and the counts of its network.

        Raises:
            RejectedError: If a value is outside its range, or the network over the budget: enqueued parameters bypass
                the sampler.
        """
        specification = self.opened.specification
        candidate = suggest_candidate(trial, specification.candidates)
        repeated = repeat_of(trial)  # known once the sampler has proposed the parameters, which a trial asks for lazily
        counted = specification.budget.verdict(candidate.architecture)
        describe(trial, self.opened.storage, candidate, counted)
        if not counted.fits:
            self._reject(trial, candidate)
            raise RejectedError(f"rejected before it was built: {counted.sentence()}")
        request = RunRequest(
            candidate,
            FIRST_SEED,
            Role.SEARCH if repeated is None else Role.REPEAT,
            study=self.opened.name,
            trial=trial.number,
            label=str(trial.user_attrs.get(INITIAL_TRIAL, "")),
        )
        return request, counted

    def _claim(self, request: RunRequest, slot: Lease) -> tuple[Claim, RunRequest]:
        """Claim the training; a repeat gets a seed of its own."""
        identity, records = self.images.identity, self.opened.records
        runtime = request.runtime(self.runtime, self.images)
        if request.role is Role.REPEAT:
            return claim_repeat(request, identity, runtime, records, slot)
        return claim_run(request, identity, runtime, records, slot), request

    def _callbacks(self, trial: optuna.Trial, request: RunRequest, run: int) -> _TrialCallbacks:
        """Return the callbacks of a training; initial trials and repeats are never pruned."""
        epochs = request.candidate.recipe.epochs
        is_pruned = not request.label and request.role is not Role.REPEAT
        rungs = self.opened.specification.fidelity.rungs(epochs) if is_pruned else ()
        return _TrialCallbacks(
            self.opened, trial._trial_id, run, frozenset(rungs), epochs, self.callbacks, self.expectation
        )

    def _announce(self, trial: optuna.Trial, request: RunRequest, counted: Verdict) -> None:
        start = TrialStart(
            trial.number,
            request.label,
            request.candidate,
            counted.params,
            tally(self.opened),
            repeat_of(trial),
            request.seed,
        )
        self.callbacks.on_trial_start(start)

    def _use_record(
        self, trial: optuna.Trial, request: RunRequest, known: Run, callbacks: _TrialCallbacks
    ) -> tuple[str, bool]:
        """Take a trial's result from a record; return a note on that, and whether the record was pruned.

        Raises:
            RejectedError: If another process trains the candidate now.
        """
        if known.state is State.RUNNING:
            self._reject(trial, request.candidate)
            raise RejectedError(f"rejected: trial {known.trial} trains the same candidate now")
        for epoch in self.opened.records.curve(known.id):
            callbacks.store(epoch)
        pruned = known.state is State.PRUNED
        note = f"already known: the record of run {known.id} was used"
        return f"{known.reason}; {note}" if pruned else note, pruned

    def _report(
        self, trial: optuna.Trial, request: RunRequest, curve: tuple[Epoch, ...], note: str, *, pruned: bool
    ) -> None:
        """Report the accuracy after the last epoch; for a pruned trial Optuna takes it from the stored epochs."""
        last, values = curve[-1], {"reason": note} if pruned else {}
        value = self.opened.specification.measure.of(last)
        seed = {"seed": request.seed} if request.role is Role.REPEAT else {}
        add(trial, curve=compact(curve), **values, **seed)
        end = TrialEnd(trial.number, value, note, tally(self.opened), last.epoch if pruned else None)
        self.callbacks.on_trial_end(end)
        if pruned:
            self._end(trial, TrialState.PRUNED)
        else:
            self._end(trial, TrialState.COMPLETE, value)

    def _fail(self, trial: optuna.Trial, error: RunFailedError) -> None:
        add(trial, reason=error.reason, **({"rejected": True} if isinstance(error, RejectedError) else {}))
        self.callbacks.on_trial_end(TrialEnd(trial.number, None, error.reason, tally(self.opened)))
        self._end(trial, TrialState.FAIL)

    def _end(self, trial: optuna.Trial, state: TrialState, value: float | None = None) -> None:
        self.opened.optuna_study.tell(trial, value, state)

    def _reject(self, trial: optuna.Trial, candidate: Candidate) -> None:
        attributes = self.opened.storage.get_trial_system_attrs(trial._trial_id)
        origin = "enqueued" if FIXED_PARAMS in attributes else "sampler"
        rejection = Rejection.of(candidate.architecture, origin, self.opened.specification.budget, trial.number)
        self.opened.records.reject(self.opened.name, [rejection])


@dataclass(frozen=True, slots=True)
class _TrialCallbacks(Callbacks):
    """Stores every epoch for Optuna, passes it on, and ends the training at a rung if the pruner says so."""

    opened: OpenStudy
    trial_id: int
    run: int
    rungs: frozenset[int]
    epochs: int
    callbacks: SearchCallbacks
    expectation: Expectation

    def on_step(self, epoch: int, done: int, total: int) -> None:
        self.callbacks.on_step(epoch, done, total)

    def on_epoch_end(self, epoch: Epoch) -> None:
        self.store(epoch)
        self.callbacks.on_epoch_end(epoch)
        if epoch.epoch in self.rungs:
            self._judge(epoch)

    def on_restart(self, runtime: RuntimeConfig, reason: str) -> None:
        self.callbacks.on_restart(runtime, reason)

    def on_message(self, text: str) -> None:
        self.callbacks.on_message(text)

    def store(self, epoch: Epoch) -> None:
        """Store the intermediate value; unlike ``trial.report``, replace the value of an interrupted training."""
        value = self.opened.specification.measure.of(epoch)
        self.opened.storage.set_trial_intermediate_value(self.trial_id, epoch.epoch, value)

    def _judge(self, epoch: Epoch) -> None:
        study, records = self.opened.name, self.opened.records
        fidelity, measure = self.opened.specification.fidelity, self.opened.specification.measure
        accuracy = measure.of(epoch)
        if fidelity.pruner == "model":
            compared_with = self.expectation.compare(self.trial_id, epoch.epoch, accuracy)
            cut = None if compared_with is None else verdict(fidelity, *compared_with)
        else:
            others = records.values_at(study, epoch.epoch, measure, states=compared(fidelity), except_run=self.run)
            cut = verdict(fidelity, accuracy, others)
        if cut is not None:
            raise StoppedEarly(cut.reason(epoch, self.epochs, measure))


def suggest_candidate(trial: optuna.Trial, space: CandidateSpace) -> Candidate:
    """Return the candidate that a trial's parameters name, each suggested by the trial.

    Raises:
        RejectedError: If an enqueued value is outside its range.
    """
    ranges, conditions = space.ranges(), space.conditions()
    params: Params = {}
    for name in ranges:
        if exists(name, params, conditions):
            try:
                params[name] = _suggest(trial, name, ranges[name])
            except ValueError as error:  # by Optuna, for a value of another type or not among the choices
                if name not in trial._fixed_params:
                    raise  # by the sampler, which Optuna calls here
                raise RejectedError(f"rejected: {name} has a value outside its range ({error})") from None
    problem = space.problem(params)
    if problem is not None:
        raise RejectedError(f"rejected: {problem}")
    return space.candidate(params)


def tally(opened: OpenStudy) -> Tally:
    """Return the counts of a study's proposals so far, by outcome."""
    over, duplicate = opened.records.rejection_counts(opened.name)
    counts = opened.records.search_counts(opened.name)
    return Tally(
        proposed=over + duplicate + counts.trials,
        rejected=over,
        duplicate=duplicate,
        trained=trained(opened.records, opened.name),
        failed=counts.failed,
        pruned=counts.pruned,
        repeats=counts.repeats,
    )


def _suggest(trial: optuna.Trial, name: str, values: Range) -> Value:
    match values:
        case Steps(table):
            return trial.suggest_int(name, table[0], table[-1], log=True)
        case LogRange(low, high):
            return trial.suggest_float(name, low, high, log=True)
        case Choice(choices):
            return choices[choices.index(trial.suggest_categorical(name, choices))]
