"""An existing study with its data on the device: the first step of finishing, comparing and exporting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from budgetnas.data import Data, DataIdentity, DataRequest, load_data
from budgetnas.data.arrays import ImageArrays, named_or_arrays
from budgetnas.data.request import FULL_DEPTH
from budgetnas.errors import InputError
from budgetnas.runs.recording import RunImages
from budgetnas.space.specification import StudySpecification, read_specification
from budgetnas.storage import Records
from budgetnas.training import Runtime
from budgetnas.training.device import statistics, to_device


@dataclass(frozen=True, slots=True)
class DataPlace:
    """Location of a study's data on this machine."""

    data: str | ImageArrays | None = None  # ``folder:DIR`` for a folder, or arrays; None for the named sets
    data_dir: Path | None = None  # folder of the archives


def study_specification(records: Records, study: str, argument: str = "STUDY") -> StudySpecification:
    """Return the specification of a study.

    Raises:
        InputError: If the storage has no such study.
    """
    stored = records.specification(study)
    if stored is None:
        there = ", ".join(records.study_names()) or "none yet"
        raise InputError(argument, study, f"is not in this storage; its studies: {there}", "see budgetnas studies")
    return read_specification(stored)


def data_request(identity: DataIdentity, owner: str, place: DataPlace) -> DataRequest:
    """Return the request for the data of `owner`.

    Raises:
        InputError: If they are a folder and `place` names none.
    """
    if place.data is None and identity.is_own:
        rule = f"is missing: {owner} was made on {identity.name}"
        raise InputError("--data", None, rule, identity.how_to_give)
    name, arrays = named_or_arrays(place.data, identity.name)
    return DataRequest(
        name=name,
        arrays=arrays,
        data_dir=place.data_dir,
        resolution=identity.resolution,
        subset=identity.subset,
        subset_eval=identity.subset_eval,
        split_seed=identity.split_seed,
        skipped=identity.skipped,
        bit_depth=identity.bit_depth or FULL_DEPTH,
    )


def load_study_data(specification: StudySpecification, study: str, place: DataPlace) -> tuple[Data, DataRequest]:
    """Return the data of a study, and the request that loaded them.

    Raises:
        InputError: If the loaded data differ from the study's.
    """
    request = data_request(specification.data, f"study {study!r}", place)
    data = load_data(request)
    if data.identity != specification.data:
        replace_data = specification.model_copy(update={"data": data.identity})
        replace_data.require_same(specification, study)
    return data, request


def validation_images(data: Data, runtime: Runtime) -> RunImages:
    """Return training and validation images on the device, as a trial uses them."""
    device = runtime.torch_device
    return RunImages(
        identity=data.identity,
        train=to_device(data.train, device),
        evaluation=to_device(data.validation, device),
        normalisation=statistics(data.train),
    )


def all_training_images(data: Data, runtime: Runtime) -> RunImages:
    """Return training and validation images on the device, together as training images, with none to evaluate on.

    They are normalised by the statistics of the training images alone, as in the search.
    """
    images = validation_images(data, runtime)
    train = images.train.joined_with(images.evaluation)
    return replace(images, train=train, evaluation=train.empty())
