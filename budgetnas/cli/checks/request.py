"""What the doctor is asked to look at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from budgetnas.data.request import DataRequest, check_request
from budgetnas.errors import InputError

_DEVICES: Final = re.compile(r"auto|cpu|cuda(:[0-9]+)?")


@dataclass(frozen=True, slots=True)
class DoctorRequest:
    """What a search would be run with.

    Attributes:
        storage: Its storage.
        study: A study that is there already.
        data: Its data; nothing: the study's, or CIFAR-10.
        data_dir: Where archives lie.
        device: Its device.
    """

    storage: str
    study: str | None = None
    data: str | None = None
    data_dir: Path | None = None
    device: str = "auto"

    def check(self) -> None:
        """Turn down data and a device that could not be.

        Raises:
            InputError: If one of them could not.
        """
        if self.data is not None:
            check_request(DataRequest(self.data))
        if not _DEVICES.fullmatch(self.device):
            raise InputError("--device", self.device, "must be auto, cpu, cuda or cuda:N")
