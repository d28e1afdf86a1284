"""One recorded training: start it, write down every epoch, and how it ended.

Searches and replays train through `record_training` alone, so that the records hold whatever was trained.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from budgetnas.data.identity import DataIdentity
from budgetnas.errors import Interrupted, LeaseLost, RunFailedError, StoppedEarly
from budgetnas.metrics import Epoch
from budgetnas.runs.checkpoints import RunCheckpointer
from budgetnas.runs.interrupts import Stopper
from budgetnas.space.recipe import Normalisation
from budgetnas.space.search_space import Candidate
from budgetnas.storage import Records, Role, Run, RunKey, State
from budgetnas.storage.engine import exclusive
from budgetnas.storage.leases import Heartbeat, Lease, holding, in_training, note_work, take_lease
from budgetnas.storage.retry import retried
from budgetnas.training import Callbacks, Checkpointer, Runtime, RuntimeConfig, Task, runtime_to_resume, train
from budgetnas.training.device import DeviceImages
from budgetnas.training.network import ResNet
from budgetnas.training.weights import to_safetensors

TrainFunction = Callable[[Task, RuntimeConfig, Callbacks, Checkpointer], ResNet]
"""What trains: `budgetnas.training.train`, or a stand-in that takes no time where all around it is measured."""
LOST: Final = (
    "{} was taken over by another process, for this one was not heard of for too long; it writes no more of it"
)
_POLL_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class RunImages:
    """The images of a training, on its device.

    Attributes:
        identity: Which data.
        train: Training images.
        evaluation: Images to evaluate on after each epoch; may be empty.
        normalisation: Constants for both.
        test_reason: Why the evaluation images are a test split, if they are; every look is then recorded.
    """

    identity: DataIdentity
    train: DeviceImages
    evaluation: DeviceImages
    normalisation: Normalisation
    test_reason: str | None = None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Which training to make, and what it belongs to.

    Attributes:
        candidate: Architecture and recipe.
        seed: Seed of initial weights, order and augmentation.
        role: Why it is made.
        study: The study it belongs to; nothing for a replay.
        trial: The Optuna trial it belongs to; nothing for a final or a replay.
        label: Name of the seed or replay it is, or empty.
    """

    candidate: Candidate
    seed: int
    role: Role
    study: str | None = None
    trial: int | None = None
    label: str = ""

    def runtime(self, runtime: Runtime, images: RunImages) -> RuntimeConfig:
        """Return the config that this training starts in."""
        seen = self.candidate.recipe.epochs * len(images.train)
        return runtime.runtime_for(self.candidate.architecture, images=seen)

    def key(self, data: DataIdentity) -> RunKey:
        """Return what makes this training the same as another."""
        architecture, recipe = self.candidate.key
        return RunKey(architecture, recipe, data.digest(), self.seed, self.role)


@dataclass(frozen=True, slots=True)
class Claim:
    """What came of asking for a training.

    Attributes:
        run: Number of its record.
        known: The record, if it serves as it is or another process makes it at this moment; nothing: train it.
        taken_up: Whether its training was begun before, by this process or another one.
    """

    run: int
    known: Run | None = None
    taken_up: bool = False


def record_training(
    request: RunRequest,
    images: RunImages,
    runtime: Runtime,
    records: Records,
    stopper: Stopper,
    callbacks: Callbacks,
    *,
    keep_weights: bool = False,
) -> int:
    """Make the training and record it; if another process makes it, wait for that, and if it is there, use it.

    One that was interrupted goes on from its checkpoint.

    Args:
        request: Which training.
        images: Its images.
        runtime: Where and in which precision.
        records: Where it is written down.
        stopper: Notes requests to stop.
        callbacks: Hooks; `on_epoch_end` is called after the epoch was recorded and may raise `StoppedEarly`.
        keep_weights: Whether the trained weights are kept in the storage; a record that is complete has them.

    Returns:
        Number of the record.

    Raises:
        RunFailedError: If the training failed; the record has the reason.
        Interrupted: If a stop was requested; the record says so.
    """
    waiting, config = False, request.runtime(runtime, images)
    while True:
        stopper.check()
        claim, lease = _claim_alone(request, images.identity, config, records)
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
        elif not waiting:
            callbacks.on_message(f"another process trains run {claim.run}, which is needed here too; waiting for it")
        waiting = True
        time.sleep(_POLL_SECONDS)


