"""Thinning a split to the number of images that a user asked for."""

from __future__ import annotations

import numpy as np

from budgetnas.data.images import Images
from budgetnas.data.splits import Purpose, choose
from budgetnas.data.wording import plural
from budgetnas.errors import InputError


def thin_training(images: Images, count: int | None, *, split_seed: int) -> Images:
    """Keep ``count`` training images, stratified (``--subset``); None keeps all.

    Raises:
        InputError: There are fewer images, or more classes.
    """
    return _thin("--subset", images, count, split_seed, Purpose.SUBSET, "training")


def thin_evaluation(images: Images, count: int | None, *, split_seed: int, split: str) -> Images:
    """Keep ``count`` images of the validation or test ``split``, stratified (``--subset-eval``); None keeps all.

    Raises:
        InputError: There are fewer images, or more classes.
    """
    return _thin("--subset-eval", images, count, split_seed, Purpose.EVALUATION, split)


def _thin(argument: str, images: Images, count: int | None, seed: int, purpose: Purpose, split: str) -> Images:
    if count is None:
        return images
    if count > len(images):
        rule = f"must be at most the {plural(len(images), 'image')} of the {split} split"
        raise InputError(argument, count, rule, "leave it out to use them all")
    classes = len(np.unique(images.labels))
    if count < classes:
        raise InputError(
            argument,
            count,
            f"must be at least {classes:,}, one image for each class of the {split} split",
            f"try {argument} {min(len(images), 20 * classes)}",
        )
    if count == len(images):
        return images
    return images.take(choose(images.labels, count, seed=seed, purpose=purpose))
