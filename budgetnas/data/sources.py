"""What every source of images offers, so that splitting and identifying them is written once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from budgetnas.data.images import Images


@dataclass(frozen=True)
class TrainingPart:
    """The whole training part of a data set, decoded, before anything is held out.

    Attributes:
        images: ``(N, C, side, side)`` with their labels.
        classes: Class names; their positions are the labels.
        content_hash: Hash of the whole data set, test split included, in hex.
        notices: What was converted, assumed or left out, in plain sentences.
    """

    images: Images
    classes: tuple[str, ...]
    content_hash: str
    notices: tuple[str, ...]


class Source(ABC):
    """A data set at one resolution.

    Attributes:
        name: Its name in identities.
        flip: Whether an image flipped left to right keeps its meaning.
        is_cifar10: Whether these are the original pixels of CIFAR-10.
    """

    name: str
    flip: bool = True
    is_cifar10: bool = False

    @abstractmethod
    def read_training(self) -> TrainingPart:
        """Decode the training part; test images may be hashed, never decoded.

        Raises:
            InputError: The data cannot be had or used.
        """

    @abstractmethod
    def read_test(self) -> Images:
        """Decode the test split.

        Raises:
            InputError: The data cannot be had or used.
        """