@retried
def claim_run(
    request: RunRequest, identity: DataIdentity, runtime: RuntimeConfig, records: Records, lease: Lease
) -> Claim:
    """Return the record of a training, begun or taken up if this process is to make it.

    Args:
        request: Which training.
        identity: Its data.
        runtime: Where it would be made.
        records: The storage.
        lease: What this process holds; it then is told the run.
    """
    with exclusive(records.engine):
        return _claim_for(lease, request, identity, runtime, records)


@retried
def claim_repeat(
    request: RunRequest, identity: DataIdentity, runtime: RuntimeConfig, records: Records, lease: Lease
) -> tuple[Claim, RunRequest]:
    """Claim one more training of a candidate of a study, as `claim_run` does; its seed is not the request's.

    It has the seed that the trial trained it with before, if it was interrupted; else the next one of the candidate,
    reserved under the lock under which the record is made: whoever repeats it at the same time gets another.

    Returns:
        The claim, and the request with that seed.
    """
    with exclusive(records.engine):
        seed = records.repeat_seed(request.key(identity), study=request.study, trial=request.trial)
        request = replace(request, seed=seed)
        return _claim_for(lease, request, identity, runtime, records), request


@retried
def _claim_alone(
    request: RunRequest, identity: DataIdentity, runtime: RuntimeConfig, records: Records
) -> tuple[Claim, Lease | None]:
    """Claim a training outside a search; with it comes a lease of its own, if this process is to make it."""
    with exclusive(records.engine):
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
    known = records.find_claimed(key, study=request.study)
    if known is not None and (known.state is not State.RUNNING or in_training(records, known.id, besides=lease)):
        return Claim(known.id, known)
    found = known or records.find_interrupted(key, study=request.study)
    if found is not None:
        records.reopen_run(found.id, request.trial)
        return Claim(found.id, taken_up=True)
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
    """Make the training that `claim_run` recorded, from its last checkpoint if there is one.

    A failure of the storage passes through: it says nothing about the candidate.

    Raises:
        RunFailedError: If the training failed; the record has the reason.
        StoppedEarly: If a callback ended it; the record has the reason.
        Interrupted: If a stop was requested; the record says so.
        LeaseLost: If another process took the run over; nothing more is written.
    """
    run, candidate = claim.run, request.candidate
    task = Task(
        candidate.architecture, candidate.recipe, request.seed, images.train, images.evaluation, images.normalisation
    )
    runtime = runtime_to_resume(records.run(run).environment, runtime)
    checkpointer = RunCheckpointer(run, runtime, records, callbacks.on_message, taken_up=claim.taken_up)
    try:
        network = trainer(
            task, runtime, _Recorder(run, images.test_reason, records, stopper, callbacks, heartbeat), checkpointer
        )
        tensors = to_safetensors(network)
        if keep_weights:
            records.save_weights(run, tensors)
    except RunFailedError as error:
        records.finish_run(run, State.FAILED, error.reason)
        checkpointer.clear()
        raise
    except StoppedEarly as stop:
        records.finish_run(run, State.PRUNED, stop.reason)
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


@dataclass(frozen=True, slots=True)
class _Recorder(Callbacks):
    run: int
    test_reason: str | None
    records: Records
    stopper: Stopper
    callbacks: Callbacks
    heartbeat: Heartbeat

    def on_step(self, epoch: int, done: int, total: int) -> None:
        self.heartbeat.check()
        self.stopper.check()
        self.callbacks.on_step(epoch, done, total)

    def on_epoch_end(self, epoch: Epoch) -> None:
        self.records.add_epoch(self.run, epoch, test_reason=self.test_reason)
        self.callbacks.on_epoch_end(epoch)

    def on_restart(self, runtime: RuntimeConfig, reason: str) -> None:
        self.records.restart_run(self.run, runtime.to_json())
        self.callbacks.on_restart(runtime, reason)
