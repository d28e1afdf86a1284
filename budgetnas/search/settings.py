"""From what a user asked for to a specification: flags over environment over study file over defaults.

A study that is named and there already stands in for the defaults, so that ``search --study NAME --trials 20``
goes on with it as it is.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, cast, get_args

from pydantic import ConfigDict, ValidationError

from budgetnas.architecture.budget import Budget, format_count, parse_budget, parse_limit
from budgetnas.data import Data, DataIdentity, DataRequest
from budgetnas.errors import InputError
from budgetnas.space.initial_trials import INITIAL_TRIALS
from budgetnas.space.presets import shipped
from budgetnas.space.recipe import Augmentation, Frozen, RecipeSpace, RecipeSpaceName, named_extras
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.specification import ChoiceProtocol, Fidelity, PrunerName, StudySpecification, first_problem

DEFAULT_DATA: Final = "cifar10"
DEFAULT_TRIALS: Final = 50
DEFAULT_RECIPE_SPACE: Final = "measured"
_TIMEOUT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)", re.IGNORECASE)
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What a user asked for; nothing where a study file or a default decides."""

    budget: str | None = None
    max_macs: str | None = None
    max_activations: str | None = None
    trials: int | None = None
    data: str | None = None
    data_dir: Path | None = None
    resolution: int | None = None
    subset: int | None = None
    subset_eval: int | None = None
    split_seed: int | None = None
    epochs: int | None = None
    batch: int | None = None
    recipe_space: str | None = None
    study: str | None = None
    storage: str | None = None
    sampler: str | None = None
    seed: int | None = None
    device: str | None = None
    precision: str | None = None
    timeout: str | None = None
    seeds: tuple[str, ...] | None = None
    space: SearchSpace | None = None
    recipe: RecipeSpace | None = None
    pruner: str | None = None
    fidelity: Fidelity | None = None
    finalists: int | None = None
    final_seeds: int | None = None
    workers: int | None = None
    per_device: int | None = None
    ray: str | None = None
    gpus_per_trial: float | None = None

    def over(self, other: SearchRequest) -> SearchRequest:
        """Return this request, completed by `other`."""
        return SearchRequest(
            **{
                field.name: getattr(other, field.name) if (mine := getattr(self, field.name)) is None else mine
                for field in fields(self)
            }
        )

    def data_request(self) -> DataRequest:
        """Return which data to load."""
        return DataRequest(
            name=self.data or DEFAULT_DATA,
            data_dir=self.data_dir,
            resolution=self.resolution,
            subset=self.subset,
            subset_eval=self.subset_eval,
            split_seed=self.split_seed or 0,
        )


class StudyFile(Frozen):
    """A study file: every key may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    budget: str | int | float | None = None
    max_macs: str | int | float | None = None
    max_activations: str | int | float | None = None
    trials: int | None = None
    data: str | None = None
    data_dir: Path | None = None
    resolution: int | None = None
    subset: int | None = None
    subset_eval: int | None = None
    split_seed: int | None = None
    epochs: int | None = None
    batch: int | None = None
    recipe_space: str | None = None
    study: str | None = None
    storage: str | None = None
    sampler: str | None = None
    seed: int | None = None
    device: str | None = None
    precision: str | None = None
    timeout: str | int | None = None
    seeds: tuple[str, ...] | None = None
    space: SearchSpace | None = None
    recipe: RecipeSpace | None = None
    pruner: str | None = None
    fidelity: Fidelity | None = None
    finalists: int | None = None
    final_seeds: int | None = None
    workers: int | None = None
    per_device: int | None = None
    ray: str | None = None
    gpus_per_trial: float | None = None

    def request(self) -> SearchRequest:
        """Return what the file asks for."""
        values: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields}
        for name in ("budget", "max_macs", "max_activations", "timeout"):
            values[name] = None if values[name] is None else str(values[name])
        return SearchRequest(**values)


def read_study_file(name: str) -> SearchRequest:
    """Return what a study file asks for.

    Args:
        name: A path, or the bare name of a file shipped in ``studies/``.

    Raises:
        InputError: If there is no such file, or something in it cannot be used.
    """
    path = Path(name) if Path(name).suffix == ".toml" or "/" in name else shipped(name)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return StudyFile.model_validate(values).request()
    except FileNotFoundError:
        raise InputError("STUDY_FILE", name, "there is no such file", "see budgetnas search --help") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("STUDY_FILE", name, f"cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError("STUDY_FILE", name, f"is not TOML ({error})") from None
    except ValidationError as error:
        raise InputError("STUDY_FILE", name, first_problem(error)) from None


def stored_request(specification: StudySpecification) -> SearchRequest:
    """Return the request that a stored specification amounts to."""
    data = specification.data
    folder = data.name.startswith("folder-")
    return SearchRequest(
        budget=str(specification.max_params),
        max_macs=_written(specification.max_macs),
        max_activations=_written(specification.max_activations),
        data=None if folder else data.name,
        resolution=data.resolution,
        subset=data.subset,
        subset_eval=data.subset_eval,
        split_seed=data.split_seed,
        epochs=specification.recipes.epochs,
        batch=specification.recipes.batch,
        recipe_space=specification.recipe_space,
        seeds=specification.seeds,
        space=specification.space,
        recipe=specification.recipes,
        fidelity=specification.fidelity,
        finalists=specification.choice.finalists if specification.choice else None,
        final_seeds=specification.choice.seeds if specification.choice else None,
    )


def specify(request: SearchRequest, data: Data) -> StudySpecification:
    """Return the specification that `request` means for `data`.

    Raises:
        InputError: If the budget is missing, a limit is no number, a value breaks a rule, or nothing in the space fits.
    """
    inputs = InputShape(in_channels=data.in_channels, size=data.resolution, classes=len(data.classes))
    try:
        specification = StudySpecification(
            max_params=required_budget(request),
            max_macs=parse_limit(request.max_macs, "macs"),
            max_activations=parse_limit(request.max_activations, "activations"),
            space=request.space or SearchSpace(),
            recipe_space=recipe_space_name(request),
            recipes=_recipes(request, data),
            data=data.identity,
            inputs=inputs,
            seeds=INITIAL_TRIALS if request.seeds is None else request.seeds,
            fidelity=_fidelity(request),
            choice=choice_protocol(request.finalists, request.final_seeds),
        )
    except ValidationError as error:
        raise InputError("STUDY_FILE", None, first_problem(error)) from None
    specification.space.require_feasible(inputs, specification.budget)
    return specification


def required_budget(request: SearchRequest) -> int:
    """Return the budget.

    Raises:
        InputError: If it is missing or no number.
    """
    if request.budget is None:
        raise InputError(
            "--budget", None, "is missing: the most parameters a network may have", "add e.g. --budget 5e6"
        )
    return parse_budget(request.budget)


def required_limits(request: SearchRequest) -> Budget:
    """Return all limits.

    Raises:
        InputError: If the budget is missing, or a limit is no number.
    """
    macs, activations = parse_limit(request.max_macs, "macs"), parse_limit(request.max_activations, "activations")
    return Budget(required_budget(request), macs, activations)


def required_trials(request: SearchRequest) -> int:
    """Return how many runs the study shall have.

    Raises:
        InputError: If it is below 1.
    """
    return check_trials(DEFAULT_TRIALS if request.trials is None else request.trials)


def check_trials(trials: int) -> int:
    """Return `trials` if a study can have so many runs.

    Raises:
        InputError: If it is below 1.
    """
    if trials < 1:
        raise InputError("--trials", trials, "must be at least 1: runs the study shall have in all")
    return trials


def recipe_space_name(request: SearchRequest) -> RecipeSpaceName:
    """Return the name of the recipe space.

    Raises:
        InputError: If no space has it.
    """
    asked, names = request.recipe_space or DEFAULT_RECIPE_SPACE, get_args(RecipeSpaceName)
    for name in names:
        if asked == name:
            return cast(RecipeSpaceName, name)
    raise InputError("--recipe-space", asked, f"must be one of {', '.join(names)}")


def study_name(request: SearchRequest, identity: DataIdentity) -> str:
    """Return the study's name: as asked for, or DATA-BUDGET, e.g. ``cifar10-5M``."""
    name = request.study or f"{identity.name}-{format_count(required_budget(request))}"
    return check_study_name(name)


