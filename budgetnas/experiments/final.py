"""The final: the best of a search trained again with fresh seeds, a winner named, and the test split read once.

The search's accuracies chose the finalists, so they flatter them; the finalists' fresh validation accuracies name the
winner, so the best of these flatters it a little; the test accuracies choose nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from budgetnas.architecture import count
from budgetnas.data import Data, DataRequest
from budgetnas.data.test_split import load_test
from budgetnas.errors import InputError, RunFailedError, SearchFailedError
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
    DataPlace,
    all_training_images,
    load_study_data,
    study_specification,
    validation_images,
)
from budgetnas.samplers.choice import rank, smoothed_scores
from budgetnas.space.search_space import Candidate
from budgetnas.space.specification import ChoiceProtocol, StudySpecification
from budgetnas.storage import SEARCHED, Records, Role, Run, State
from budgetnas.storage.finals import (
    Finalist,
    FinalPlan,
    FinalRecord,
    finals_of,
    name_winner,
    record_reading,
    start_final,
)
from budgetnas.training import Callbacks, RuntimeConfig, Task
from budgetnas.training.device import Normaliser, to_device
from budgetnas.training.evaluation import evaluate
from budgetnas.training.measure import measure_pace
from budgetnas.training.weights import from_safetensors

TEST_REASON: Final = "final: the winner's and the reference's networks, trained on training and validation images"


@dataclass(frozen=True, slots=True)
class FinishRequest:
    """Which study to finish, and how.

    Attributes:
        study: Its name.
        place: Where its data lie.
        protocol: How many finalists and seeds; nothing: as the study says, or the default.
    """

    study: str
    place: DataPlace
    protocol: ChoiceProtocol | None = None


@dataclass(frozen=True, slots=True)
class FinalTraining:
    """A training of a final, about to be made.

    Attributes:
        name: Which entrant it trains.
        part: ``train``, or ``train + validation``.
        seed: Its training seed.
        epochs: Its epochs.
        done: Trainings of the final before it.
        total: Trainings of the final, as far as is known.
        seconds_left: Estimated time of it and all after it; nothing where memory ran out.
    """

    name: str
    part: str
    seed: int
    epochs: int
    done: int
    total: int
    seconds_left: float | None


class FinalView(Callbacks):
    """Whoever shows a final."""

    def final_planned(self, result: FinalResult, *, resumed: bool) -> None:
        """Hear who is in the final, begun now or in an earlier call (`resumed`)."""

    def final_training(self, training: FinalTraining) -> None:
        """Hear which training starts."""


def finish(
    request: FinishRequest, records: Records, runtimes: Sequence[RuntimeConfig], stopper: Stopper, view: FinalView
) -> FinalResult:
    """Hold a study's final, go on with one that was begun, or return the result of one that was held.

    A final that was held is held again where the study was searched on since, or another protocol is asked for: the
    test split is then read once more, which is told and recorded.

    Args:
        request: Which study, and how.
        records: The storage.
        runtimes: Where and in which precision: the fastest of them is taken, the likely one first.
        stopper: Notes requests to stop.
        view: Whoever shows progress.

    Raises:
        InputError: If the request cannot be met.
        SearchFailedError: If no entrant could be trained.
        Interrupted: If a stop was requested; complete trainings are recorded.
    """
    specification = study_specification(records, request.study)
    protocol = _protocol(specification, request)
    searched = _searched(records, request.study)
    held = _held(records, request.study, protocol, searched)
    if held is not None:
        return result_of(records, held)
    view.on_progress("loading data")
    data, data_request = load_study_data(specification, request.study, request.place)
    last = finals_of(records, request.study)[-1:]
    resumed = bool(last) and last[0].read_at is None
    final = last[0] if resumed else _begin(records, request.study, protocol, searched, specification, view)
    result = result_of(records, final)
    view.final_planned(result, resumed=resumed)
    view.on_progress("timing a few training steps")
    holder = _Holder(records, final, data, _clock(result, data, runtimes), stopper, view)
    holder.choose()
    holder.train_for_the_test()
    holder.read_the_test_split(data_request)
    return result_of(records, final_of(records, final))


def final_of(records: Records, final: FinalRecord) -> FinalRecord:
    """Return a final's record as it is now."""
    return next(one for one in finals_of(records, final.study) if one.id == final.id)


