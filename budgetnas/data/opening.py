"""From a request to the source that serves it."""

from __future__ import annotations

from budgetnas.data.archives import ArchiveSource
from budgetnas.data.digits import DigitsSource
from budgetnas.data.folder import FolderSource
from budgetnas.data.request import DataRequest
from budgetnas.data.sources import Source


def open_source(request: DataRequest) -> Source:
    """Open the source of a checked request.

    Raises:
        InputError: The data cannot be had or used.
    """
    if request.is_folder:
        return FolderSource(request)
    if request.name == "digits":
        return DigitsSource(request.resolution)
    return ArchiveSource(request)
