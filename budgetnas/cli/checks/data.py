"""Checks of the data that a search would read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from budgetnas.cli.checks.check import Check, DoctorRequest
from budgetnas.data.cache import read_only
from budgetnas.data.load import Data, load_data
from budgetnas.data.named_sets import archives_of, is_unpacked
from budgetnas.data.request import DataRequest
from budgetnas.errors import plural
from budgetnas.space.specification import StudySpecification

DEFAULT_DATA: Final = "cifar10"


def data(request: DoctorRequest, specification: StudySpecification | None) -> Iterator[Check]:
    """Check the data by reading them as a search does, but without downloading, unpacking or caching."""
    asked = _data_request(request, specification)
    if not asked.is_folder and asked.name != "digits" and not is_unpacked(asked):
        yield _not_unpacked(asked)
        return
    with read_only():
        loaded = load_data(asked)
    yield Check("data", "ok", _described(loaded))
    if specification is not None:
        yield _same_data(loaded, specification, request.study or "")


def _data_request(request: DoctorRequest, specification: StudySpecification | None) -> DataRequest:
    if specification is None:
        return DataRequest(request.data or DEFAULT_DATA, request.data_dir)
    from budgetnas.runs.reopen import DataPlace, data_request

    return data_request(specification.data, f"study {request.study!r}", DataPlace(request.data, request.data_dir))


def _not_unpacked(request: DataRequest) -> Check:
    folder = request.archive_dir
    absent = [archive for archive in archives_of(request) if not (folder / archive.relative).is_file()]
    if not absent:
        return Check("data", "ok", f"{request.name}: the archive is in {folder}, and the first search unpacks it")
    detail = f"{request.name} is not in {folder}: the first search downloads it from {absent[0].url}"
    hint = "without a network put it there, or use --data digits or --data folder:DIR"
    return Check("data", "warning", detail, hint)


def _described(loaded: Data) -> str:
    side, identity = loaded.resolution, loaded.identity
    return (
        f"{identity.label()}: {len(loaded.train):,} training and {len(loaded.validation):,} validation images, "
        f"{side} x {side} pixels, {plural(len(loaded.classes), 'class', 'classes')}, identity {identity.digest()}"
    )


def _same_data(loaded: Data, specification: StudySpecification, study: str) -> Check:
    identity = specification.data
    if loaded.identity == identity:
        return Check("study's data", "ok", f"the same as study {study!r} was made on")
    detail = f"study {study!r} was made on {identity.label()}, identity {identity.digest()}"
    return Check("study's data", "problem", detail, "name those with --data and --data-dir, or start another study")
