"""``python -m benchmarks.end_to_end``: a whole ``budgetnas search`` against the script that people write.

Both run as processes with one thread each, one after the other, for the same wall-clock time. Both know the same
images, space and limit. Each names a network, and both networks are trained again by the same code with seeds that
chose nothing. A search that is there is not made again, so a call that was cut off resumes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Final

import numpy as np
import typer

from benchmarks.options import (
    BudgetOption,
    DataDirOption,
    DataOption,
    EpochsOption,
    FirstSeedOption,
    ResolutionOption,
    SubsetEvalOption,
    SubsetOption,
)
from benchmarks.running import run
from benchmarks.small_studies import plain_script
from benchmarks.small_studies.make import fresh_accuracies, train_afresh
from benchmarks.small_studies.quiet import Quiet
from budgetnas.architecture import Architecture, default_strides
from budgetnas.architecture.budget import parse_budget
from budgetnas.data import DataRequest, load_data
from budgetnas.errors import BudgetnasError
from budgetnas.experiments.bench.hardware import machine
from budgetnas.metrics import mean_interval
from budgetnas.report.tables import study_tables
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.reopen import DataPlace
from budgetnas.space.candidates import Candidate
from budgetnas.space.search_space import SearchSpace
from budgetnas.storage import Records
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage
from budgetnas.training import runtime_rules

GRACE_SECONDS: Final = 600.0
"""A process may take this long beyond its time: the script ends after the trial that is running."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same for all searches."""

    data: DataRequest
    budget: int
    epochs: int
    seconds: int  # wall-clock time of each search
    folder: Path  # where all is recorded

    @property
    def storage(self) -> str:
        """URL of the database."""
        return f"sqlite:///{self.folder / 'end_to_end.db'}"


def measure(
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    resolution: ResolutionOption = None,
    subset: SubsetOption = None,
    subset_eval: SubsetEvalOption = None,
    budget: BudgetOption = "100k",
    epochs: EpochsOption = 6,
    seconds: Annotated[int, typer.Option(help="Wall-clock time of each search.", min=10)] = 600,
    seeds: Annotated[int, typer.Option(help="Searches of each kind.", min=1)] = 5,
    first_seed: FirstSeedOption = 0,
    fresh: Annotated[int, typer.Option(help="Fresh trainings of each network that was named.", min=1)] = 3,
    out: Annotated[Path, typer.Option(help="Folder of everything recorded.")] = Path("end-to-end"),
) -> None:
    """Make the searches, seed by seed, and print what was named and the differences."""
    request = DataRequest(name=data, data_dir=data_dir, resolution=resolution, subset=subset, subset_eval=subset_eval)
    setting = Setting(request, parse_budget(budget), epochs, seconds, out.absolute())
    load_data(request)  # bad input is told before a folder is made
    out.mkdir(parents=True, exist_ok=True)
    with closing(open_records(parse_storage(setting.storage))) as records:
        pairs = [_pair(setting, records, seed, fresh) for seed in range(first_seed, first_seed + seeds)]
    for line in summary_lines(pairs):
        typer.echo(line)
    typer.echo(f"{seconds} s each, one thread; {machine()}")


def summary_lines(pairs: Sequence[tuple[float, float]]) -> Iterator[str]:
    """Yield the means and the difference of (budgetnas, script) accuracies, paired by seed."""
    ours, theirs = zip(*pairs, strict=True)
    yield f"fresh trainings: budgetnas {fmean(ours):.2%}, the script {fmean(theirs):.2%} (n = {len(pairs)})"
    if len(pairs) > 1:
        one = mean_interval([own - other for own, other in pairs])
        yield (
            f"difference: {100 * one.estimate:+.2f} points, 95 % interval {100 * one.low:+.2f} to "
            f"{100 * one.high:+.2f} (paired by seed, Student)"
        )


