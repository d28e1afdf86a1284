"""Settings of the operator, not of a study: grace period and checkpoints."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs
from sqlalchemy.engine import URL

from budgetnas.errors import InputError
from budgetnas.storage.urls import sqlite_file

GRACE: Final = "BUDGETNAS_GRACE"
CHECKPOINT_EVERY: Final = "BUDGETNAS_CHECKPOINT_EVERY"
CHECKPOINT_DIR: Final = "BUDGETNAS_CHECKPOINT_DIR"
GRACE_SECONDS: Final = 180.0
"""Longer than `budgetnas.storage.retry.RETRY_SECONDS`, so that an outage costs no lease."""
CHECKPOINT_SECONDS: Final = 30.0
_SECONDS: Final = re.compile(r"(\d+(?:\.\d+)?)s?")


@dataclass(frozen=True, slots=True)
class Settings:
    """The operator's settings."""

    # Seconds without a heartbeat after which another process may take over this one's work.
    grace_seconds: float = GRACE_SECONDS
    # Least seconds between two checkpoints; they are written at the end of an epoch.
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    # Folder of the checkpoints, or None: next to a SQLite file, else in the user's state folder.
    checkpoint_dir: Path | None = None

    @classmethod
    def of_environment(cls) -> Settings:
        """Return the settings of the environment, else the defaults.

        Raises:
            InputError: If a variable is not a time.
        """
        folder = os.environ.get(CHECKPOINT_DIR)
        return cls(
            _seconds(GRACE, GRACE_SECONDS, lowest=1.0),
            _seconds(CHECKPOINT_EVERY, CHECKPOINT_SECONDS, lowest=0.0),
            Path(folder) if folder else None,
        )

    @property
    def heartbeat_seconds(self) -> float:
        """Seconds between two heartbeats; several fit into the grace period."""
        return min(15.0, self.grace_seconds / 6)

    def checkpoints_of(self, url: URL) -> Path:
        """Return the folder of the checkpoints of a storage's runs."""
        if self.checkpoint_dir is not None:
            return self.checkpoint_dir.absolute()
        if url.get_backend_name() == "sqlite":
            return Path(f"{sqlite_file(url)}.checkpoints")
        return platformdirs.user_state_path("budgetnas") / "checkpoints"


def _seconds(name: str, default: float, *, lowest: float) -> float:
    text = os.environ.get(name)
    if not text:
        return default
    match = _SECONDS.fullmatch(text.strip())
    if match is None or float(match[1]) < lowest:
        raise InputError(name, text, f"must be a time of at least {lowest:g} seconds", "write e.g. 30s")
    return float(match[1])
