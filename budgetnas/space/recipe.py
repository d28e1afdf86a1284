"""How a network is trained, except the seed: the frozen `Recipe`, and the ranges that a search draws it from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from budgetnas.errors import plural

OptimizerName = Literal["sgd", "adam"]
Rate = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Smoothing = Annotated[float, Field(ge=0, lt=1)]
Warmup = Annotated[int, Field(ge=0, le=10_000)]
Averaging = Annotated[float, Field(ge=0, lt=1)]
Square = Annotated[int, Field(ge=0, le=512)]
Padding = Literal["zeros", "reflect"]
Schedule = Literal["epoch", "step"]
ClassWeights = Literal["none", "balanced"]
Alpha = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Extra = bool | int | float | str

EXTRAS: Final = (
    "nesterov",
    "label_smoothing",
    "decay_norm_and_bias",
    "warmup_epochs",
    "ema_decay",
    "cutout",
    "schedule",
    "decoupled_decay",
    "class_weights",
)
"""Further settings of a recipe; a search fixes or chooses each of them."""
OPTIMIZER_OF: Final[Mapping[str, OptimizerName]] = {"nesterov": "sgd", "decoupled_decay": "adam"}
"""Extras that have a meaning for one optimiser only."""
RecipeSpaceName = Literal["measured", "paper", "tuned"]


def _as_choices(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


_T = TypeVar("_T")
Choices = Annotated[tuple[_T, ...], BeforeValidator(_as_choices), Field(min_length=1)]
"""A single value is fixed; each trial chooses among several values."""


class Frozen(BaseModel):
    """Base of the immutable values that are stored as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    added_later: ClassVar[tuple[str, ...]] = ()
    """Fields that are omitted from the JSON at their default, so that older values keep their digest."""

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject ``true`` for a number: to Python it equals 1."""
        annotation: Any = cls.model_fields[info.field_name or ""].annotation
        types = _types(annotation)
        values = value if isinstance(value, list | tuple) else (value,)
        if bool not in types and types & {int, float} and any(isinstance(one, bool) for one in values):
            raise ValueError(f"must be a number, not {str(value).lower()}")
        return value

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        defaults = {name: type(self).model_fields[name].default for name in self.added_later}
        at_default = {name for name, default in defaults.items() if _equal(values[name], default)}
        return {name: value for name, value in values.items() if name not in at_default}

    def canonical_json(self) -> str:
        """Return JSON with sorted keys and no spaces; it is equal for equal values."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:16]


@cache
def _types(annotation: Any) -> frozenset[Any]:
    """Return the types that an annotation names at any depth."""
    inner = get_args(annotation)
    return frozenset({annotation}).union(*map(_types, inner)) if inner else frozenset({annotation})


def _equal(value: Any, default: Any) -> bool:
    """Return whether a value equals a default; in JSON a tuple is a list."""
    return bool((tuple(value) if isinstance(value, list) else value) == default)


