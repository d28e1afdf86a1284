"""How a network is trained, everything but the seed: the frozen `Recipe`, and the ranges a search draws it from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

OptimizerName = Literal["sgd", "adam"]
Rate = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Smoothing = Annotated[float, Field(ge=0, lt=1)]
Warmup = Annotated[int, Field(ge=0, le=10_000)]
Averaging = Annotated[float, Field(ge=0, lt=1)]
Square = Annotated[int, Field(ge=0, le=512)]
Padding = Literal["zeros", "reflect"]
Schedule = Literal["epoch", "step"]
Alpha = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Extra = bool | int | float

EXTRAS: Final = ("nesterov", "label_smoothing", "decay_norm_and_bias", "warmup_epochs", "ema_decay", "cutout")
"""What a recipe may have beside an optimiser and its rates; a search fixes each or chooses it."""
SGD_EXTRAS: Final = ("nesterov",)
"""Those of them that mean nothing to Adam."""
RecipeSpaceName = Literal["measured", "paper", "tuned"]


def _as_choices(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


_T = TypeVar("_T")
Choices = Annotated[tuple[_T, ...], BeforeValidator(_as_choices), Field(min_length=1)]
"""One value is fixed; of several, each trial chooses."""


class Frozen(BaseModel):
    """Base of the frozen values that are stored as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    added_later: ClassVar[tuple[str, ...]] = ()
    """Fields left out of the JSON at their default, so that values from before them keep their digest."""

    @model_serializer(mode="wrap")
    def _without_what_came_later(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        defaults = {name: type(self).model_fields[name].default for name in self.added_later}
        return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}

    def canonical_json(self) -> str:
        """Return JSON with sorted keys and no spaces: equal values give equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:16]


class Normalisation(Frozen):
    """Constants that images are normalised with, per channel, for pixel values in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]


class Augmentation(Frozen):
    """Random changes to training images, each image with its own draw.

    Attributes:
        crop_padding: Zero padding on each side before a random crop back to size, in pixels.
        flip: Whether half of the images are mirrored left to right.
        rotation: Largest rotation in either direction, in degrees.
        cutout: Side of a black square in each image, in pixels (DeVries and Taylor 2017); 0: none.
        padding: What lies around the image that is cropped: zeros, or its own pixels reflected at the edge.
        trivial_augment: Whether each image is changed by one of 14 operations of random strength (Müller and Hutter
            2021), after crop and flip.
        erasing: Probability that a random box of an image is filled with the mean colour (Zhong et al. 2020).
        mixup: Parameter of the Beta distribution of mixup (Zhang et al. 2018) for whole batches; 0: off.
        cutmix: The same for CutMix (Yun et al. 2019). With both, each batch is mixed by either at random.
    """

    added_later: ClassVar[tuple[str, ...]] = ("cutout", "padding", "trivial_augment", "erasing", "mixup", "cutmix")

    crop_padding: int = Field(default=4, ge=0, le=64)
    flip: bool = True
    rotation: float = Field(default=0.0, ge=0, le=180)
    cutout: Square = 0
    padding: Padding = "zeros"
    trivial_augment: bool = False
    erasing: float = Field(default=0.0, ge=0, le=1)
    mixup: Alpha = 0.0
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
    """How a network is trained, everything but the seed.

    Attributes:
        optimizer: ``"sgd"`` (with momentum) or ``"adam"`` (Kingma and Ba 2015, PyTorch's defaults).
        learning_rate: Highest rate, at the start of the cosine schedule.
        weight_decay: L2 penalty, added to the gradient by both optimisers.
        momentum: SGD's momentum; unused by Adam.
        nesterov: Nesterov's momentum for SGD.
        epochs: Passes over the training images.
        t_max: Epochs in which the cosine schedule (Loshchilov and Hutter 2017) falls to zero.
        batch: Images in one optimiser step.
        augmentation: Random changes to training images.
        normalisation: Constants, or nothing for the training images' own statistics.
        label_smoothing: Share of the target that is spread evenly over all classes (Szegedy et al. 2016). The training
            loss of an epoch is then the smoothed one, which is minimised; evaluation is never smoothed.
        decay_norm_and_bias: Whether weight decay acts on all parameters; if not, on the weights of convolutions and
            linear layers only (He et al. 2019).
        warmup_epochs: Epochs before the cosine in which the rate rises in equal steps (Goyal et al. 2017); part of
            ``t_max``.
        ema_decay: How much the average of the weights keeps at each step; 0: no average. Where there is one, it is
            what is evaluated and returned.
        schedule: Whether the rate is set once an epoch or at every step.
    """

    added_later: ClassVar[tuple[str, ...]] = (
        "label_smoothing",
        "decay_norm_and_bias",
        "warmup_epochs",
        "ema_decay",
        "schedule",
    )

    optimizer: OptimizerName
    learning_rate: Rate
    weight_decay: Decay = 0.0
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    epochs: int = Field(ge=1, le=10_000)
    t_max: int = Field(ge=1, le=100_000)
    batch: int = Field(default=128, ge=2, le=65_536)
    augmentation: Augmentation = Augmentation()
    normalisation: Normalisation | None = None
    label_smoothing: Smoothing = 0.0
    decay_norm_and_bias: bool = True
    warmup_epochs: Warmup = 0
    ema_decay: Averaging = 0.0
    schedule: Schedule = "epoch"

    @model_validator(mode="after")
    def _warm_before_the_end(self) -> Self:
        if self.warmup_epochs >= self.t_max:
            raise ValueError(f"warmup_epochs must be below t_max, {self.t_max}, not {self.warmup_epochs}")
        return self

    def describe(self) -> str:
        """Return one short line, e.g. ``SGD lr 0.1 wd 0.0005, 60 epochs, batch 128, label smoothing 0.1``."""
        line = (
            f"{self.optimizer.upper() if self.optimizer == 'sgd' else 'Adam'} lr {self.learning_rate:.3g} "
            f"wd {self.weight_decay:.3g}, {self.epochs} epochs, batch {self.batch}"
        )
        return ", ".join((line, *self._extras()))

    def _extras(self) -> list[str]:
        extras = {
            "Nesterov": self.nesterov and self.optimizer == "sgd",
            f"label smoothing {self.label_smoothing:g}": self.label_smoothing,
            ", ".join(self.augmentation.describe()): self.augmentation.describe(),
            "no decay of norms and biases": not self.decay_norm_and_bias,
            f"warm-up {self.warmup_epochs}": self.warmup_epochs,
            f"EMA {self.ema_decay:g}": self.ema_decay,
            "rate per step": self.schedule == "step",
        }
        return [text for text, there in extras.items() if there]

    def extra(self, name: str) -> Extra:
        """Return the value of one of `EXTRAS`."""
        value: Extra = self.augmentation.cutout if name == "cutout" else getattr(self, name)
        return value


