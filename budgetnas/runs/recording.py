"""A recorded training: claim it, record every epoch, and record how it ended.

Every training of a search, final, replay or comparison passes through here, so the records are complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from budgetnas.data.identity import DataIdentity
from budgetnas.errors import Cancelled, Interrupted, LeaseLost, RunFailedError, StoppedEarly, TrainedElsewhere
from budgetnas.metrics import Epoch
from budgetnas.runs.checkpoints import RunCheckpointer
from budgetnas.runs.interrupts import Stopper
from budgetnas.space.candidates import Candidate
from budgetnas.space.recipe import Normalisation
from budgetnas.storage import SEARCHED, Records, Role, Run, RunKey, State
from budgetnas.storage.engine import exclusive
from budgetnas.storage.leases import Heartbeat, Lease, holding, in_training, note_work, require_study, take_lease
from budgetnas.storage.queue_records import is_cancelled_now
from budgetnas.storage.retry import retried
from budgetnas.training import Callbacks, Checkpointer, Runtime, RuntimeConfig, Task, runtime_to_resume, train
from budgetnas.training.device import DeviceImages
from budgetnas.training.network import ResNet
from budgetnas.training.weights import to_safetensors

TrainFunction = Callable[[Task, RuntimeConfig, Callbacks, Checkpointer], ResNet]
"""`budgetnas.training.train`, or a stand-in that takes no time, to measure everything else."""
LOST: Final = "{} was taken over by another process: this one sent no heartbeat for too long and records no more of it"
_POLL_SECONDS: Final = 1.0
_CANCEL_SECONDS: Final = 2.0
"""Seconds between two questions whether the study is cancelled."""


@dataclass(frozen=True, slots=True)
class RunImages:
    """The images of a training, on its device."""

    identity: DataIdentity
    train: DeviceImages
    evaluation: DeviceImages  # images to evaluate on after each epoch; may be empty
    normalisation: Normalisation  # constants for both
    # Why a test split is evaluated on, recorded with every evaluation; None for other images.
    test_reason: str | None = None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A requested training and where it belongs."""

    candidate: Candidate
    seed: int  # seed of initial weights, order and augmentation
    role: Role
    study: str | None = None  # its study, or None for a replay
    trial: int | None = None  # number of its Optuna trial, or None for a final or a replay
    label: str = ""  # name of its initial trial or replay, or empty

    def runtime(self, runtime: Runtime, images: RunImages) -> RuntimeConfig:
        """Return the runtime config of this training."""
        trained = self.candidate.recipe.epochs * len(images.train)
        return runtime.runtime_for(self.candidate.architecture, images=trained)

    def key(self, data: DataIdentity) -> RunKey:
        """Return the key that equal trainings share."""
        architecture, recipe = self.candidate.key
        return RunKey(architecture, recipe, data.digest(), self.seed, self.role)


@dataclass(frozen=True, slots=True)
class Claim:
    """The result of claiming a training: its record, and whether this process must train it."""

    run: int
    # The record if it is complete or another process is training it; None if this process must train it.
    known: Run | None = None
    resumed: bool = False  # whether an earlier training of the run was interrupted


def record_training(
    request: RunRequest,
    images: RunImages,
    runtime: Runtime,
    records: Records,
    stopper: Stopper,
    callbacks: Callbacks,
    *,
    keep_weights: bool = False,
    wait: bool = True,
    failed_since: float | None = None,
) -> int:
    """Train and record a run, or use its record; waits for another process that is training the same run.

    An interrupted run resumes from its checkpoint.

    `callbacks.on_epoch_end` is called after the epoch was recorded and may raise `StoppedEarly`.

    Returns:
        Number of the record.

    Raises:
        RunFailedError: If the training failed; the record has the reason.
        Interrupted: If a stop was requested; the record has that state.
        TrainedElsewhere: If another process is training the run, and `wait` is off.
    """
    waiting, config = False, request.runtime(runtime, images)
    while True:
        stopper.check()
        claim, lease = _claim_alone(request, images.identity, config, records, failed_since)
        if lease is not None:
            try:
                with holding(records, lease) as heartbeat:
                    train_run(
                        claim,
                        request,
                        images,
                        config,
                        records,
                        stopper,
                        callbacks,
                        heartbeat,
                        keep_weights=keep_weights,
                    )
                return claim.run
            except LeaseLost:
                callbacks.on_message(LOST.format(f"run {claim.run}"))
        elif claim.known is not None and claim.known.state is not State.RUNNING:
            return claim.run
        elif not wait:
            raise TrainedElsewhere(claim.run)
        elif not waiting:
            callbacks.on_elsewhere(claim.run, waiting=True)
        waiting = True
        time.sleep(_POLL_SECONDS)


@retried
def claim_run(
    request: RunRequest, identity: DataIdentity, runtime: RuntimeConfig, records: Records, lease: Lease
) -> Claim:
    """Claim a training, and start or resume its record if this process must train it.

    The lease of this process then names the run.
    """
    with exclusive(records.engine):
        return _claim_for(lease, request, identity, runtime, records)


@retried
def claim_repeat(
    request: RunRequest, identity: DataIdentity, runtime: RuntimeConfig, records: Records, lease: Lease
) -> tuple[Claim, RunRequest]:
    """Claim another training of a candidate, as `claim_run` does, with a seed of its own.

    An interrupted repeat keeps its seed. Any other repeat gets the candidate's next seed. Seed and record are reserved
    under the same lock, so simultaneous repeats get different seeds.

    Returns:
        The claim, and the request with that seed.
    """
    with exclusive(records.engine):
        seed = records.repeat_seed(request.key(identity), study=request.study, trial=request.trial)
        request = replace(request, seed=seed)
        return _claim_for(lease, request, identity, runtime, records), request


