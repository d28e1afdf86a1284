"""Predictions for images: probabilities of the classes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from budgetnas.bundle.image_sources import Item
from budgetnas.bundle.preparing import AnyImage, Preprocessor
from budgetnas.data.decoding import in_threads, num_threads
from budgetnas.errors import InputError
from budgetnas.training.network import ResNet, folded

_BATCH: Final = 256
_BATCH_PIXELS: Final = 256 * 64 * 64
"""Limit on the pixels of a batch: it bounds the memory of activations by smaller batches of larger images."""


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
    def index(self) -> int:
        """Index of the class with the highest probability."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)

    @property
    def best(self) -> str:
        """The class with the highest probability."""
        return self.classes[self.index]

    def top(self, count: int) -> tuple[tuple[str, float], ...]:
        """Return the `count` most probable classes with their probabilities, the most probable first."""
        order = sorted(range(len(self.classes)), key=lambda index: -self.probabilities[index])
        return tuple((self.classes[index], self.probabilities[index]) for index in order[:count])


@dataclass(frozen=True, slots=True)
class NamedPrediction:
    """The prediction for an image, or why it could not be read."""

    item: Item
    prediction: Prediction | None  # None if the image could not be read
    error: InputError | None = None  # why it could not be read, or None

    def to_dict(self, count: int) -> dict[str, Any]:
        """Return plain JSON types, with the `count` most probable classes."""
        if self.prediction is None:
            return {"image": self.item.name, "class": None, "top": [], "error": str(self.error)}
        top = [{"class": name, "probability": share} for name, share in self.prediction.top(count)]
        return {"image": self.item.name, "class": self.prediction.best, "top": top, "error": None}


def predict(network: nn.Module, preprocess: Preprocessor, images: Sequence[AnyImage]) -> list[Prediction]:
    """Return the predictions of a network in evaluation mode.

    Raises:
        InputError: If an image cannot be read.
    """
    predictions: list[Prediction] = []
    size = _batch_size(preprocess)
    for start in range(0, len(images), size):
        pixels = [preprocess.pixels(image) for image in images[start : start + size]]
        predictions += _predict(network, preprocess, pixels)
    return predictions


def predict_items(
    network: ResNet, preprocess: Preprocessor, items: Sequence[Item]
) -> Generator[NamedPrediction, None, None]:
    """Yield the prediction for each image, in order; unreadable images yield an error."""

    def prepare(item: Item) -> NDArray[np.uint8] | InputError:
        try:
            return preprocess.pixels(item.image)
        except InputError as error:
            return error

    network = folded(network)
    threads = num_threads([item.size_bytes for item in items])
    with closing(in_threads(prepare, items, threads)) as prepared:
        size = _batch_size(preprocess)
        for start in range(0, len(items), size):
            images = list(islice(prepared, size))
            pixels = [image for image in images if not isinstance(image, InputError)]
            predictions = iter(_predict(network, preprocess, pixels))
            for item, image in zip(items[start : start + size], images, strict=True):
                if isinstance(image, InputError):
                    yield NamedPrediction(item, None, image)
                else:
                    yield NamedPrediction(item, next(predictions))


def _batch_size(preprocess: Preprocessor) -> int:
    return max(1, min(_BATCH, _BATCH_PIXELS // preprocess.preprocessing.resolution**2))


def _predict(network: nn.Module, preprocess: Preprocessor, pixels: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
    if not pixels:
        return []
    device = next(network.parameters()).device
    with torch.inference_mode():
        # Channels-last: 1.7 times as fast on a CPU for three stages of 16, 32 and 64 channels.
        images = preprocess.normalised(np.stack(pixels)).to(device, memory_format=torch.channels_last)
        probabilities = network(images).softmax(dim=1).cpu().tolist()
    return [Prediction(preprocess.preprocessing.classes, tuple(shares)) for shares in probabilities]
