"""One real study: a search, its final, and fresh trainings of what was chosen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import typer

from benchmarks.small_studies.quiet import Quiet
from budgetnas.data import DataRequest
from budgetnas.errors import BudgetnasError
from budgetnas.experiments.final import finish
from budgetnas.experiments.final_plan import FinishRequest
from budgetnas.experiments.final_results import FinalResult
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunRequest, record_training
from budgetnas.runs.reopen import DataPlace, load_study_data, study_specification, validation_images
from budgetnas.searching.options import SearchOptions
from budgetnas.searching.session import run_search
from budgetnas.space.candidates import Candidate
from budgetnas.space.search_space import SearchSpace
from budgetnas.storage import SEARCHED, Records, Role, State
from budgetnas.training import Runtime

FIRST_FRESH_SEED: Final = 3_000
"""Training seed of the first fresh training, which chooses nothing: a final's begin at 1,000 and 2,000."""
SPACE: Final = SearchSpace(blocks=((1, 1), (1, 2), (1, 2)), widths=(4, 6, 8, 12, 16))
"""Networks of up to a few million multiply-accumulates, so that many studies fit into an hour of a CPU."""


@dataclass(frozen=True, slots=True)
class Design:
    """What is the same for all studies.

    Attributes:
        data: Which data.
        max_params: Budget.
        trials: Trials of a study.
        epochs: Epochs of a trial.
        sampler: Name of the sampler.
        fresh: Fresh trainings of each network that was chosen.
        storage: Where all is recorded.
        batch: Images in one optimiser step, or None for the default.
    """

    data: DataRequest
    max_params: int
    trials: int
    epochs: int
    sampler: str
    fresh: int
    storage: str
    batch: int | None = None


def study_name(pruner: str, seed: int) -> str:
    """Return the name of a study, which the summary reads."""
    return f"{pruner}/{seed}"


def make_study(design: Design, records: Records, pruner: str, seed: int) -> None:
    """Make a study or what is missing of it."""
    name, started = study_name(pruner, seed), time.monotonic()
    stopper, view = Stopper(), Quiet()
    with stopper.listening():
        searched = run_search(search_request(design, seed, name, pruner=pruner), stopper, view)
        if not searched.outcome.finished:
            raise BudgetnasError(f"study {name} did not finish")
        place = DataPlace(design.data.name, design.data.data_dir)
        runtime = searched.runtime
        result = finish(FinishRequest(name, place), records, runtime, stopper, view)
        train_afresh(records, result.study, chosen(records, result), design.fresh, place, runtime, stopper, view)
    typer.echo(f"{name}: {time.monotonic() - started:.0f} s", err=True)


def search_request(design: Design, seed: int, name: str, *, pruner: str = "none") -> SearchOptions:
    """Return the options of the search that makes a study."""
    data = design.data
    return SearchOptions(
        budget=design.max_params,
        trials=design.trials,
        data=data.name,
        data_dir=data.data_dir,
        resolution=data.resolution,
        subset=data.subset,
        subset_eval=data.subset_eval,
        epochs=design.epochs,
        batch=design.batch,
        study=name,
        storage=design.storage,
        sampler=design.sampler,
        seed=seed,
        pruner=pruner,
        recipe_space="paper",
        seeds=(),
        space=SPACE,
    )


def train_afresh(
    records: Records,
    study: str,
    candidates: Sequence[Candidate],
    times: int,
    place: DataPlace,
    runtime: Runtime,
    stopper: Stopper,
    view: Quiet,
) -> None:
    """Train each of a study's candidates with seeds that choose nothing."""
    data, _ = load_study_data(study_specification(records, study), study, place)
    images = validation_images(data, runtime)
    for candidate in {one.key: one for one in candidates}.values():
        for seed in range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + times):
            request = RunRequest(candidate, seed, Role.FINAL, study=study)
            if records.find_complete(request.key(images.identity), study=study) is None:
                record_training(request, images, runtime, records, stopper, view)


def fresh_accuracies(records: Records, study: str, candidate: Candidate) -> list[float]:
    """Return the last accuracy of each fresh training of a candidate, as shares of 1."""
    runs = {
        run.seed: run.id
        for run in records.runs(study=study, role=Role.FINAL)
        if (run.architecture.digest, run.recipe.digest) == candidate.key
        and run.seed >= FIRST_FRESH_SEED
        and run.state is State.COMPLETE
    }
    curves = records.curves(runs.values())
    return [curves[runs[seed]][-1].eval_accuracy for seed in sorted(runs)]


def chosen(records: Records, result: FinalResult) -> tuple[Candidate, Candidate]:
    """Return the candidate of the best single run of a search, and that of the final's winner."""
    runs = [run for run in records.runs(study=result.study) if run.role in SEARCHED and run.state is State.COMPLETE]
    curves = records.curves(run.id for run in runs)
    best = max(runs, key=lambda run: (curves[run.id][-1].eval_accuracy, -run.params, -run.id))
    winner = result.winner
    assert winner is not None, "a final that was held has a winner"
    return best.candidate, winner.run.candidate
