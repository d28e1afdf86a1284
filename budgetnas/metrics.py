"""What one epoch of a training gave."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch; accuracies are shares of 1.

    Attributes:
        epoch: Number, from 1.
        train_loss: Mean loss over the epoch's augmented images, while the weights changed: the loss that is minimised,
            with the recipe's label smoothing.
        train_accuracy: Likewise.
        eval_loss: Mean loss on the evaluation split (validation in a search, test in a replay) after the epoch, never
            smoothed; not a number where nothing was evaluated.
        eval_accuracy: Likewise.
        learning_rate: Rate in this epoch.
        seconds: Time of training and evaluation.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    eval_loss: float
    eval_accuracy: float
    learning_rate: float
    seconds: float
