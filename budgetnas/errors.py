"""Errors that a user can act on, and their exit codes."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, SupportsIndex

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_OVER_BUDGET = 3
EXIT_RESTART = 75
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

_LONGEST_VALUE: Final = 100

_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)", re.IGNORECASE)
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_PASSWORDS: Final = re.compile(r"(?<=://)([^\s:/@]*):\S*@|([?&]\w*pass\w*)=[^&\s'\"]*", re.IGNORECASE)


class BudgetnasError(Exception):
    """Base of the errors that end a command with a single line and no traceback; a notebook shows that line too."""

    exit_code = EXIT_FAILED

    def _render_traceback_(self) -> list[str]:  # called by IPython
        return [f"{type(self).__name__}: {self}"]


class InputError(BudgetnasError, ValueError):
    """Invalid input: the message names the argument, its value, the rule and a hint.

    Args:
        argument: The argument as the user typed it, e.g. ``--budget``.
        value: The given value, or None if the argument was missing.
        rule: The violated rule, as a clause ("must be a whole number of at least 1").
        hint: What to do instead, as a clause.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(self, argument: str, value: object, rule: str, hint: str = "") -> None:
        self.argument = argument
        self.value = value
        self.rule = rule
        self.hint = hint
        shown = "" if value is None else f" {value!r}" if isinstance(value, str) else f" {_brief(value)}"
        tail = f"; {hint}" if hint else ""
        super().__init__(f"{argument}{shown}: {rule}{tail}")


def _brief(value: object) -> str:
    """Return a value in a line, cut where it is long."""
    line = " ".join(str(value).split())
    return line if len(line) <= _LONGEST_VALUE else f"{line[: _LONGEST_VALUE - 3]}..."


def out_of_space(error: OSError) -> bool:
    """Return whether a disk or a user's quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def unwritable(argument: str, path: object, error: OSError, hint: str) -> BudgetnasError:
    """Return the error for a path that could not be written: bad input, or a full disk.

    Args:
        argument: The argument that named the path, e.g. ``--out``.
        path: The path.
        error: The operating system's error.
        hint: What to do if the disk is not full.
    """
    if out_of_space(error):
        hint = "what was there before is unchanged; free some space, or use another disk"
        return BudgetnasError(f"{argument} {str(path)!r}: no space is left for it; {hint}")
    return InputError(argument, str(path), f"cannot be written ({error.strerror})", hint)


def check_name(path: Path, argument: str) -> None:
    """Check that the operating system can look for a file to write.

    Raises:
        InputError: If its name is too long, or a folder above it is closed.
    """
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)
    except OSError as error:
        raise unwritable(argument, path, error, "name another") from None


def check_out(page: Path, argument: str = "--out") -> Path:
    """Return `page` if a file can be written there.

    Raises:
        InputError: If it is a folder or a device, its name is too long, or its folder is missing or read-only.
    """
    check_name(page, argument)
    if page.is_dir():
        raise InputError(argument, str(page), "is a folder", "name a file in it")
    if page.exists() and not page.is_file():
        raise InputError(argument, str(page), "exists and is not a regular file", "name a file")
    if not page.absolute().parent.is_dir():
        raise InputError(argument, str(page), f"folder {page.absolute().parent} does not exist", "create it first")
    if not os.access(page.absolute().parent, os.W_OK | os.X_OK):
        raise InputError(argument, str(page), f"folder {page.absolute().parent} cannot be written", "name another")
    return page


def hide_passwords(message: str) -> str:
    """Return a message with the passwords of all URLs in it replaced."""
    return _PASSWORDS.sub(lambda match: f"{match[2]}=..." if match[2] else f"{match[1]}:***@", message)


def check_seed(seed: int) -> int:
    """Return `seed` if every generator accepts it.

    Raises:
        InputError: If it is not a whole number, negative or over 2**31 - 1.
    """
    if not isinstance(seed, SupportsIndex) or not 0 <= seed < 2**31:
        raise InputError("--seed", seed, "must be a whole number from 0 to 2,147,483,647")
    return seed


def check_flag(argument: str, value: object) -> None:
    """Raise `InputError` unless a value is True or False: any text would count as True."""
    if not isinstance(value, bool):
        raise InputError(argument, value, "must be True or False")


class RunFailedError(BudgetnasError):
    """A training that cannot continue, with the reason for its record.

    Args:
        reason: A line: what happened, where, and what may help.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class SearchFailedError(BudgetnasError):
    """A search that cannot continue: too many failed runs in a row, or a search space used up."""


class StateError(BudgetnasError):
    """A checkpoint that a training cannot resume from; its text is a clause."""


class StoppedEarly(Exception):
    """A decision to end a training early, raised by its observer; its text is the reason, a line."""


class Interrupted(Exception):
    """A request to stop (Ctrl-C or SIGTERM), raised where everything finished is saved.

    Args:
        exit_code: 130 for SIGINT, 143 for SIGTERM, 1 if the storage is lost, 75 for a `RestartNeeded`.
        reason: Why, if the user did not ask for it.
    """

    def __init__(self, exit_code: int = EXIT_INTERRUPTED, reason: str = "") -> None:
        self.exit_code = exit_code
        self.reason = reason
        super().__init__(exit_code, reason)


class RestartNeeded(Interrupted):
    """This process can no longer train, although the training itself is sound: a new process resumes it.

    Its exit code, 75, is EX_TEMPFAIL of sysexits: try again. `reason` is a single line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(EXIT_RESTART, reason)


class Cancelled(Interrupted):
    """A user cancelled the study: its trial is requeued, and only a later search or final trains it."""

    def __init__(self, study: str) -> None:
        super().__init__(EXIT_FAILED, f"study {study!r} was cancelled; a search or finish of it resumes it")


class TrainedElsewhere(Exception):
    """Another process is training a run that was requested.

    Attributes:
        run: Number of its record.
    """

    def __init__(self, run: int) -> None:
        super().__init__(f"another process is training run {run}")
        self.run = run


class LeaseLost(Exception):
    """This process did not renew its lease in time and another process has taken over its work; it must not write."""


def closest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the hint ``did you mean NAME?`` for the known name most similar to `name`, or another hint."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else otherwise


def parse_seconds(text: str) -> float | None:
    """Return a time such as ``90``, ``90s``, ``15m`` or ``2h`` in seconds; None if it is not a time."""
    match = _TIME.fullmatch(text.strip())
    return float(match[1]) * _UNITS[match[2].lower()] if match else None


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return a number with its noun, e.g. ``1 image`` or ``1,204 images``; `nouns` is an irregular plural."""
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Return the first `limit` names, escaped if they cannot be printed, and how many more there are."""
    every = [name if name.isprintable() else ascii(name)[1:-1] for name in names]
    more = f" and {len(every) - limit:,} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more