class Normalisation(Frozen):
    """Normalisation constants per channel, for pixel values in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]


class Augmentation(Frozen):
    """Random changes to training images, drawn per image."""

    added_later: ClassVar[tuple[str, ...]] = ("cutout", "padding", "trivial_augment", "erasing", "mixup", "cutmix")

    # Zero padding on each side before a random crop back to size, in pixels.
    crop_padding: int = Field(default=4, ge=0, le=64)
    flip: bool = True  # whether half of the images are mirrored horizontally
    rotation: float = Field(default=0.0, ge=0, le=180)  # largest rotation in either direction, in degrees
    cutout: Square = 0  # side of a black square in each image, in pixels (DeVries and Taylor 2017); 0 for none
    padding: Padding = "zeros"  # padding of the cropped image: zeros, or the image's own pixels reflected at the edge
    # Whether, after crop and flip, one of 14 operations of random strength changes an image (Müller and Hutter 2021).
    trivial_augment: bool = False
    # Probability that a random box of an image is filled with the mean colour (Zhong et al. 2020).
    erasing: float = Field(default=0.0, ge=0, le=1)
    # Parameter of the Beta distribution of mixup (Zhang et al. 2018) for whole batches; 0 for none.
    mixup: Alpha = 0.0
    # The same for CutMix (Yun et al. 2019). With both, each batch is mixed by either at random.
    cutmix: Alpha = 0.0

    def describe(self) -> list[str]:
        """Return the strong changes in words, e.g. ``["TrivialAugment", "mixup 0.2"]``."""
        changes = {
            f"cutout {self.cutout}": self.cutout,
            "reflection padding": self.padding == "reflect" and self.crop_padding,
            "TrivialAugment": self.trivial_augment,
            f"erasing {self.erasing:g}": self.erasing,
            f"mixup {self.mixup:g}": self.mixup,
            f"CutMix {self.cutmix:g}": self.cutmix,
        }
        return [text for text, there in changes.items() if there]


class Recipe(Frozen):
    """How a network is trained, except the seed."""

    added_later: ClassVar[tuple[str, ...]] = (
        "label_smoothing",
        "decay_norm_and_bias",
        "warmup_epochs",
        "ema_decay",
        "schedule",
        "decoupled_decay",
        "class_weights",
    )

    optimizer: OptimizerName  # ``"sgd"`` (with momentum) or ``"adam"`` (Kingma and Ba 2015, PyTorch's defaults)
    learning_rate: Rate  # learning rate at the start of the cosine schedule, its maximum
    # L2 penalty, which both optimisers add to the gradient; with `decoupled_decay` as described there.
    weight_decay: Decay = 0.0
    momentum: float = Field(default=0.9, ge=0, lt=1)  # SGD's momentum; unused by Adam
    nesterov: bool = False  # Nesterov's momentum for SGD
    epochs: int = Field(ge=1, le=10_000)  # passes over the training images
    t_max: int = Field(ge=1, le=100_000)  # epochs until the cosine schedule (Loshchilov and Hutter 2017) reaches zero
    batch: int = Field(default=128, ge=2, le=65_536)  # images per optimiser step
    augmentation: Augmentation = Augmentation()
    normalisation: Normalisation | None = None  # constants, or None for the statistics of the training images
    # Share of the target that is spread evenly over all classes (Szegedy et al. 2016), in the training loss only.
    label_smoothing: Smoothing = 0.0
    # Whether weight decay applies to all parameters, or only to convolution and linear weights (He et al. 2019).
    decay_norm_and_bias: bool = True
    # Epochs of ``t_max``, before the cosine schedule, in which the rate rises in equal steps (Goyal et al. 2017).
    warmup_epochs: Warmup = 0
    # Decay of the moving average of the weights; 0 for no average. The averaged weights are evaluated and returned.
    ema_decay: Averaging = 0.0
    schedule: Schedule = "epoch"  # whether the rate is set once per epoch or at every step
    # For Adam: each step reduces the weights by rate x decay instead of adding a penalty to the gradient (AdamW,
    # Loshchilov and Hutter 2019).
    decoupled_decay: bool = False
    # Weights of the classes in the training loss: all 1, or ``"balanced"``, inversely proportional to the number of
    # training images, with mean 1 over these images.
    class_weights: ClassWeights = "none"

    @model_validator(mode="after")
    def _warm_before_the_end(self) -> Self:
        if self.warmup_epochs >= self.t_max:
            raise ValueError(f"warmup_epochs must be below t_max, {self.t_max}, not {self.warmup_epochs}")
        return self

    def describe(self, *, brief: bool = False) -> str:
        """Return a short line, e.g. ``SGD lr 0.1 wd 0.0005, 60 epochs, batch 128, label smoothing 0.1``.

        Args:
            brief: Leave out epochs and batch, which all trials of a study share.
        """
        adam = "AdamW" if self.decoupled_decay else "Adam"
        name = "SGD" if self.optimizer == "sgd" else adam
        rates = f"{name} lr {self.learning_rate:.3g} wd {self.weight_decay:.3g}"
        shared = () if brief else (plural(self.epochs, "epoch"), f"batch {self.batch}")
        return ", ".join((rates, *shared, *self._extras()))

    def _extras(self) -> list[str]:
        extras = {
            "Nesterov": self.nesterov and self.optimizer == "sgd",
            f"label smoothing {self.label_smoothing:g}": self.label_smoothing,
            ", ".join(self.augmentation.describe()): self.augmentation.describe(),
            "no decay of norms and biases": not self.decay_norm_and_bias,
            f"warm-up {self.warmup_epochs}": self.warmup_epochs,
            f"EMA {self.ema_decay:g}": self.ema_decay,
            "rate per step": self.schedule == "step",
            "class weights": self.class_weights == "balanced",
        }
        return [text for text, is_set in extras.items() if is_set]

    def extra(self, name: str) -> Extra:
        """Return the value of an extra in `EXTRAS`."""
        value: Extra = self.augmentation.cutout if name == "cutout" else getattr(self, name)
        return value


class OptimizerRange(Frozen):
    """The ranges of an optimiser's parameters."""

    learning_rate: tuple[Rate, Rate]  # lowest and highest, drawn on a log scale
    weight_decay: tuple[Decay, ...] = Field(min_length=1)  # the values to choose from; a log scale cannot contain 0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.learning_rate
        if low > high:
            raise ValueError(f"learning_rate must be [lowest, highest], not [{low:g}, {high:g}]")
        if len(set(self.weight_decay)) != len(self.weight_decay):
            raise ValueError("weight_decay names a value twice")
        return self