def plan_final(
    runs: Sequence[Run], accuracies: Sequence[float], protocol: ChoiceProtocol, specification: StudySpecification
) -> FinalPlan:
    """Return what a final trains: the best distinct candidates by smoothed score, and the best seed.

    Args:
        runs: Complete trainings of the search.
        accuracies: Their validation accuracies after the last epoch.
        protocol: How many finalists.
        specification: The study's.
    """
    candidates = [Candidate(run.architecture, run.recipe) for run in runs]
    scores = smoothed_scores(candidates, accuracies)
    reached: dict[tuple[str, str], list[float]] = {}
    for candidate, accuracy in zip(candidates, accuracies, strict=True):
        reached.setdefault(candidate.key, []).append(accuracy)
    places = rank(candidates, scores)
    ranked = tuple(_finalist(runs[place], scores[place], reached[candidates[place].key]) for place in places)
    seeds = {candidate.key for candidate, run in zip(candidates, runs, strict=True) if run.label in specification.seeds}
    reference = next((one for one, place in zip(ranked, places, strict=True) if candidates[place].key in seeds), None)
    return FinalPlan(protocol=protocol, finalists=ranked[: protocol.finalists], reference=reference)


def _finalist(run: Run, score: float, accuracies: Sequence[float]) -> Finalist:
    return Finalist(run=run.id, score=score, accuracy=statistics.fmean(accuracies), trainings=len(accuracies))


def _protocol(specification: StudySpecification, request: FinishRequest) -> ChoiceProtocol:
    fixed, asked = specification.choice, request.protocol
    if fixed is not None and asked is not None and fixed != asked:
        rule = f"study {request.study!r} was created with {fixed.finalists} finalists and {fixed.seeds} seeds"
        shown = f"{asked.finalists}, {asked.seeds}"
        raise InputError("--finalists, --final-seeds", shown, rule, "leave both out")
    return fixed or asked or ChoiceProtocol()


def _searched(records: Records, study: str) -> list[Run]:
    runs = [run for run in records.runs(study=study) if run.role in SEARCHED and run.state is State.COMPLETE]
    if not runs:
        rule = "has no complete training to choose from"
        raise InputError("STUDY", study, rule, "search first: budgetnas search --study NAME --trials N")
    return runs


def _held(records: Records, study: str, protocol: ChoiceProtocol, searched: Sequence[Run]) -> FinalRecord | None:
    """Return the last final if it was held by this protocol over all that was searched."""
    last = next(reversed(finals_of(records, study)), None)
    if last is None or last.read_at is None or last.plan.protocol != protocol:
        return None
    return None if any((run.ended_at or 0.0) > last.started_at for run in searched) else last


def _begin(
    records: Records,
    study: str,
    protocol: ChoiceProtocol,
    searched: Sequence[Run],
    specification: StudySpecification,
    view: FinalView,
) -> FinalRecord:
    read = [one.read_at for one in finals_of(records, study) if one.read_at is not None]
    if read:
        at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(read[-1]))
        view.on_message(
            f"the test split was read for this study before (last on {at}); this final will read it again, and what "
            "was learnt from the first reading may have shaped what is chosen now: the record says so"
        )
    curves = records.curves(run.id for run in searched)
    accuracies = [curves[run.id][-1].eval_accuracy for run in searched]
    return start_final(records, study, plan_final(searched, accuracies, protocol, specification))


@dataclass(frozen=True, slots=True)
class _Clock:
    """The fastest runtime, and what a training takes in it; nothing where memory ran out."""

    runtime: RuntimeConfig
    seconds: Callable[[Entrant, int, int], float] | None


def _clock(result: FinalResult, data: Data, runtimes: Sequence[RuntimeConfig]) -> _Clock:
    images, typical = validation_images(data, runtimes[0]), result.entrants[0]
    task = Task(typical.architecture, typical.recipe, 0, images.train, images.evaluation, images.normalisation)
    runtime, pace = measure_pace(task, runtimes[0], runtimes[1:])
    if pace is None:
        return _Clock(runtime, None)

    def seconds(one: Entrant, trained: int, evaluated: int) -> float:
        epochs, macs = one.recipe.epochs, count(one.architecture).macs
        return pace.seconds(macs, trained=trained * epochs, evaluated=evaluated * epochs)

    return _Clock(runtime, seconds)


@dataclass(frozen=True, slots=True)
class _Part:
    """One of the two halves of a final: the images it trains on, its seeds, and whose networks."""

    name: str
    first_seed: int
    entrants: tuple[Entrant, ...]
    keep_weights: bool

    def trainings(self, protocol: ChoiceProtocol) -> list[tuple[Entrant, int]]:
        seeds = final_seeds(self.first_seed, protocol)
        return [(one, seed) for one in self.entrants for seed in seeds]


