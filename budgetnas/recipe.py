"""How a network is trained, everything but the seed: the frozen `Recipe`, and the ranges a search draws it from."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

OptimizerName = Literal["sgd", "adam"]
Rate = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Frozen(BaseModel):
    """Base of the frozen values that are stored as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    """

    crop_padding: int = Field(default=4, ge=0, le=64)
    flip: bool = True
    rotation: float = Field(default=0.0, ge=0, le=180)


class Recipe(Frozen):
    """How a network is trained, everything but the seed.

    Attributes:
        optimizer: ``"sgd"`` (with momentum) or ``"adam"`` (Kingma and Ba 2015, PyTorch's defaults).
        learning_rate: Rate at the start of the cosine schedule.
        weight_decay: L2 penalty, added to the gradient by both optimisers.
        momentum: SGD's momentum; unused by Adam.
        nesterov: Nesterov's momentum for SGD.
        epochs: Passes over the training images.
        t_max: Epochs in which the cosine schedule (Loshchilov and Hutter 2017) falls to zero; it steps once an epoch.
        batch: Images in one optimiser step.
        augmentation: Random changes to training images.
        normalisation: Constants, or nothing for the training images' own statistics.
    """

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

    def describe(self) -> str:
        """Return one short line, e.g. ``SGD lr 0.1 wd 0.0005, 60 epochs, batch 128``."""
        return (
            f"{self.optimizer.upper() if self.optimizer == 'sgd' else 'Adam'} lr {self.learning_rate:.3g} "
            f"wd {self.weight_decay:.3g}, {self.epochs} epochs, batch {self.batch}"
        )


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
    5e-4 for SGD and 0 for Adam.
    """

    optimizers: tuple[OptimizerName, ...] = Field(default=("sgd", "adam"), min_length=1)
    sgd: OptimizerRange = OptimizerRange(learning_rate=(0.01, 0.5), weight_decay=(0.0, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3))
    adam: OptimizerRange = OptimizerRange(learning_rate=(1e-4, 0.1), weight_decay=(0.0, 1e-6, 1e-5, 1e-4, 5e-4))
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    epochs: int = Field(default=20, ge=1, le=10_000)
    batch: int = Field(default=128, ge=2, le=65_536)
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.optimizers)) != len(self.optimizers):
            raise ValueError("optimizers names one twice")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    def range_of(self, optimizer: str) -> OptimizerRange:
        """Return the range of that optimiser."""
        return self.sgd if optimizer == "sgd" else self.adam

    def recipe(self, optimizer: OptimizerName, learning_rate: float, weight_decay: float) -> Recipe:
        """Return the full recipe for these choices."""
        return Recipe(
            optimizer=optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
            epochs=self.epochs,
            t_max=self.epochs,
            batch=self.batch,
            augmentation=self.augmentation,
        )
