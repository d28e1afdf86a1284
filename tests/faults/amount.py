"""How much the tests of faults do: a little by default, everything with ``FAULTS=full`` (``make test-faults``)."""

from __future__ import annotations

import os
from typing import Final

VARIABLE: Final = "FAULTS"


def amount(few: int, *, full: int) -> int:
    """Return `full` if everything was asked for, else `few`."""
    asked = os.environ.get(VARIABLE, "few")
    if asked not in ("few", "full"):
        raise ValueError(f"{VARIABLE}={asked}: must be few or full")
    return full if asked == "full" else few