def _pair(setting: Setting, records: Records, seed: int, fresh: int) -> tuple[float, float]:
    """Return the mean accuracies of the fresh trainings of what both named, shares of 1."""
    study = f"budgetnas-{seed}"
    done = setting.folder / f"searched-{seed}.json"
    if not done.exists():
        _search(setting, study, seed)
        done.write_text(json.dumps(_script(setting, seed)), encoding="utf-8")
    answer = json.loads(done.read_text(encoding="utf-8"))
    tables = study_tables(records, study)
    if tables.chosen is None:
        raise BudgetnasError(f"the search of seed {seed} trained nothing in {setting.seconds} s; allow more")
    named = (tables.chosen.run.candidate, script_candidate(answer["params"], tables.chosen.run.candidate))
    place, stopper = DataPlace(setting.data.name, setting.data.data_dir), Stopper()
    with stopper.listening():
        train_afresh(records, study, named, fresh, place, runtime_rules("cpu"), stopper, Quiet())
    own, other = (fmean(fresh_accuracies(records, study, candidate)) for candidate in named)
    typer.echo(
        f"seed {seed}: budgetnas {own:.2%} ({tables.tallies.trained} trainings, {named[0].architecture.describe()}); "
        f"the script {other:.2%} ({answer['trials']}, {named[1].architecture.describe()})"
    )
    return own, other


def script_candidate(params: dict[str, Any], like: Candidate) -> Candidate:
    """Return the candidate that the script named, for the images and epochs of `like`."""
    stages = range(1, params["stages"] + 1)
    architecture = Architecture(
        tuple(params[f"blocks_{stage}"] for stage in stages),
        tuple(params[f"width_{stage}"] for stage in stages),
        default_strides(len(stages)),
        stem_width=params["width_1"],
        in_channels=like.architecture.in_channels,
        size=like.architecture.size,
        classes=like.architecture.classes,
    )
    values = {"optimizer": "sgd", "learning_rate": params["rate"], "weight_decay": params["decay"], "momentum": 0.9}
    plain = {"nesterov": False}
    return Candidate(architecture, like.recipe.model_copy(update=values | plain))


def _search(setting: Setting, study: str, seed: int) -> None:
    data = setting.data
    options = {
        "--budget": setting.budget, "--epochs": setting.epochs, "--timeout": f"{setting.seconds}s", "--trials": 10_000,
        "--seed": seed, "--study": study, "--storage": setting.storage, "--data": data.name, "--device": "cpu",
        "--data-dir": data.data_dir, "--resolution": data.resolution, "--subset": data.subset,
        "--subset-eval": data.subset_eval,
    }  # fmt: skip
    given = [str(word) for name, value in options.items() if value is not None for word in (name, value)]
    _process([sys.executable, "-m", "budgetnas", "search", *given], setting)


def _script(setting: Setting, seed: int) -> dict[str, Any]:
    data, space = load_data(setting.data), SearchSpace()
    settings = {
        "depths": space.depths, "widths": space.widths, "classes": len(data.classes), "budget": setting.budget,
        "epochs": setting.epochs, "seconds": setting.seconds, "seed": seed,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npz"
        np.savez(
            images,
            train=_colour(data.train.images), labels=data.train.labels.astype(np.int64),
            evaluation=_colour(data.validation.images), answers=data.validation.labels.astype(np.int64),
        )  # fmt: skip
        command = [sys.executable, str(plain_script.__file__), str(images), json.dumps(settings)]
        answer: dict[str, Any] = json.loads(_process(command, setting).splitlines()[-1])
    return answer


def _colour(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return images (N, H, W, 3)."""
    return np.broadcast_to(images.transpose(0, 2, 3, 1), (len(images), *images.shape[2:], 3))


def _process(command: Sequence[str], setting: Setting) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=setting.seconds + GRACE_SECONDS
    )
    if ended.returncode:
        raise BudgetnasError(f"{' '.join(command[:4])} ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
    return ended.stdout


if __name__ == "__main__":
    run(measure)
