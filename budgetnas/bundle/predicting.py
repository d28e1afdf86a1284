"""Predictions for images: probabilities of the classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from budgetnas.bundle.preparing import AnyImage, Preprocessor
from budgetnas.errors import InputError

_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for an image.

    Attributes:
        classes: Class names.
        probabilities: Probability of each class: the softmax of the logits, not calibrated.
    """

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def best(self) -> str:
        """The class with the highest probability."""
        return self.top(1)[0][0]

    def top(self, count: int) -> tuple[tuple[str, float], ...]:
        """Return the `count` likeliest classes with their probabilities, likeliest first."""
        order = sorted(range(len(self.classes)), key=lambda index: -self.probabilities[index])
        return tuple((self.classes[index], self.probabilities[index]) for index in order[:count])


@dataclass(frozen=True, slots=True)
class NamedPrediction:
    """The prediction for a file, or why it could not be read."""

    image: str  # the file as the user named it
    prediction: Prediction | None  # the prediction, or None
    error: InputError | None = None  # why there is no prediction, or None

    def to_dict(self, count: int) -> dict[str, Any]:
        """Return plain JSON types, with the `count` likeliest classes."""
        if self.prediction is None:
            return {"image": self.image, "class": None, "top": [], "error": str(self.error)}
        top = [{"class": name, "probability": share} for name, share in self.prediction.top(count)]
        return {"image": self.image, "class": self.prediction.best, "top": top, "error": None}


def predict(network: nn.Module, preprocess: Preprocessor, images: Sequence[AnyImage]) -> list[Prediction]:
    """Return the predictions of a network in evaluation mode.

    Raises:
        InputError: If an image cannot be read.
    """
    predictions: list[Prediction] = []
    for start in range(0, len(images), _BATCH):
        prepared = [preprocess(image) for image in images[start : start + _BATCH]]
        predictions += _predict(network, preprocess, prepared)
    return predictions


def predict_files(network: nn.Module, preprocess: Preprocessor, images: Sequence[str]) -> Iterator[NamedPrediction]:
    """Yield the prediction for each file, in order; unreadable files yield an error."""
    for start in range(0, len(images), _BATCH):
        names = images[start : start + _BATCH]
        tried = {name: _tried(preprocess, name) for name in names}
        readable = {name: image for name, image in tried.items() if isinstance(image, Tensor)}
        predictions = dict(zip(readable, _predict(network, preprocess, list(readable.values())), strict=True))
        for name in names:
            error = tried[name]
            yield NamedPrediction(name, predictions.get(name), error if isinstance(error, InputError) else None)


def _tried(preprocess: Preprocessor, image: str) -> Tensor | InputError:
    try:
        return preprocess(image)
    except InputError as error:
        return error


def _predict(network: nn.Module, preprocess: Preprocessor, prepared: Sequence[Tensor]) -> list[Prediction]:
    if not prepared:
        return []
    device = next(network.parameters()).device
    with torch.inference_mode():
        probabilities = network(torch.cat(list(prepared)).to(device)).softmax(dim=1).cpu().tolist()
    return [Prediction(preprocess.preprocessing.classes, tuple(shares)) for shares in probabilities]
