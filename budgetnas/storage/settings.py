"""Settings of the operator, not of a study: grace period, checkpoints, and turns of the queue."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs
from sqlalchemy.engine import URL

from budgetnas.errors import InputError, parse_seconds
from budgetnas.storage.urls import sqlite_file

GRACE: Final = "BUDGETNAS_GRACE"
CHECKPOINT_EVERY: Final = "BUDGETNAS_CHECKPOINT_EVERY"
CHECKPOINT_DIR: Final = "BUDGETNAS_CHECKPOINT_DIR"
GRACE_SECONDS: Final = 180.0
"""Longer than `budgetnas.storage.retry.RETRY_SECONDS`, so that an outage costs no lease."""
CHECKPOINT_SECONDS: Final = 30.0
TURN: Final = "BUDGETNAS_TURN"
TURN_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """The operator's settings."""

    # Seconds without a heartbeat after which another process may take over this one's work.
    grace_seconds: float = GRACE_SECONDS
    # Minimum seconds between two checkpoints; they are written at the end of an epoch.
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    # Folder of the checkpoints, or None: next to a SQLite file, else in the user's state folder.
    checkpoint_dir: Path | None = None
    # Seconds after which a worker of the queue takes no further trial of a study before it has chosen anew.
    turn_seconds: float = TURN_SECONDS

    @classmethod
    def of_environment(cls) -> Settings:
        """Return the settings of the environment, else the defaults.

        Raises:
            InputError: If a variable is not a time.
        """
        folder = os.environ.get(CHECKPOINT_DIR)
        return cls(
            seconds_of(GRACE, GRACE_SECONDS, lowest=1.0),
            seconds_of(CHECKPOINT_EVERY, CHECKPOINT_SECONDS),
            Path(folder) if folder else None,
            seconds_of(TURN, TURN_SECONDS),
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


def seconds_of(variable: str, default: float, *, lowest: float = 0.0) -> float:
    """Return the time in an environment variable, in seconds: ``90``, ``90s``, ``15m``, ``2h``.

    Raises:
        InputError: If it is not a time, or less than `lowest` seconds.
    """
    text = os.environ.get(variable)
    if not text:
        return default
    seconds = parse_seconds(text)
    if seconds is None or seconds < lowest:
        raise InputError(variable, text, f"must be a time of at least {lowest:g} seconds", "write e.g. 30s or 15m")
    return seconds
