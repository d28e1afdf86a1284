"""How a search ends, whoever trains: an exit code, and a line where it did not end well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from budgetnas.errors import EXIT_DONE, EXIT_FAILED, Interrupted, SearchFailedError
from budgetnas.storage.engine import storage_failed
from budgetnas.storage.retry import database_error


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a search ended.

    Attributes:
        exit_code: 0 when done or out of time, 1 after five failed runs in a row or where the storage is gone,
            130 after Ctrl-C, 143 after SIGTERM.
        finished: Whether the study has all of its runs.
    """

    exit_code: int
    finished: bool = False


def outcome_of(work: Callable[[], bool], notice: Callable[[str], None]) -> Outcome:
    """Return how a search ends.

    Args:
        work: The search; returns whether the study has all of its runs.
        notice: Is told why it ended early.
    """
    try:
        return Outcome(EXIT_DONE, work())
    except (SQLAlchemyError, UnboundLocalError) as error:  # the latter is Optuna's, if a trial cannot be told to end
        if database_error(error) is None:
            raise
        notice(storage_failed(error))
        return Outcome(EXIT_FAILED)
    except SearchFailedError as error:
        notice(str(error))
        return Outcome(error.exit_code)
    except Interrupted as stop:
        if stop.reason:
            notice(stop.reason)
        return Outcome(stop.exit_code)
