"""Studies and replays of plausible, made-up curves, written into real records."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from budgetnas.architecture import count, named
from budgetnas.data.identity import DataIdentity
from budgetnas.experiments.final_results import Entrant, FinalResult
from budgetnas.experiments.published import recorded_run
from budgetnas.experiments.replay_results import ReplayResult
from budgetnas.metrics import Epoch, difference_interval
from budgetnas.report import StudyTables
from budgetnas.report.tables import chosen_network, parts_of
from budgetnas.report.values import Expected, RankedRun
from budgetnas.space.candidates import Candidate
from budgetnas.space.initial_trials import initial_candidate
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.specification import ChoiceProtocol, StudySpecification
from budgetnas.storage import Records, Rejection, Role, RunKey, State
from budgetnas.storage.engine import open_engine
from budgetnas.storage.opening import create_tables
from budgetnas.storage.urls import parse_storage

STUDY = "cifar10-5M"
NASTY = "<script>alert(1)</script>"
EPOCHS = 6
INPUTS = InputShape(in_channels=3, size=32, classes=10)


def data(name: str = "cifar10", subset: int | None = None, subset_eval: int | None = None) -> DataIdentity:
    return DataIdentity(
        name=name, content_hash="0" * 64, subset=subset, subset_eval=subset_eval, split_seed=0, resolution=32
    )


def specification(identity: DataIdentity, max_params: int = 5_000_000) -> StudySpecification:
    recipes = RecipeSpace(epochs=EPOCHS)
    return StudySpecification(max_params=max_params, space=SearchSpace(), recipes=recipes, data=identity, inputs=INPUTS)


def plausible_curve(final: float, epochs: int = EPOCHS, seed: int = 0) -> list[Epoch]:
    """A curve that rises to `final` and is a little higher one epoch before the end."""
    generator = random.Random(seed)
    curve = []
    for epoch in range(1, epochs + 1):
        left = math.exp(-3 * epoch / epochs) - math.exp(-3)
        accuracy = final * (1 - left) + generator.uniform(-0.01, 0.01) * (epoch < epochs)
        accuracy = min(1.0, final + 0.005) if epoch == epochs - 1 else accuracy
        loss = 2.3 * (1 - accuracy) + 0.05
        curve.append(Epoch(epoch, loss * 0.8, min(1.0, accuracy + 0.02), loss, accuracy, 0.1 * left, 12.5))
    return curve


def add_run(
    records: Records,
    study: str,
    candidate: Candidate,
    trial: int,
    curve: Sequence[Epoch],
    *,
    label: str = "",
    seed: int = 0,
    role: Role = Role.SEARCH,
    failed: str = "",
    state: State = State.COMPLETE,
) -> int:
    identity = data()
    architecture, recipe = candidate.key
    run = records.start_run(
        key=RunKey(architecture, recipe, identity.digest(), seed, role),
        architecture=candidate.architecture,
        recipe=candidate.recipe,
        data=identity.model_dump_json(),
        environment=json.dumps({"device": "cpu", "precision": "float32", "threads": 2, "micro_batch": None}),
        study=study,
        trial=trial,
        label=label,
    )
    for epoch in curve:
        records.add_epoch(run, epoch)
    records.finish_run(run, State.FAILED if failed else state, failed)
    return run


def open_records(folder: Path) -> Records:
    engine = open_engine(parse_storage(f"sqlite:///{folder / 'records.db'}"))
    create_tables(engine)
    return Records(engine)


def save(records: Records, study: str, spec: StudySpecification) -> None:
    records.save_specification(study, spec.canonical_json(), spec.digest)


def seeded_study(records: Records, study: str = STUDY, runs: int = 12, label: str = "") -> StudySpecification:
    """Seeds v1-sgd, v1-adam, v2-sgd trained; v2-adam failed; the rest searched; proposals rejected."""
    spec = specification(data(subset=2000, subset_eval=1000))
    save(records, study, spec)
    for trial, (name, accuracy) in enumerate({"v1-sgd": 0.86, "v1-adam": 0.80, "v2-sgd": 0.94}.items()):
        candidate = initial_candidate(name, spec.recipes, INPUTS)
        add_run(records, study, candidate, trial, plausible_curve(accuracy, seed=trial), label=name)
    candidate = initial_candidate("v2-adam", spec.recipes, INPUTS)
    reason = f"loss is not finite in epoch 2 {label}"
    add_run(records, study, candidate, 3, plausible_curve(0.3)[:1], label="v2-adam", failed=reason)
    generator = random.Random(1)
    for trial in range(4, runs + 1):
        params = spec.space.draw_feasible(INPUTS, spec.budget, generator)
        rate = generator.uniform(0.02, 0.4)
        params |= {"optimizer": "sgd", "sgd_learning_rate": rate, "sgd_weight_decay": 5e-4}
        accuracy = 0.62 + 0.045 * math.log10(count(spec.space.architecture(params, INPUTS)).params)
        curve = plausible_curve(accuracy, seed=trial)
        add_run(records, study, spec.candidates.candidate(params), trial, curve, label=label if trial == 4 else "")
    records.reject(study, rejected_proposals(spec))
    return spec


def add_pruned(records: Records, spec: StudySpecification, study: str = STUDY, trials: int = 3) -> None:
    """Runs that end after the first, second, ... epoch and look worse than the others."""
    generator = random.Random(5)
    for trial in range(90, 90 + trials):
        params = spec.space.draw_feasible(INPUTS, spec.budget, generator)
        params |= {"optimizer": "adam", "adam_learning_rate": 1e-3, "adam_weight_decay": 0.0}
        curve = plausible_curve(0.7, seed=trial)[: trial - 89]
        add_run(records, study, spec.candidates.candidate(params), trial, curve, state=State.PRUNED)


def with_final(tables: StudyTables, *, readings: int = 1, decided: bool = True) -> StudyTables:
    """The same study with a final of its three best and the seed v1-sgd; the second in rank wins."""
    protocol = ChoiceProtocol(finalists=3, seeds=3)
    reference = next((candidate for candidate in tables.ranking if candidate.label == "v1-sgd"), tables.ranking[-1])
    chosen = list(dict.fromkeys((*tables.ranking[:3], reference)))
    tested = decided and readings > 0
    entrants = tuple(
        _entrant(run, place, reference=run is reference, decided=decided, tested=tested)
        for place, run in enumerate(chosen)
    )
    winner = next((entrant for entrant in entrants if entrant.is_winner), None)
    held_against = next(entrant for entrant in entrants if entrant.is_reference)
    final = FinalResult(
        study=tables.study,
        number=1,
        protocol=protocol,
        entrants=entrants,
        winner=winner,
        reference=held_against,
        difference=difference_interval(winner.test, held_against.test) if winner and tested else None,
        binomial_error=0.0028 if tested else None,
        test_images=10_000 if tested else None,
        readings=readings,
        shipped_run=None,
    )
    max_params = tables.summary.max_params
    best = Expected(tables.ranking[0].run, tables.ranking[0].accuracy)
    network = chosen_network(tables.ranking, final, max_params, best)
    assert network is not None
    return replace(tables, final=final, chosen=network, winner=parts_of(network.run.architecture, max_params))


def _entrant(run: RankedRun, place: int, *, reference: bool, decided: bool, tested: bool) -> Entrant:
    drops = ((0.034, 0.041, 0.029), (0.002, 0.004, -0.001), (0.011, 0.008, 0.015), (0.004, -0.003, 0.001))[place]
    won = decided and place == 1
    validation = tuple(run.accuracy - drop for drop in (drops if decided else drops[:place]))
    return Entrant(
        run=run.run,
        score=run.accuracy - 0.8 * drops[0],
        search_accuracy=run.accuracy,
        search_trainings=len(run.trainings),
        is_finalist=not reference or place < 3,
        is_reference=reference,
        is_winner=won,
        validation=validation,
        test=tuple(run.accuracy - 0.006 - drop for drop in drops) if tested and (won or reference) else (),
    )


def with_accuracy(candidate: RankedRun, accuracy: float) -> RankedRun:
    """The same candidate with another accuracy after the last epoch of every run."""
    trainings = [
        replace(training, curve=(*training.curve[:-1], replace(training.curve[-1], eval_accuracy=accuracy)))
        for training in candidate.trainings
    ]
    return replace(candidate, trainings=tuple(trainings))


def rejected_proposals(spec: StudySpecification) -> list[Rejection]:
    generator, found = random.Random(2), []
    while len(found) < 30:
        architecture = spec.space.architecture(spec.space.draw(generator), INPUTS)
        over = count(architecture).params - spec.max_params
        if over > 0:
            found.append(Rejection(architecture, "sampler", spec.max_params, over))
    big = named("resnet18")
    found.append(Rejection(big, "seed resnet18", spec.max_params, count(big).params - spec.max_params))
    found.append(Rejection(named("v2"), "sampler", spec.max_params, 0, duplicate=True))
    return found


def replay(records: Records, name: str, epochs: int, final: float, why_not: tuple[str, ...] = ()) -> ReplayResult:
    recorded = recorded_run(name)
    candidate = Candidate(named(recorded.network), recorded.recipe)
    run = add_run(records, "", candidate, 0, plausible_curve(final, epochs), label=name, role=Role.REPLAY)
    return ReplayResult(recorded, records.run(run), records.curve(run), why_not)
