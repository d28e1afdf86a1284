"""The figures of an epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Epoch:
    """The figures of an epoch; accuracies are shares of 1.

    Attributes:
        epoch: Number, from 1.
        train_loss: Mean training loss over the epoch's augmented images, with the recipe's label smoothing, while the
            weights changed.
        train_accuracy: Accuracy on the same images.
        eval_loss: Mean loss on the evaluation split (validation in a search, test in a replay) after the epoch, without
            label smoothing; NaN without an evaluation.
        eval_accuracy: Accuracy in the same evaluation.
        learning_rate: Learning rate of the epoch.
        seconds: Time of training and evaluation.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    eval_loss: float
    eval_accuracy: float
    learning_rate: float
    seconds: float