@retried
def _claim_alone(
    request: RunRequest,
    identity: DataIdentity,
    runtime: RuntimeConfig,
    records: Records,
    failed_since: float | None,
) -> tuple[Claim, Lease | None]:
    """Claim a training outside a search, with a new lease if this process must train it."""
    with exclusive(records.engine):
        if request.study is not None and request.role not in SEARCHED:
            require_study(records, request.study)
        if failed_since is not None:
            key = request.key(identity)
            failed = records.failed_since(key, study=request.study, at=failed_since)
            if failed is not None and records.find_usable(key, study=request.study) is None:
                raise RunFailedError(failed.reason)
        claim = _claim(request, identity, runtime, records, None)
        return claim, take_lease(records, run=claim.run) if claim.known is None else None


def _claim_for(
    lease: Lease, request: RunRequest, identity: DataIdentity, runtime: RuntimeConfig, records: Records
) -> Claim:
    claim = _claim(request, identity, runtime, records, lease)
    if claim.known is None:
        note_work(records, lease, trial=request.trial, run=claim.run)
    return claim


def _claim(
    request: RunRequest, identity: DataIdentity, runtime: RuntimeConfig, records: Records, lease: Lease | None
) -> Claim:
    key, candidate = request.key(identity), request.candidate
    found = records.find_usable(key, study=request.study)
    if found is not None and found.state is State.RUNNING:
        if in_training(records, found.id, ignored=lease):
            return Claim(found.id, found)
        found = records.run(found.id)  # it may have ended since; now no process trains it
    if found is not None and found.state in (State.COMPLETE, State.PRUNED):
        return Claim(found.id, found)
    if found is not None and found.state is not State.FAILED:
        records.reopen_run(found.id, request.trial)
        return Claim(found.id, resumed=True)
    run = records.start_run(
        key=key,
        architecture=candidate.architecture,
        recipe=candidate.recipe,
        data=identity.model_dump_json(),
        environment=runtime.to_json(),
        study=request.study,
        trial=request.trial,
        label=request.label,
    )
    return Claim(run)


def train_run(
    claim: Claim,
    request: RunRequest,
    images: RunImages,
    runtime: RuntimeConfig,
    records: Records,
    stopper: Stopper,
    callbacks: Callbacks,
    heartbeat: Heartbeat,
    trainer: TrainFunction = train,
    *,
    keep_weights: bool = False,
) -> ResNet:
    """Train the run that `claim_run` started, from its last checkpoint if it has one.

    An error of the storage passes through: it says nothing about the candidate.

    Raises:
        RunFailedError: If the training failed; the record has the reason.
        StoppedEarly: If a callback ended it; the record has the reason.
        Interrupted: If a stop was requested, or the study is cancelled; the record has that state.
        LeaseLost: If another process took the run over; this one records no more of it.
    """
    run, candidate = claim.run, request.candidate
    task = Task(
        candidate.architecture, candidate.recipe, request.seed, images.train, images.evaluation, images.normalisation
    )
    runtime = runtime_to_resume(records.run(run).environment, runtime)
    checkpointer = RunCheckpointer(run, runtime, records, callbacks.on_message, resumed=claim.resumed)
    study = None if request.role is Role.COMPARE else request.study  # a search and its final are cancelled
    recorder = _Recorder(run, study, images.test_reason, records, stopper, callbacks, heartbeat)
    try:
        network = trainer(task, runtime, recorder, checkpointer)
        tensors = to_safetensors(network)
        if keep_weights:
            records.save_weights(run, tensors)
    except RunFailedError as error:
        records.finish_run(run, State.FAILED, error.reason)
        checkpointer.clear()
        raise
    except StoppedEarly as stop:
        records.finish_run(run, State.PRUNED, str(stop))
        checkpointer.clear()
        raise
    except (Interrupted, KeyboardInterrupt):
        records.finish_run(run, State.INTERRUPTED, "interrupted")
        raise
    except (LeaseLost, SQLAlchemyError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        records.finish_run(run, State.FAILED, reason)
        checkpointer.clear()
        raise RunFailedError(reason) from error
    records.finish_run(run, State.COMPLETE, weights_sha256=hashlib.sha256(tensors).hexdigest())
    checkpointer.clear()
    return network


@dataclass(slots=True)
class _Recorder(Callbacks):
    run: int
    study: str | None
    test_reason: str | None
    records: Records
    stopper: Stopper
    callbacks: Callbacks
    heartbeat: Heartbeat
    _asked: float = field(default_factory=time.monotonic, init=False)

    def on_step(self, epoch: int, done: int, total: int) -> None:
        self.heartbeat.check()
        self.stopper.check()
        self._check_cancelled()
        self.callbacks.on_step(epoch, done, total)

    def on_epoch_end(self, epoch: Epoch) -> None:
        self.records.add_epoch(self.run, epoch, test_reason=self.test_reason)
        self.callbacks.on_epoch_end(epoch)

    def _check_cancelled(self) -> None:
        if self.study is None or time.monotonic() - self._asked < _CANCEL_SECONDS:
            return
        self._asked = time.monotonic()
        with contextlib.suppress(SQLAlchemyError):  # the database is away: the training need not wait for it
            if is_cancelled_now(self.records, self.study):
                raise Cancelled(self.study)

    def on_restart(self, runtime: RuntimeConfig, reason: str) -> None:
        self.records.restart_run(self.run, runtime.to_json())
        self.callbacks.on_restart(runtime, reason)
