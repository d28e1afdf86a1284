"""A check of `budgetnas doctor`, and what the doctor is asked to check."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from budgetnas.data.request import DataRequest, check_request
from budgetnas.errors import InputError

State = Literal["ok", "warning", "problem"]
_DEVICES: Final = re.compile(r"auto|cpu|cuda(:[0-9]+)?|mps")


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of a check."""

    check: str
    state: State
    detail: str
    hint: str = ""  # what to do about it, or empty

    def to_json(self) -> dict[str, str]:
        """Return the check as a JSON object."""
        return {"check": self.check, "state": self.state, "detail": self.detail, "way_out": self.hint}


@dataclass(frozen=True, slots=True)
class DoctorRequest:
    """What a search would be run with."""

    storage: str
    study: str | None = None  # name of an existing study, or None
    data: str | None = None  # its data, or None for the study's, else CIFAR-10
    data_dir: Path | None = None
    device: str = "auto"

    def check(self) -> None:
        """Check the names of data and device.

        Raises:
            InputError: If a name is invalid.
        """
        if self.data is not None:
            check_request(DataRequest(self.data))
        if not _DEVICES.fullmatch(self.device):
            raise InputError("--device", self.device, "must be auto, cpu, cuda, cuda:N or mps")


def size_of(size: float) -> str:
    """Return a number of bytes in GiB or MiB."""
    return f"{size / (1 << 30):,.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):,.0f} MiB"


def one_line(error: object) -> str:
    """Return the start of an error's message, on a single line."""
    return " ".join(str(error).split())[:200]
