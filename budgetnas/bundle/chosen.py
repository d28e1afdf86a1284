"""The run to export."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from budgetnas.data import DataIdentity
from budgetnas.errors import InputError
from budgetnas.experiments.final_results import FinalResult, final_result
from budgetnas.experiments.published import recorded_run
from budgetnas.metrics import ACCURACY, Measure
from budgetnas.runs.reopen import DataPlace, study_specification
from budgetnas.space.specification import StudySpecification
from budgetnas.storage import Records, Role, Run, State


class Part(StrEnum):
    """The training images of a run; users see the value."""

    TRAIN = "train"
    TRAIN_AND_VALIDATION = "train + validation"
    ALL_TRAIN = "the whole training part"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and where."""

    place: DataPlace
    study: str | None = None  # a study's name, or None for a replay
    run: int | None = None  # number of one of its runs, or None for the winner of its final
    replay: str | None = None  # name of a recorded run, or None for a study
    out: Path | None = None  # the folder, or None for the default name in the current folder
    replace: bool = False  # whether to replace an older bundle
    device: str = "auto"  # device for retraining weights that were not stored
    pt: bool = False  # whether to write the weights as ``torch.save`` does too
    int8: bool = False  # whether to write an int8 ONNX file too

    def check(self) -> None:
        """Check that the request names either a study or a replay.

        Raises:
            InputError: If it does not, or if it names a run of a replay.
        """
        if (self.study is None) == (self.replay is None):
            rule = "is missing: name a study" if self.study is None else "cannot be combined with --replay"
            raise InputError("STUDY", self.study, rule, "export one study, or one replay with --replay NAME")
        if self.replay is not None and self.run is not None:
            raise InputError(
                "--run", self.run, "cannot be combined with --replay", "the newest complete replay is exported"
            )


@dataclass(frozen=True, slots=True)
class Chosen:
    """A run to export."""

    run: Run  # its record
    part: Part
    name: str  # name of the bundle
    specification: StudySpecification | None = None  # its study's, or None for a replay
    final: FinalResult | None = None  # result of its study's last final, or None

    @property
    def identity(self) -> DataIdentity:
        """Identity of its data."""
        return DataIdentity.model_validate_json(self.run.data)

    @property
    def measure(self) -> Measure:
        """The accuracy that is its objective."""
        return ACCURACY if self.specification is None else self.specification.measure

    @property
    def is_shipped(self) -> bool:
        """Whether it is the network that the study's final recommends."""
        return self.final is not None and self.final.shipped_run == self.run.id

    def folder(self, out: Path | None) -> Path:
        """Return the folder of the bundle: `out`, else a folder with the name of the bundle."""
        safe = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in self.name).lstrip(".")
        return out or Path(f"{safe or 'network'}-bundle")


def choose_run(records: Records, request: ExportRequest) -> Chosen:
    """Return the run that `request` names.

    Raises:
        InputError: If the run does not exist.
    """
    request.check()
    if request.study is not None:
        return _of_study(records, request.study, request.run)
    assert request.replay is not None, "a request names a study or a replay"
    return _of_replay(records, request.replay)


def _of_study(records: Records, study: str, number: int | None) -> Chosen:
    specification = study_specification(records, study)
    final = final_result(records, study)
    shipped = None if final is None else final.shipped_run
    if number is None and shipped is None:
        state = "has no final yet" if final is None else "has an unfinished final"
        hint = f"run budgetnas finish {shlex.quote(study)} first, or export one of its runs with --run N"
        raise InputError("STUDY", study, state, hint)
    run = _complete_run(records, study, shipped if number is None else number)
    name = study if number is None else f"{study}-run-{run.id}"
    return Chosen(run, _part(records, run), name, specification, final)


def _complete_run(records: Records, study: str, number: int | None) -> Run:
    runs = {run.id: run for run in records.runs(study=study)}
    run = runs.get(number or 0)
    if run is None or run.state is not State.COMPLETE:
        complete = [str(run.id) for run in runs.values() if run.state is State.COMPLETE]
        rule = f"is not a run of study {study!r}" if run is None else f"is {run.state.value}, not complete"
        hint = f"complete runs are {', '.join(complete[:20])}{', ...' if len(complete) > 20 else ''}"
        raise InputError("--run", number, rule, hint if complete else "the study has no complete run yet")
    return run


def _of_replay(records: Records, name: str) -> Chosen:
    label = recorded_run(name).name
    complete = [run for run in records.runs(role=Role.REPLAY) if run.label == label and run.state is State.COMPLETE]
    if not complete:
        rule = "has no complete replay in this storage"
        raise InputError("--replay", name, rule, f"run budgetnas replay {label} first")
    return Chosen(complete[-1], Part.ALL_TRAIN, f"replay-{label}")


def _part(records: Records, run: Run) -> Part:
    """Return which images a study's run was trained on: runs without evaluation also used the validation images."""
    curve = records.curve(run.id)
    evaluated = bool(curve) and curve[-1].eval_accuracy == curve[-1].eval_accuracy
    return Part.TRAIN if evaluated else Part.TRAIN_AND_VALIDATION
