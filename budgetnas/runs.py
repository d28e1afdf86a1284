"""One recorded training: start it, write down every epoch, and how it ended.

Searches and replays train through `record_training` alone, so that the records hold whatever was trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from budgetnas.data.device import DeviceImages
from budgetnas.data.identity import DataIdentity
from budgetnas.epoch import Epoch
from budgetnas.errors import Interrupted, RunFailedError, StoppedEarly
from budgetnas.network import ResNet
from budgetnas.recipe import Normalisation
from budgetnas.space import Candidate
from budgetnas.stopping import Stopper
from budgetnas.storage import Records, Role, RunKey, State
from budgetnas.train import NOTHING_KEPT, Keeper, Observer, Setup, Task, train
from budgetnas.weights import to_safetensors

TrainFunction = Callable[[Task, Setup, Observer, Keeper], ResNet]
"""What trains: `budgetnas.train.train`, or a stand-in that takes no time where all around it is measured."""


class RunListener(Protocol):
    """Whoever shows a training's progress."""

    def step(self, epoch: int, done: int, total: int) -> None:
        """Hear that `done` of `total` steps of `epoch` were made."""

    def epoch(self, epoch: Epoch) -> None:
        """Hear what an epoch gave, after it was recorded; may raise `StoppedEarly` to end the training there."""

    def restart(self, setup: Setup, reason: str) -> None:
        """Hear that the training begins again in another setup, and why."""


@dataclass(frozen=True, slots=True)
class RunImages:
    """The images of a training, on its device.

    Attributes:
        identity: Which data.
        fit: Images to learn from.
        evaluation: Images to look at after each epoch; may be none at all.
        normalisation: Constants for both.
        test_reason: Why the evaluation images are a test split, if they are; every look is then recorded.
    """

    identity: DataIdentity
    fit: DeviceImages
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

    def key(self, data: DataIdentity) -> RunKey:
        """Return what makes this training the same as another."""
        architecture, recipe = self.candidate.key
        return RunKey(architecture, recipe, data.digest(), self.seed, self.role)


def record_training(
    request: RunRequest,
    images: RunImages,
    setup: Setup,
    records: Records,
    stopper: Stopper,
    listener: RunListener,
    *,
    keep_weights: bool = False,
) -> tuple[int, ResNet]:
    """Make the training and record it.

    Args:
        request: Which training.
        images: Its images.
        setup: Where and in which precision.
        records: Where it is written down.
        stopper: Notes requests to stop.
        listener: Whoever shows progress.
        keep_weights: Whether the trained weights are kept in the storage; a record that is complete has them.

    Returns:
        Number of the record, and the trained network.

    Raises:
        RunFailedError: If the training failed; the record has the reason.
        Interrupted: If a stop was requested; the record says so.
    """
    run = begin_run(request, images, setup, records)
    trainer = _keeping(run, records) if keep_weights else train
    return run, train_run(run, request, images, setup, records, stopper, listener, trainer)


def _keeping(run: int, records: Records) -> TrainFunction:
    """Return training that keeps the weights of `run` before its record can be complete."""

    def train_and_keep(task: Task, setup: Setup, observer: Observer, keeper: Keeper) -> ResNet:
        network = train(task, setup, observer, keeper)
        records.save_weights(run, to_safetensors(network))
        return network

    return train_and_keep


def begin_run(request: RunRequest, images: RunImages, setup: Setup, records: Records) -> int:
    """Record that the training begins; return the number of its record, to be given to `train_run`."""
    candidate = request.candidate
    return records.start_run(
        key=request.key(images.identity),
        architecture=candidate.architecture,
        recipe=candidate.recipe,
        data=images.identity.model_dump_json(),
        environment=setup.to_json(),
        study=request.study,
        trial=request.trial,
        label=request.label,
    )


def train_run(
    run: int,
    request: RunRequest,
    images: RunImages,
    setup: Setup,
    records: Records,
    stopper: Stopper,
    listener: RunListener,
    trainer: TrainFunction = train,
) -> ResNet:
    """Make the training that `begin_run` recorded.

    A failure of the storage passes through: it says nothing about the candidate.

    Raises:
        RunFailedError: If the training failed; the record has the reason.
        StoppedEarly: If the listener ended it; the record has the reason.
        Interrupted: If a stop was requested; the record says so.
    """
    candidate = request.candidate
    task = Task(
        candidate.architecture, candidate.recipe, request.seed, images.fit, images.evaluation, images.normalisation
    )
    try:
        network = trainer(task, setup, _Recorder(run, images.test_reason, records, stopper, listener), NOTHING_KEPT)
    except RunFailedError as error:
        records.finish_run(run, State.FAILED, error.reason)
        raise
    except StoppedEarly as stop:
        records.finish_run(run, State.PRUNED, stop.reason)
        raise
    except (Interrupted, KeyboardInterrupt):
        records.finish_run(run, State.INTERRUPTED, "interrupted")
        raise
    except SQLAlchemyError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        records.finish_run(run, State.FAILED, reason)
        raise RunFailedError(reason) from error
    records.finish_run(run, State.COMPLETE)
    return network


@dataclass(frozen=True, slots=True)
class _Recorder:
    run: int
    test_reason: str | None
    records: Records
    stopper: Stopper
    listener: RunListener

    def step(self, epoch: int, done: int, total: int) -> None:
        self.stopper.check()
        self.listener.step(epoch, done, total)

    def epoch(self, epoch: Epoch) -> None:
        self.records.add_epoch(self.run, epoch, test_reason=self.test_reason)
        self.listener.epoch(epoch)

    def restart(self, setup: Setup, reason: str) -> None:
        self.records.restart_run(self.run, setup.to_json())
        self.listener.restart(setup, reason)