@dataclass(slots=True)
class _Holder:
    records: Records
    final: FinalRecord
    data: Data
    clock: _Clock
    stopper: Stopper
    view: FinalView
    done: int = 0

    @property
    def result(self) -> FinalResult:
        return result_of(self.records, final_of(self.records, self.final))

    def choose(self) -> None:
        """Train every entrant on the training images and name the best mean on the validation images."""
        images = validation_images(self.data, self.clock.runtime)
        result = self.result
        part = _Part("train", FIRST_VALIDATION_SEED, result.entrants, keep_weights=False)
        failed = self._train(part, images)
        if result.winner is not None:
            return
        held = [one for one in self.result.entrants if one.run not in failed]
        if not held:
            raise SearchFailedError(f"no entrant of the final could be trained; study {self.final.study}")
        best = max(held, key=lambda one: (statistics.fmean(one.validation), -one.params))
        name_winner(self.records, self.final.id, best.run)

    def train_for_the_test(self) -> None:
        """Train winner and reference on training and validation images, and keep their weights."""
        images = all_training_images(self.data, self.clock.runtime)
        part = _Part("train + validation", FIRST_TEST_SEED, self._tested(), keep_weights=True)
        failed = self._train(part, images)
        if failed:
            raise SearchFailedError("a training of the winner or the reference failed; the test split was not read")

    def read_the_test_split(self, request: DataRequest) -> None:
        """Evaluate all of these networks on the test split, in one recorded event."""
        self.view.on_progress("reading the test split")
        runtime = self.clock.runtime
        device = runtime.torch_device
        test = to_device(load_test(request), device)
        images = all_training_images(self.data, runtime)
        normalise = Normaliser.of(images.normalisation, device, runtime.memory_format)
        accuracies = {}
        for one, seed in _Part("", FIRST_TEST_SEED, self._tested(), keep_weights=True).trainings(self._protocol):
            run = self.records.find_complete(self._request(one, seed).key(images.identity), study=self.final.study)
            tensors = None if run is None else self.records.weights(run.id)
            assert run is not None and tensors is not None, "a complete training of this part has weights"
            network = from_safetensors(one.architecture, tensors).to(device).to(memory_format=runtime.memory_format)
            _, accuracy = evaluate(network, test, normalise, runtime, tick=self.stopper.check)
            accuracies[run.id] = run.epochs_done, accuracy
        record_reading(self.records, self.final, accuracies, len(test), TEST_REASON)

    @property
    def _protocol(self) -> ChoiceProtocol:
        return self.final.plan.protocol

    def _tested(self) -> tuple[Entrant, ...]:
        return tuple(one for one in self.result.entrants if one.is_winner or one.is_reference)

    def _request(self, one: Entrant, seed: int) -> RunRequest:
        candidate = Candidate(one.architecture, one.recipe)
        return RunRequest(candidate, seed, Role.FINAL, study=self.final.study, label=one.label)

    def _train(self, part: _Part, images: RunImages) -> set[int]:
        """Make the trainings of a part that are not made; return the entrants that failed."""
        failed: set[int] = set()
        trainings = part.trainings(self._protocol)
        for place, (one, seed) in enumerate(trainings):
            self.stopper.check()
            if one.run in failed:
                continue
            request = self._request(one, seed)
            known = self.records.find_complete(request.key(images.identity), study=self.final.study)
            if known is None:
                self.view.final_training(self._training(part, place, trainings, images))
                try:
                    record_training(
                        request,
                        images,
                        self.clock.runtime,
                        self.records,
                        self.stopper,
                        self.view,
                        keep_weights=part.keep_weights,
                    )
                except RunFailedError as error:
                    self.view.on_message(
                        f"{one.name} is out of the final: its training with seed {seed} failed: {error}"
                    )
                    failed.add(one.run)
        self.done += len(trainings)
        return failed

    def _training(
        self, part: _Part, place: int, trainings: Sequence[tuple[Entrant, int]], images: RunImages
    ) -> FinalTraining:
        one, seed = trainings[place]
        return FinalTraining(
            name=one.name,
            part=part.name,
            seed=seed,
            epochs=one.recipe.epochs,
            done=self.done + place,
            total=self.done + len(trainings) + (0 if part.keep_weights else 2 * self._protocol.seeds),
            seconds_left=self._seconds_left(part, place, trainings, images),
        )

    def _seconds_left(
        self, part: _Part, place: int, trainings: Sequence[tuple[Entrant, int]], images: RunImages
    ) -> float | None:
        seconds = self.clock.seconds
        if seconds is None:
            return None
        left = sum(seconds(one, len(images.train), len(images.evaluation)) for one, _ in trainings[place:])
        if part.keep_weights:
            return left
        largest = max(self.result.entrants, key=lambda one: count(one.architecture).macs)
        later = seconds(largest, len(images.train) + len(images.evaluation), 0)
        return left + 2 * self._protocol.seeds * later
