"""The final evaluation: retrain the best of a search with fresh seeds, choose a winner, evaluate it on the test split.

The search's accuracies chose the finalists, so they are optimistic. The finalists' fresh validation accuracies choose
the winner, so the best of these is slightly optimistic. The test accuracies choose nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from budgetnas.data import Data, DataRequest
from budgetnas.data.test_split import load_test
from budgetnas.errors import Cancelled, RunFailedError, SearchFailedError, TrainedElsewhere
from budgetnas.experiments.final_plan import FinishRequest, is_current, protocol_of, searched_runs, start_final
from budgetnas.experiments.final_results import (
    FIRST_TEST_SEED,
    FIRST_VALIDATION_SEED,
    Entrant,
    FinalResult,
    final_seeds,
    result_of,
)
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunImages, RunRequest, record_training
from budgetnas.runs.reopen import (
    all_training_images,
    load_study_data,
    study_specification,
    validation_images,
)
from budgetnas.runs.timing import Timing, time_steps
from budgetnas.storage import Records, Role, Run
from budgetnas.storage.finals import FinalRecord, TestResult
from budgetnas.training import Callbacks, Runtime
from budgetnas.training.device import Normaliser, to_device
from budgetnas.training.engine import applied
from budgetnas.training.evaluation import evaluate
from budgetnas.training.memory import free_cached_memory
from budgetnas.training.weights import from_safetensors

TEST_REASON: Final = "final: the winner's and the reference's networks, trained on training and validation images"


@dataclass(frozen=True, slots=True)
class FinalTraining:
    """The next run of a final."""

    name: str  # name of the entrant
    part: str  # its training images: ``train``, or ``train + validation``
    seed: int
    epochs: int
    done: int  # number of runs of the final before it
    total: int  # number of runs of the final, as far as known
    seconds_left: float | None  # estimated time of this and all later runs, or None if memory ran out


@dataclass(frozen=True, slots=True)
class LongTrainings:
    """The long trainings that a final is about to make."""

    epochs: int
    seeds: int
    networks: int  # 1 or 2: the winner and, unless it is the same network, the reference
    seconds: float | None  # estimated time of the missing trainings, or None if memory ran out


@dataclass(frozen=True, slots=True)
class Together:
    """Several processes that train the runs of a final."""

    shares: int  # expected speed-up over a single process
    # Lets them train the missing runs of the final with that number, and returns when they have ended.
    train: Callable[[int], None]


class FinalCallbacks(Callbacks):
    """Hooks of a final evaluation."""

    def on_final_start(self, result: FinalResult, *, resumed: bool) -> None:
        """Called with the entrants; `resumed` if an earlier call started the final."""

    def on_long_trainings(self, planned: LongTrainings) -> None:
        """Called after `on_final_start` if the networks to evaluate on the test split are trained longer."""

    def on_final_run(self, training: FinalTraining) -> None:
        """Called before each run of this process."""

    def on_worker_run(self, text: str) -> None:
        """Called with a line on each run that a worker has ended."""


def finish(
    request: FinishRequest,
    records: Records,
    runtime: Runtime,
    stopper: Stopper,
    callbacks: FinalCallbacks,
    together: Together | None = None,
) -> FinalResult:
    """Run or resume the final evaluation of a study, or return the result of a finished one.

    A new final runs after a finished one if the study was searched further, or if other numbers of finalists, seeds or
    epochs are requested. The test split is then used once more, which is reported and recorded. Runs that an
    earlier final has recorded are not repeated.

    Raises:
        InputError: If the request is invalid.
        SearchFailedError: If no entrant could be trained.
        Interrupted: If a stop was requested; complete runs are recorded.
    """
    asked_at = time.time()
    specification = study_specification(records, request.study)
    searched = searched_runs(records, request.study)
    protocol = protocol_of(specification, request, next(reversed(records.finals(request.study)), None))
    last = records.last_final(request.study, protocol)
    if last is not None and is_current(last, searched):
        return result_of(records, last)
    callbacks.on_progress("loading data")
    data, data_request = load_study_data(specification, request.study, request.place)
    final = last
    if final is None or not final.is_unfinished:
        final = start_final(records, request.study, protocol, searched, specification, callbacks, asked_at)
    result = result_of(records, final)
    if not final.is_unfinished:  # another process has run it meanwhile
        return result
    callbacks.on_final_start(result, resumed=final is last)
    callbacks.on_progress("timing a few training steps")
    first, images = result.entrants[0], validation_images(data, runtime)
    timing = time_steps(first.run.candidate, images, runtime)
    long_timing = timing if final.final_epochs is None else time_steps(first.long_candidate, images, runtime)
    evaluation = _Evaluation(records, final, data, timing, long_timing, stopper, callbacks)
    evaluation.report_long_trainings(1 if together is None else together.shares)
    if together is not None:
        free_cached_memory(runtime.torch_device)  # leaves a GPU's memory to the others
        together.train(final.id)
    evaluation.choose_winner()
    evaluation.train_for_test()
    evaluation.evaluate_on_test(data_request)
    return evaluation.result


def help_finish(
    request: FinishRequest,
    records: Records,
    runtime: Runtime,
    stopper: Stopper,
    callbacks: FinalCallbacks,
    number: int | None = None,  # number of the final; None for the last
) -> None:
    """Train the missing runs of a study's unfinished final, which other processes do too; read no test split.

    Raises:
        InputError: If the study's data differ here.
        SearchFailedError: If no entrant could be trained.
        Interrupted: If a stop was requested; complete runs are recorded.
    """
    finals = reversed(records.finals(request.study))
    last = next((final for final in finals if number in (None, final.id)), None)
    if last is None or not last.is_unfinished:
        return
    specification = study_specification(records, request.study)
    data, _ = load_study_data(specification, request.study, request.place)
    timing = Timing(runtime, None)
    evaluation = _Evaluation(records, last, data, timing, timing, stopper, callbacks)
    evaluation.choose_winner()
    evaluation.train_for_test()


@dataclass(frozen=True, slots=True)
class _Part:
    """One half of a final: the first chooses the winner, the second trains for the test split."""

    name: str  # its training images, in words
    images: RunImages  # images for its runs
    entrants: tuple[Entrant, ...]  # the entrants that it trains
    seeds: range  # their training seeds
    failed_since: float  # runs that failed since this time are not tried again; in seconds since 1970 UTC
    is_last: bool = False  # whether its networks are evaluated on the test split

    @property
    def trainings(self) -> list[tuple[Entrant, int]]:
        return [(entrant, seed) for entrant in self.entrants for seed in self.seeds]


@dataclass(slots=True)
class _Evaluation:
    records: Records
    final: FinalRecord
    data: Data
    timing: Timing
    long_timing: Timing  # of steps with the recipe of the second half
    stopper: Stopper
    callbacks: FinalCallbacks
    done: int = field(default=0, init=False)
    _took: float = field(default=0.0, init=False)  # seconds of the runs of this process
    _expected: float = field(default=0.0, init=False)  # their estimated time
    _begun_at: float = field(default_factory=time.time, init=False)

    @property
    def result(self) -> FinalResult:
        return result_of(self.records, self._record())

    def report_long_trainings(self, shares: int) -> None:
        """Report the long trainings, and how long they will take, before anything is trained.

        Args:
            shares: Expected speed-up over a single process.
        """
        protocol, tested = self.final.plan.protocol, self._tested()
        if protocol.final_epochs is None:
            return
        if tested:
            networks, seeds = len(tested), final_seeds(FIRST_TEST_SEED, protocol)
            missing = [entrant for entrant in tested for seed in seeds if not self._known(entrant, seed, is_last=True)]
            times = [self._seconds(entrant, is_last=True) for entrant in missing]
        else:
            networks = self._networks()
            times = networks * protocol.seeds * [self._longest()]
        seconds = _total(times)
        shared = None if seconds is None else seconds / shares
        self.callbacks.on_long_trainings(LongTrainings(protocol.final_epochs, protocol.seeds, networks, shared))

    def choose_winner(self) -> None:
        """Train every entrant on the train images and choose the best mean on the validation images."""
        protocol, result = self.final.plan.protocol, self.result
        images = validation_images(self.data, self.timing.runtime)
        seeds = final_seeds(FIRST_VALIDATION_SEED, protocol)
        part = _Part("train", images, result.entrants, seeds, self._failed_since(result.entrants, seeds))
        if result.winner is not None:
            self.done += len(part.trainings)
            return
        self._train(part)
        trained = [entrant for entrant in self.result.entrants if len(entrant.validation) == protocol.seeds]
        if not trained:
            raise SearchFailedError(f"no entrant of the final could be trained; study {self.final.study}")
        best = max(trained, key=lambda entrant: (statistics.fmean(entrant.validation), -entrant.run.params))
        self.records.name_winner(self.final.id, best.run.id)

    def train_for_test(self) -> None:
        """Train winner and reference on train and validation images, and keep their weights."""
        if self._train(self._test_part()):
            raise SearchFailedError("a run of the winner or the reference failed; the test split was not used")

    def evaluate_on_test(self, request: DataRequest) -> None:
        """Evaluate all networks of the second half on the test split, as one recorded event.

        In float32, as exported networks compute, whatever the precision that they were trained in.
        """
        self._check_stopped()
        if not self._record().is_unfinished:  # another process has evaluated
            return
        self.callbacks.on_progress("evaluating on the test split")
        part, device = self._test_part(), self.timing.runtime.torch_device
        images = load_test(request, self.data.identity)
        test = to_device(images, device)
        results = {}
        for entrant, seed in part.trainings:
            run = self._known(entrant, seed, is_last=True)
            tensors = None if run is None else self.records.weights(run.id)
            assert run is not None and tensors is not None, "a complete run of this half has weights"
            runtime = replace(self.timing.runtime.runtime_for(run.architecture), precision="float32")
            normalise = Normaliser.of(part.images.normalisation, device, runtime.memory_format)
            network = from_safetensors(run.architecture, tensors).to(device).to(memory_format=runtime.memory_format)
            classes = run.architecture.classes
            with applied(runtime):
                found = evaluate(network, test, normalise, runtime, tick=self.stopper.check, classes=classes)
            results[run.id] = TestResult(run.epochs_done, found.accuracy, found.balanced_accuracy, found.correct)
        counts = images.class_counts(self.data.classes)
        self.records.save_class_counts(self.data.identity.digest(), "test", counts)
        self.records.record_reading(self.final, results, len(test), TEST_REASON)

    def _failed_since(self, entrants: Sequence[Entrant], seeds: range) -> float:
        """Return from when on failures count: since the start of the final, or if all entrants failed, from now on."""
        started, study = self.final.started_at, self.final.study

        def has_failed(entrant: Entrant) -> bool:
            keys = [self._request(entrant, seed, is_last=False).key(self.data.identity) for seed in seeds]
            return any(self.records.failed_since(key, study=study, at=started) for key in keys)

        return self._begun_at if all(map(has_failed, entrants)) else started

    def _check_stopped(self) -> None:
        """Raise if the final is to stop.

        Raises:
            Interrupted: If a stop was requested, or the study was cancelled.
        """
        self.stopper.check()
        if self.records.is_cancelled(self.final.study):
            raise Cancelled(self.final.study)

    def _record(self) -> FinalRecord:
        """Return the final's record as it stands now."""
        return next(final for final in self.records.finals(self.final.study) if final.id == self.final.id)

    def _tested(self) -> tuple[Entrant, ...]:
        """Return winner and reference; none before the winner is known."""
        return tuple(entrant for entrant in self.result.entrants if entrant.is_winner or entrant.is_reference)

    def _test_part(self) -> _Part:
        seeds = final_seeds(FIRST_TEST_SEED, self.final.plan.protocol)
        images = all_training_images(self.data, self.timing.runtime)
        return _Part("train + validation", images, self._tested(), seeds, self._begun_at, is_last=True)

    def _request(self, entrant: Entrant, seed: int, *, is_last: bool) -> RunRequest:
        candidate = entrant.long_candidate if is_last else entrant.run.candidate
        return RunRequest(candidate, seed, Role.FINAL, study=self.final.study, label=entrant.run.label)

    def _known(self, entrant: Entrant, seed: int, *, is_last: bool) -> Run | None:
        key = self._request(entrant, seed, is_last=is_last).key(self.data.identity)
        return self.records.find_complete(key, study=self.final.study)

    def _train(self, part: _Part) -> set[int]:
        """Train the missing runs of a half; return the entrants that failed.

        Runs that other processes are training come last, so that processes share the work.
        """
        failed: set[int] = set()
        elsewhere: list[int] = []
        for place in range(len(part.trainings)):
            try:
                self._train_run(part, place, failed, wait=False)
            except TrainedElsewhere as error:
                self.callbacks.on_elsewhere(error.run, waiting=False)
                elsewhere.append(place)
        for place in elsewhere:
            self._train_run(part, place, failed, wait=True)
        self.done += len(part.trainings)
        return failed

    def _train_run(self, part: _Part, place: int, failed: set[int], *, wait: bool) -> None:
        """Train a run unless it is known; if it fails, add its entrant to `failed`."""
        self._check_stopped()
        entrant, seed = part.trainings[place]
        if entrant.run.id in failed or self._known(entrant, seed, is_last=part.is_last):
            return
        self.callbacks.on_final_run(self._training(part, place))
        try:
            run = record_training(
                self._request(entrant, seed, is_last=part.is_last),
                part.images,
                self.timing.runtime,
                self.records,
                self.stopper,
                self.callbacks,
                keep_weights=part.is_last,
                wait=wait,
                failed_since=part.failed_since,
            )
        except RunFailedError as error:
            out = "" if part.is_last else " is out of the final: its"
            self.callbacks.on_message(f"{entrant.name}{out} run with seed {seed} failed: {error}")
            failed.add(entrant.run.id)
        else:
            self._took += sum(epoch.seconds for epoch in self.records.curve(run))
            self._expected += self._estimate(entrant, is_last=part.is_last) or 0.0

    def _training(self, part: _Part, place: int) -> FinalTraining:
        entrant, seed = part.trainings[place]
        later = 0 if part.is_last else self._networks() * self.final.plan.protocol.seeds
        left = [self._seconds(entrant, is_last=part.is_last) for entrant, _ in part.trainings[place:]]
        return FinalTraining(
            name=entrant.name,
            part=part.name,
            seed=seed,
            epochs=self._request(entrant, seed, is_last=part.is_last).candidate.recipe.epochs,
            done=self.done + place,
            total=self.done + len(part.trainings) + later,
            seconds_left=_total(left + later * [self._longest()]),
        )

    def _networks(self) -> int:
        """Return how many networks the second half trains at most, before the winner is known."""
        return 1 if self.final.plan.reference is None else 2

    def _longest(self) -> float | None:
        """Return the time of the largest entrant's run in the second half: no run there takes longer."""
        return self._seconds(max(self.result.entrants, key=lambda entrant: entrant.run.macs), is_last=True)

    def _seconds(self, entrant: Entrant, *, is_last: bool) -> float | None:
        """Return the estimated time of a run, corrected by that of the runs so far."""
        estimate = self._estimate(entrant, is_last=is_last)
        return estimate if estimate is None or not self._expected else estimate * self._took / self._expected

    def _estimate(self, entrant: Entrant, *, is_last: bool) -> float | None:
        """Return the time of a run as the timed steps predict it, or None if memory ran out."""
        macs, trained, evaluated = entrant.run.macs, len(self.data.train), len(self.data.validation)
        if not is_last:
            return self.timing.seconds(macs, entrant.run.recipe.epochs, trained=trained, evaluated=evaluated)
        epochs = entrant.long_candidate.recipe.epochs
        return self.long_timing.seconds(macs, epochs, trained=trained + evaluated, evaluated=0)


def _total(seconds: Sequence[float | None]) -> float | None:
    """Return the sum, or None if any time is unknown."""
    return None if None in seconds else sum(time or 0.0 for time in seconds)
