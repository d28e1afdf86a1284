"""A data set for a search: decoded, split, subsampled and identified, without its test split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from budgetnas.data.arrays import ArraySource
from budgetnas.data.folder import FolderSource
from budgetnas.data.identity import DataIdentity
from budgetnas.data.images import Images, Source, TrainingPart, describe_copies
from budgetnas.data.named_sets import ArchiveSource, DigitsSource
from budgetnas.data.request import DataRequest, check_request
from budgetnas.data.splits import Purpose, hold_out, share_size, subsample_evaluation, subsample_training
from budgetnas.errors import InputError, plural
from budgetnas.metrics import ClassCounts

_VALIDATION_PARTS = 10


@dataclass(frozen=True)
class Data:
    """The part of a data set that a search may use."""

    identity: DataIdentity
    classes: tuple[str, ...]  # class names; their positions are the labels
    in_channels: int  # channels of an image, 1 or 3
    resolution: int  # side of an image in pixels
    flip: bool  # whether an image flipped left to right keeps its meaning
    notices: tuple[str, ...]  # sentences on what was converted, assumed or left out
    is_cifar10: bool  # whether these are the original pixels of CIFAR-10, from its own archive
    train: Images  # the training images without the validation images, subsampled by ``subset``
    validation: Images  # the user's own, else a stratified tenth of the training images; subsampled by ``subset_eval``
    all_train: Images  # the whole training part, validation images included, subsampled by ``subset``

    @property
    def validation_classes(self) -> ClassCounts:
        """The validation images by class."""
        return self.validation.class_counts(self.classes)


def load_data(request: DataRequest) -> Data:
    """Load a data set. The pixels of the test split are never kept.

    Raises:
        InputError: If the request cannot be met.
    """
    check_request(request)
    source = open_source(request)
    part = source.read_training()
    _check_classes(request, part)
    seed = request.split_seed
    if part.validation is None:
        whole = part.images
        train, validation = _split_off_validation(whole, seed)
    else:
        train, validation = part.images, part.validation
        whole = train.joined_with(validation)
    resolution = whole.images.shape[-1]
    identity = _identity(request, source.name, part, resolution)
    copies = validation.copies_in(train) if identity.is_own else 0
    return Data(
        identity=identity,
        classes=part.classes,
        in_channels=whole.images.shape[1],
        resolution=resolution,
        flip=source.flip,
        notices=(
            *_unused_options(request),
            *part.notices,
            *describe_copies(copies, len(validation), "validation"),
        ),
        is_cifar10=source.is_cifar10,
        train=subsample_training(train, request.subset, split_seed=seed),
        validation=subsample_evaluation(validation, request.subset_eval, split_seed=seed, split="validation"),
        all_train=subsample_training(whole, request.subset, split_seed=seed),
    )


def open_source(request: DataRequest) -> Source:
    """Return the source of a checked request.

    Raises:
        InputError: If the data are missing or cannot be used.
    """
    if request.arrays is not None:
        return ArraySource(request.arrays, request.resolution, request.split_seed)
    if request.is_folder:
        return FolderSource(request)
    if request.name == "digits":
        return DigitsSource(request.resolution)
    return ArchiveSource(request)


def _check_classes(request: DataRequest, part: TrainingPart) -> None:
    if part.validation is not None:
        return
    counts = np.bincount(part.images.labels, minlength=len(part.classes)).tolist()
    for name, count in zip(part.classes, counts, strict=True):
        if count < 2:
            rule = (
                f"class {name!r} has {plural(count, 'training image')}, "
                "and needs at least 2: a training and a validation image"
            )
            raise InputError("--data", request.name, rule, "add images, or remove the class")


def _split_off_validation(whole: Images, split_seed: int) -> tuple[Images, Images]:
    size = share_size(whole.labels, _VALIDATION_PARTS)
    train, validation = hold_out(whole.labels, size, seed=split_seed, purpose=Purpose.VALIDATION)
    return whole.take(train), whole.take(validation)


def _identity(request: DataRequest, name: str, part: TrainingPart, resolution: int) -> DataIdentity:
    return DataIdentity(
        name=name,
        content_hash=part.content_hash,
        subset=request.subset,
        subset_eval=request.subset_eval,
        split_seed=request.split_seed,
        resolution=resolution,
        skipped=part.skipped,
        bit_depth=part.bit_depth,
    )


def _unused_options(request: DataRequest) -> list[str]:
    if request.data_dir is None or not (request.is_folder or request.arrays or request.name == "digits"):
        return []
    return [f"--data-dir {request.data_dir} is not used: {request.name} needs no downloaded archive"]