class RecipeSpace(Frozen):
    """The ranges that a search draws recipes from, and the settings that all of its trials share.

    The default ranges contain the source report's settings: learning rate 0.1 for both optimisers, weight decay 5e-4
    for SGD and 0 for Adam. Each extra in `EXTRAS` has one or more choices; initial trials use the first. By default
    the only choice is off.
    """

    added_later: ClassVar[tuple[str, ...]] = ("schedule", "decoupled_decay", "class_weights")

    optimizers: tuple[OptimizerName, ...] = Field(default=("sgd", "adam"), min_length=1)
    sgd: OptimizerRange = OptimizerRange(learning_rate=(0.01, 0.5), weight_decay=(0.0, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3))
    adam: OptimizerRange = OptimizerRange(learning_rate=(1e-4, 0.1), weight_decay=(0.0, 1e-6, 1e-5, 1e-4, 5e-4))
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: Choices[bool] = (False,)
    label_smoothing: Choices[Smoothing] = (0.0,)
    decay_norm_and_bias: Choices[bool] = (True,)
    warmup_epochs: Choices[Warmup] = (0,)
    ema_decay: Choices[Averaging] = (0.0,)
    cutout: Choices[Square] = (0,)
    schedule: Choices[Schedule] = ("epoch",)
    decoupled_decay: Choices[bool] = (False,)
    class_weights: Choices[ClassWeights] = ("none",)
    epochs: int = Field(default=20, ge=1, le=10_000)
    batch: int = Field(default=128, ge=2, le=65_536)
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.optimizers)) != len(self.optimizers):
            raise ValueError("optimizers names an optimiser twice")
        for name, choices in self.extras().items():
            if len(set(choices)) != len(choices):
                raise ValueError(f"{name} names a value twice")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(self.nesterov) and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if max(self.warmup_epochs) >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs, {self.epochs}, not {max(self.warmup_epochs)}")
        if self.augmentation.cutout:
            side = self.augmentation.cutout
            raise ValueError(f"augmentation.cutout must be 0, not {side}: write cutout = {side} next to augmentation")
        return self

    def extras(self) -> dict[str, tuple[Extra, ...]]:
        """Return the choices of each extra."""
        return {name: getattr(self, name) for name in EXTRAS}

    def range_of(self, optimizer: str) -> OptimizerRange:
        """Return the ranges of an optimiser."""
        return self.sgd if optimizer == "sgd" else self.adam

    def recipe(
        self,
        optimizer: OptimizerName,
        learning_rate: float,
        weight_decay: float,
        chosen: Mapping[str, object] | None = None,
    ) -> Recipe:
        """Return the complete recipe; an extra that is not in `chosen` has its first choice."""
        extras: dict[str, Any] = {name: choices[0] for name, choices in self.extras().items()}
        extras |= chosen or {}
        cutout = extras.pop("cutout")
        return Recipe(
            optimizer=optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            momentum=self.momentum,
            epochs=self.epochs,
            t_max=self.epochs,
            batch=self.batch,
            augmentation=self.augmentation.model_copy(update={"cutout": cutout}),
            **extras,
        )


def named_extras(name: RecipeSpaceName, *, resolution: int, epochs: int) -> dict[str, tuple[Extra, ...]]:
    """Return the choices of each extra in a named recipe space.

    Args:
        name: ``"paper"``: all off, as in the source report. ``"measured"``: on if they improved accuracy in
            measurements with fresh seeds (docs/recipe.md). ``"tuned"``: all but class weights searched, with off as the
            first choice.
        resolution: Side of the images in pixels; cutout squares are a quarter or a half of it.
        epochs: Epochs of a trial; a warm-up is shorter.
    """
    if name != "tuned":
        off = {extra: RecipeSpace.model_fields[extra].default for extra in EXTRAS}
        return off if name == "paper" else off | {"nesterov": (True,)}
    return {
        "nesterov": (False, True),
        "label_smoothing": (0.0, 0.05, 0.1),
        "decay_norm_and_bias": (True, False),
        "warmup_epochs": tuple(warmup for warmup in (0, 1, 3) if warmup < epochs),
        "ema_decay": (0.0, 0.99, 0.995),
        "cutout": (0, resolution // 4, resolution // 2),
        "schedule": ("epoch", "step"),
        "decoupled_decay": (False, True),
        "class_weights": ("none",),
    }
