"""Which training is exported."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from budgetnas.data import DataIdentity
from budgetnas.errors import InputError
from budgetnas.experiments.final_results import FinalResult, final_result
from budgetnas.experiments.published import recorded_run
from budgetnas.runs.reopen import DataPlace, study_specification
from budgetnas.space.specification import StudySpecification
from budgetnas.storage import Records, Role, Run, State


class Part(StrEnum):
    """What a training learnt from; the value is said to users."""

    TRAIN = "train"
    TRAIN_AND_VALIDATION = "train + validation"
    ALL_TRAIN = "the whole training part"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and where to.

    Attributes:
        place: Where the data lie.
        study: A study's name; nothing for a replay.
        run: Number of one of its records; nothing: the winner of its final.
        replay: Name of a recorded run; nothing for a study.
        out: The folder; nothing: named after what is exported, in the current one.
        replace: Whether an older bundle there may be replaced.
        device: Where weights that were not kept are trained again.
    """

    place: DataPlace
    study: str | None = None
    run: int | None = None
    replay: str | None = None
    out: Path | None = None
    replace: bool = False
    device: str = "auto"

    def check(self) -> None:
        """Turn down what names no training.

        Raises:
            InputError: If neither or both of study and replay are named, or a run of a replay is.
        """
        if (self.study is None) == (self.replay is None):
            rule = "is missing: name a study" if self.study is None else "does not go with --replay"
            raise InputError("STUDY", self.study, rule, "export one study, or one replay with --replay NAME")
        if self.replay is not None and self.run is not None:
            raise InputError("--run", self.run, "does not go with --replay", "the newest complete replay is exported")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A training to export.

    Attributes:
        run: Its record.
        part: What it learnt from.
        name: What the bundle is called.
        specification: Its study's; nothing for a replay.
        final: Its study's last final, if one was begun.
    """

    run: Run
    part: Part
    name: str
    specification: StudySpecification | None = None
    final: FinalResult | None = None

    @property
    def identity(self) -> DataIdentity:
        """Which data it saw."""
        return DataIdentity.model_validate_json(self.run.data)

    @property
    def is_shipped(self) -> bool:
        """Whether it is the network that the study's final ended with."""
        return self.final is not None and self.final.shipped_run == self.run.id

    def folder(self, out: Path | None) -> Path:
        """Return where the bundle goes: `out`, or a folder named after it."""
        safe = "".join(one if one.isalnum() or one in "._-" else "-" for one in self.name).lstrip(".")
        return out or Path(f"{safe or 'network'}-bundle")


def choose_run(records: Records, request: ExportRequest) -> Chosen:
    """Return the training that `request` means.

    Raises:
        InputError: If there is none.
    """
    request.check()
    if request.study is not None:
        return _of_study(records, request.study, request.run)
    assert request.replay is not None, "one of the two is given"
    return _of_replay(records, request.replay)


def _of_study(records: Records, study: str, number: int | None) -> Chosen:
    specification = study_specification(records, study)
    final = final_result(records, study)
    shipped = None if final is None else final.shipped_run
    if number is None and shipped is None:
        state = "has no final yet" if final is None else "has a final that is not over"
        hint = f"run budgetnas finish {study} first, or export one of its runs with --run N"
        raise InputError("STUDY", study, state, hint)
    run = _complete_run(records, study, shipped if number is None else number)
    name = study if number is None else f"{study}-run-{run.id}"
    return Chosen(run, _part(records, run), name, specification, final)


def _complete_run(records: Records, study: str, number: int | None) -> Run:
    runs = {one.id: one for one in records.runs(study=study)}
    complete = [str(one.id) for one in runs.values() if one.state is State.COMPLETE]
    found = runs.get(number or 0)
    if found is None or found.state is not State.COMPLETE:
        rule = f"is no run of study {study!r}" if found is None else f"is {found.state.value}, not complete"
        there = f"complete are {', '.join(complete[:20])}{', ...' if len(complete) > 20 else ''}"
        raise InputError("--run", number, rule, there if complete else "the study has no complete run yet")
    return found


def _of_replay(records: Records, name: str) -> Chosen:
    label = recorded_run(name).name
    complete = [one for one in records.runs(role=Role.REPLAY) if one.label == label and one.state is State.COMPLETE]
    if not complete:
        rule = "has no complete replay in this storage"
        raise InputError("--replay", name, rule, f"run budgetnas replay {label} first")
    return Chosen(complete[-1], Part.ALL_TRAIN, f"replay-{label}")


def _part(records: Records, run: Run) -> Part:
    """Return what a run of a study learnt from: where nothing was left to evaluate on, validation images too."""
    curve = records.curve(run.id)
    evaluated = bool(curve) and curve[-1].eval_accuracy == curve[-1].eval_accuracy
    return Part.TRAIN if evaluated else Part.TRAIN_AND_VALIDATION