def check_study_name(name: str) -> str:
    """Return `name` if a study may have it.

    Raises:
        InputError: If it is empty, too long, or has characters that are not printed.
    """
    if not name.strip() or len(name) > 200 or not name.isprintable():
        raise InputError("--study", name, "must be 1 to 200 printed characters", "leave it out for DATA-BUDGET")
    return name


def parse_timeout(text: str | None) -> float | None:
    """Return a time limit in seconds: ``90``, ``90s``, ``15m``, ``2h``.

    Raises:
        InputError: If it is no time above zero.
    """
    if text is None:
        return None
    match = _TIMEOUT.fullmatch(text.strip())
    seconds = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    if seconds <= 0:
        raise InputError("--timeout", text, "must be a time above zero", "write e.g. 90s, 15m or 2h")
    return seconds


def choice_protocol(finalists: int | None, seeds: int | None) -> ChoiceProtocol | None:
    """Return the protocol of a final, or nothing if neither was asked for.

    Raises:
        InputError: If a number is out of range.
    """
    for argument, value, lowest in (("--finalists", finalists, 1), ("--final-seeds", seeds, 2)):
        if value is not None and not lowest <= value <= 100:
            raise InputError(argument, value, f"must be a whole number from {lowest} to 100")
    asked = {name: value for name, value in (("finalists", finalists), ("seeds", seeds)) if value is not None}
    return ChoiceProtocol(**asked) if asked else None


def _written(limit: int | None) -> str | None:
    return None if limit is None else str(limit)


def _fidelity(request: SearchRequest) -> Fidelity:
    base = request.fidelity or Fidelity()
    if request.pruner is None:
        return base
    known = get_args(PrunerName)
    if request.pruner not in known:
        raise InputError("--pruner", request.pruner, f"must be one of {', '.join(known)}")
    return Fidelity.model_validate(base.model_dump() | {"pruner": request.pruner})


def _recipes(request: SearchRequest, data: Data) -> RecipeSpace:
    base = request.recipe or RecipeSpace()
    changes: Mapping[str, Any] = {
        "epochs": base.epochs if request.epochs is None else request.epochs,
        "batch": base.batch if request.batch is None else request.batch,
        "augmentation": base.augmentation
        if "augmentation" in base.model_fields_set
        else Augmentation(crop_padding=data.resolution // 8, flip=data.flip),
    }
    for argument, value, lowest in (("--epochs", changes["epochs"], 1), ("--batch", changes["batch"], 2)):
        if not lowest <= value <= 65_536:
            raise InputError(argument, value, f"must be a whole number from {lowest} to 65,536")
    extras = named_extras(recipe_space_name(request), resolution=data.resolution, epochs=changes["epochs"])
    unsaid = {name: choices for name, choices in extras.items() if name not in base.model_fields_set}
    return RecipeSpace.model_validate(base.model_dump() | unsaid | dict(changes))