class OptimizerRange(Frozen):
    """What a search may draw for one optimiser.

    Attributes:
        learning_rate: Lowest and highest, drawn on a log scale.
        weight_decay: The values to choose from; a log scale could not hold 0.
    """

    learning_rate: tuple[Rate, Rate]
    weight_decay: tuple[Decay, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.learning_rate
        if low > high:
            raise ValueError(f"learning_rate must be [lowest, highest], not [{low:g}, {high:g}]")
        if len(set(self.weight_decay)) != len(self.weight_decay):
            raise ValueError("weight_decay names a value twice")
        return self


class RecipeSpace(Frozen):
    """The ranges a search draws recipes from, and what is the same for all of its trials.

    Both default ranges hold the source report's settings: learning rate 0.1 for either optimiser, weight decay
    5e-4 for SGD and 0 for Adam. Of each of `EXTRAS` there are one or more choices; the first is what seeds have, and
    by default the only one: off.
    """

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
    epochs: int = Field(default=20, ge=1, le=10_000)
    batch: int = Field(default=128, ge=2, le=65_536)
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.optimizers)) != len(self.optimizers):
            raise ValueError("optimizers names one twice")
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
            raise ValueError(f"augmentation.cutout must be 0, not {side}: write cutout = {side} beside augmentation")
        return self

    def extras(self) -> dict[str, tuple[Extra, ...]]:
        """Return the choices of each of `EXTRAS`."""
        return {name: getattr(self, name) for name in EXTRAS}

    def range_of(self, optimizer: str) -> OptimizerRange:
        """Return the range of that optimiser."""
        return self.sgd if optimizer == "sgd" else self.adam

    def recipe(
        self,
        optimizer: OptimizerName,
        learning_rate: float,
        weight_decay: float,
        chosen: Mapping[str, object] | None = None,
    ) -> Recipe:
        """Return the full recipe for these choices; an extra that is not among `chosen` has its first one."""
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
    """Return the choices of `EXTRAS` in a named space.

    Args:
        name: ``"paper"``: all off, as in the source report. ``"measured"``: those on whose gain was measured and held
            with fresh seeds (docs/recipe.md). ``"tuned"``: all searched, off among the choices and first.
        resolution: Side of the images in pixels; squares are a quarter or a half of it.
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
    }
