"""The figures of an epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Epoch:
    """The figures of an epoch; accuracies are shares of 1."""

    epoch: int  # number, from 1
    # Mean training loss over the epoch's augmented images, with the recipe's label smoothing, while the weights
    # changed.
    train_loss: float
    train_accuracy: float  # accuracy on the same images
    # Mean loss on the evaluation split (validation in a search, test in a replay) after the epoch, without label
    # smoothing; NaN without an evaluation.
    eval_loss: float
    eval_accuracy: float  # accuracy in the same evaluation
    learning_rate: float  # learning rate of the epoch
    seconds: float  # time of training and evaluation
