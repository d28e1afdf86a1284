"""The options of a search, and the study specification that they define.

In order of precedence: command line, environment variables, study file, defaults. If ``--study`` names an existing
study, its specification replaces the defaults, so ``search --study NAME --trials 20`` resumes it unchanged.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

from pydantic import ConfigDict, InstanceOf, ValidationError, ValidationInfo, field_validator

from budgetnas.architecture.budget import KB, Budget, Quantity, format_count, parse_budget, parse_limit
from budgetnas.data import Data, DataIdentity, DataRequest
from budgetnas.data.arrays import ImageArrays, named_or_arrays
from budgetnas.data.request import FULL_DEPTH
from budgetnas.errors import InputError, check_seed, parse_seconds
from budgetnas.space.initial_trials import INITIAL_TRIALS
from budgetnas.space.presets import shipped
from budgetnas.space.recipe import Augmentation, Frozen, RecipeSpace, RecipeSpaceName, named_extras
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.specification import (
    OBJECTIVES,
    ChoiceProtocol,
    Fidelity,
    ObjectiveName,
    PrunerName,
    StudySpecification,
    first_problem,
    refused,
)
from budgetnas.space.strong import automatic_epochs

DEFAULT_DATA: Final = "cifar10"
DEFAULT_TRIALS: Final = 50
DEFAULT_RECIPE_SPACE: Final[RecipeSpaceName] = "measured"
MAX_WORKERS: Final = 256
MAX_TRIALS: Final = 10**9
MAX_FINAL_EPOCHS: Final = 10_000
_FLAGS: Final = {"batch": "--batch-size"}
_RANGES: Final = {
    "epochs": (1, 10_000, ""),
    "batch": (2, 65_536, ""),
    "finalists": (1, 100, ""),
    "final_seeds": (2, 100, ""),
    "workers": (1, MAX_WORKERS, ": processes that search together"),
    "per_device": (1, MAX_WORKERS, ": workers on one GPU"),
}
_KILOBYTES: Final[Mapping[str, Quantity]] = {"max_weights_kb": "weight_bytes", "max_ram_kb": "ram_bytes"}
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "recipe_space": get_args(RecipeSpaceName),
    "pruner": get_args(PrunerName),
    "objective": get_args(ObjectiveName),
}


class SearchOptions(Frozen):
    """The options of a search as a user sets them; also the keys of a study file.

    None leaves an option to the next source. Numbers and names are checked and parsed only here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget: int | None = None
    max_macs: int | None = None
    max_activations: int | None = None
    max_weights_kb: float | None = None
    max_ram_kb: float | None = None
    trials: int | None = None
    data: str | InstanceOf[ImageArrays] | None = None
    data_dir: Path | None = None
    resolution: int | None = None
    subset: int | None = None
    subset_eval: int | None = None
    split_seed: int | None = None
    skip_damaged: bool | None = None
    skipped: tuple[str, ...] | None = None
    bit_depth: int | None = None
    epochs: int | None = None
    batch: int | None = None
    recipe_space: RecipeSpaceName | None = None
    study: str | None = None
    storage: str | None = None
    sampler: str | None = None
    seed: int | None = None
    device: str | None = None
    precision: str | None = None
    tune_setup: bool | None = None
    timeout: float | None = None
    seeds: tuple[str, ...] | None = None
    space: SearchSpace | None = None
    recipe: RecipeSpace | None = None
    objective: ObjectiveName | None = None
    pruner: PrunerName | None = None
    fidelity: Fidelity | None = None
    finalists: int | None = None
    final_seeds: int | None = None
    final_epochs: int | Literal["auto"] | None = None
    workers: int | None = None
    per_device: int | None = None
    ray: str | None = None
    gpus_per_trial: float | None = None

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, source: str = "STUDY_FILE", name: str | None = None) -> Self:
        """Return the options that `values` mean.

        Args:
            values: Options by name, as a command line, a TOML file or a caller gives them.
            source: Argument that an error names for a wrong value inside a table, and in a study file.
            name: Value of that argument, or None if each option has its own argument.

        Raises:
            InputError: If a value breaks a rule.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise refused(error, source, name, _flag) from None

    @field_validator("budget", "max_macs", "max_activations", mode="before")
    @classmethod
    def _parse_limit(cls, value: Any, info: ValidationInfo) -> Any:
        is_number = isinstance(value, str | int | float)
        return parse_budget(str(value), argument=_flag(info.field_name)) if is_number else value

    @field_validator(*_KILOBYTES, mode="before")
    @classmethod
    def _parse_kilobytes(cls, value: Any, info: ValidationInfo) -> Any:
        """Return a limit in KB as a multiple of a byte, which a float holds exactly."""
        limit = None if value is None else parse_limit(str(value), _KILOBYTES[info.field_name or ""])
        return None if limit is None else limit / KB

    @field_validator("timeout", mode="before")
    @classmethod
    def _parse_timeout(cls, value: Any) -> Any:
        return None if value is None else parse_timeout(str(value))

    @field_validator("trials")
    @classmethod
    def _check_trials(cls, value: int | None) -> int | None:
        return None if value is None else check_trials(value)

    @field_validator("seed")
    @classmethod
    def _check_seed(cls, value: int | None) -> int | None:
        return None if value is None else check_seed(value)

    @field_validator(*_RANGES)
    @classmethod
    def _check_range(cls, value: int | None, info: ValidationInfo) -> int | None:
        low, high, meaning = _RANGES[info.field_name or ""]
        if value is not None and not low <= value <= high:
            rule = f"must be a whole number from {low} to {high:,}{meaning}"
            raise InputError(_flag(info.field_name), value, rule)
        return value

    @field_validator(*_NAMES, mode="before")
    @classmethod
    def _check_name(cls, value: Any, info: ValidationInfo) -> Any:
        names = _NAMES[info.field_name or ""]
        if value is not None and value not in names:
            raise InputError(_flag(info.field_name), value, f"must be one of {', '.join(names)}")
        return value

    @field_validator("final_epochs", mode="before")
    @classmethod
    def _parse_final_epochs(cls, value: Any) -> Any:
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        is_number = isinstance(number, int) and not isinstance(number, bool)
        if not (number is None or number == "auto" or (is_number and 1 <= number <= MAX_FINAL_EPOCHS)):
            rule = f"must be auto or a whole number from 1 to {MAX_FINAL_EPOCHS:,}"
            raise InputError("--final-epochs", value, rule)
        return number

    @field_validator("gpus_per_trial")
    @classmethod
    def _check_share(cls, value: float | None) -> float | None:
        if value is not None and not 0 <= value <= 1:
            rule = "must be from 0 to 1: the share of a GPU that a trial takes"
            raise InputError("--gpus-per-trial", value, rule)
        return value

    def over(self, defaults: SearchOptions) -> SearchOptions:
        """Return these options, with those of `defaults` where they are None."""
        missing = [name for name in type(self).model_fields if getattr(self, name) is None]
        return self.model_copy(update={name: getattr(defaults, name) for name in missing})

    def data_request(self) -> DataRequest:
        """Return the data to load."""
        name, arrays = named_or_arrays(self.data, DEFAULT_DATA)
        return DataRequest(
            name=name,
            arrays=arrays,
            data_dir=self.data_dir,
            resolution=self.resolution,
            subset=self.subset,
            subset_eval=self.subset_eval,
            split_seed=self.split_seed or 0,
            skip_damaged=self.skip_damaged or False,
            skipped=self.skipped or (),
            bit_depth=self.bit_depth,
        )

    def limits(self) -> Budget:
        """Return the budget.

        Raises:
            InputError: If the limit on parameters is missing.
        """
        if self.budget is None:
            raise InputError("--budget", None, "is missing: the limit on parameters", "add e.g. --budget 5e6")
        weights, ram = (None if limit is None else int(limit * KB) for limit in (self.max_weights_kb, self.max_ram_kb))
        return Budget(self.budget, self.max_macs, self.max_activations, weights, ram)

    def study_name(self, identity: DataIdentity) -> str:
        """Return the name of the study: as given, or DATA-BUDGET, e.g. ``cifar10-5M``."""
        return check_study_name(self.study or f"{identity.name}-{format_count(self.limits().max_params)}")


def read_study_file(name: str) -> SearchOptions:
    """Return the options in a study file.

    Args:
        name: A path, or the name of a study shipped in ``studies/``.

    Raises:
        InputError: If the file is missing or invalid.
    """
    path = Path(name) if Path(name).suffix == ".toml" or "/" in name else shipped(name)
    try:
        return SearchOptions.parse(tomllib.loads(path.read_text(encoding="utf-8-sig")), name=name)
    except FileNotFoundError:
        raise InputError("STUDY_FILE", name, "there is no such file", "see budgetnas search --help") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError("STUDY_FILE", name, f"is not TOML ({error})") from None
    except UnicodeDecodeError:
        raise InputError("STUDY_FILE", name, "is not encoded in UTF-8", "save it as UTF-8") from None
    except OSError as error:
        raise InputError("STUDY_FILE", name, f"cannot be read ({error.strerror})") from None


def stored_options(specification: StudySpecification) -> SearchOptions:
    """Return the options that a stored specification amounts to."""
    data, choice, recipes = specification.data, specification.choice, specification.recipes
    weights, ram = specification.max_weight_bytes, specification.max_ram_bytes
    return SearchOptions(
        budget=specification.max_params,
        max_macs=specification.max_macs,
        max_activations=specification.max_activations,
        max_weights_kb=None if weights is None else weights / KB,
        max_ram_kb=None if ram is None else ram / KB,
        data=None if data.is_own else data.name,
        resolution=data.resolution,
        subset=data.subset,
        subset_eval=data.subset_eval,
        split_seed=data.split_seed,
        skipped=data.skipped or None,
        bit_depth=data.bit_depth or FULL_DEPTH,
        epochs=recipes.epochs,
        batch=recipes.batch,
        recipe_space=specification.recipe_space,
        seeds=specification.seeds,
        space=specification.space,
        recipe=recipes.model_copy(update=dict(recipes.extras())),  # all set: none is left to the named space
        objective=next(name for name, value in OBJECTIVES.items() if value == specification.objective),
        fidelity=specification.fidelity,
        finalists=choice.finalists if choice else None,
        final_seeds=choice.seeds if choice else None,
        final_epochs=choice.final_epochs if choice else None,
    )


def specify(options: SearchOptions, data: Data) -> StudySpecification:
    """Return the specification that `options` mean for `data`.

    Raises:
        InputError: If the budget is missing, a value breaks a rule, or no architecture in the space fits.
    """
    inputs = InputShape(in_channels=data.in_channels, size=data.resolution, classes=len(data.classes))
    budget = options.limits()
    recipes = _recipes(options, data)
    try:
        specification = StudySpecification(
            **asdict(budget),
            space=options.space or SearchSpace(),
            recipe_space=options.recipe_space or DEFAULT_RECIPE_SPACE,
            recipes=recipes,
            data=data.identity,
            inputs=inputs,
            seeds=INITIAL_TRIALS if options.seeds is None else options.seeds,
            fidelity=_fidelity(options),
            choice=_choice(options, recipes.epochs),
            objective=OBJECTIVES[options.objective or "accuracy"],
        )
    except ValidationError as error:
        raise refused(error, "STUDY_FILE") from None
    specification.space.require_feasible(inputs, specification.budget)
    return specification


def check_trials(trials: int) -> int:
    """Return `trials` if it is a valid number of trials.

    Raises:
        InputError: If it is below 1, or too large for a database.
    """
    if not 1 <= trials <= MAX_TRIALS:
        rule = f"must be at least 1 and at most {MAX_TRIALS:,}: the number of trials in total"
        raise InputError("--trials", trials, rule)
    return trials


def check_study_name(name: str) -> str:
    """Return `name` if it is a valid name of a study.

    Raises:
        InputError: If it is empty, too long, has characters that cannot be printed, or begins like an option.
    """
    if name.startswith("-"):
        raise InputError("--study", name, "must not begin with '-': commands would take it for an option")
    if not name.strip() or len(name) > 200 or not name.isprintable():
        raise InputError("--study", name, "must be 1 to 200 printable characters", "leave it out for DATA-BUDGET")
    return name


def parse_timeout(text: str | None) -> float | None:
    """Return a time limit in seconds: ``90``, ``90s``, ``15m``, ``2h``.

    Raises:
        InputError: If it is not a time above zero.
    """
    if text is None:
        return None
    seconds = parse_seconds(text)
    if not seconds:
        raise InputError("--timeout", text, "must be a time above zero", "write e.g. 90s, 15m or 2h")
    return seconds


def choice_protocol(finalists: int | None, seeds: int | None) -> ChoiceProtocol | None:
    """Return the protocol of a final evaluation, or None if neither number is given.

    Raises:
        InputError: If a number is out of range.
    """
    options = SearchOptions.parse({"finalists": finalists, "final_seeds": seeds})
    given = {"finalists": options.finalists, "seeds": options.final_seeds}
    values = {name: value for name, value in given.items() if value is not None}
    return ChoiceProtocol(**values) if values else None


def _choice(options: SearchOptions, epochs: int) -> ChoiceProtocol | None:
    """Return the protocol of the final that ends a search, or None without one."""
    protocol, asked = choice_protocol(options.finalists, options.final_seeds), options.final_epochs
    if asked is None:
        return protocol
    long = automatic_epochs(epochs) if asked == "auto" else asked
    return (protocol or ChoiceProtocol()).model_copy(update={"final_epochs": long})


def _fidelity(options: SearchOptions) -> Fidelity:
    base = options.fidelity or Fidelity()
    if options.pruner is None:
        return base
    return Fidelity.model_validate(base.model_dump() | {"pruner": options.pruner})


def _recipes(options: SearchOptions, data: Data) -> RecipeSpace:
    base, space = options.recipe or RecipeSpace(), options.recipe_space or DEFAULT_RECIPE_SPACE
    epochs = base.epochs if options.epochs is None else options.epochs
    changes: dict[str, Any] = {"epochs": epochs, "batch": base.batch if options.batch is None else options.batch}
    given = {name: getattr(base.augmentation, name) for name in base.augmentation.model_fields_set}
    changes["augmentation"] = Augmentation(**{"crop_padding": data.resolution // 8, "flip": data.flip} | given)
    extras = named_extras(space, resolution=data.resolution, epochs=epochs)
    if base.momentum == 0:
        extras["nesterov"] = (False,)
    unset = {name: choices for name, choices in extras.items() if name not in base.model_fields_set}
    try:
        return RecipeSpace.model_validate(base.model_dump() | unset | changes)
    except ValidationError as error:  # the study's recipe and the option together break a rule
        raise InputError("--epochs", epochs, first_problem(error), "change the study file's recipe") from None


def _flag(field: str | None) -> str:
    return _FLAGS.get(field or "", f"--{(field or '').replace('_', '-')}")
