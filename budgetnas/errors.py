"""Errors a user can act on, and what each means for the exit code."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from typing import Final

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_OVER_BUDGET = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

_PASSWORDS: Final = re.compile(r"(?<=://)([^\s:/@]*):\S*@|([?&]\w*pass\w*)=[^&\s'\"]*", re.IGNORECASE)


class BudgetnasError(Exception):
    """Base of the errors that end a command with one line and no traceback."""

    exit_code = EXIT_FAILED


class InputError(BudgetnasError, ValueError):
    """Input that cannot be used: says what was given, the rule, and a way out.

    Args:
        argument: What the user typed it as, e.g. ``--budget``.
        value: The value as it was given.
        rule: The rule it breaks, as a clause ("must be a whole number of at least 1").
        hint: What to do instead, as a clause.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(self, argument: str, value: object, rule: str, hint: str = "") -> None:
        self.argument = argument
        self.value = value
        self.rule = rule
        self.hint = hint
        shown = "" if value is None else f" {value!r}" if isinstance(value, str) else f" {value}"
        tail = f"; {hint}" if hint else ""
        super().__init__(f"{argument}{shown}: {rule}{tail}")


def out_of_space(error: OSError) -> bool:
    """Return whether a disk, or what a user may take of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def unwritable(argument: str, path: object, error: OSError, hint: str) -> BudgetnasError:
    """Return the error that says why something could not be written: bad input, or a disk that is full.

    Args:
        argument: What named the place, e.g. ``--out``.
        path: The place.
        error: What the operating system said.
        hint: What to do where it is not space that is missing.
    """
    if out_of_space(error):
        told = "what was there before is as it was; free some space, or name another disk"
        return BudgetnasError(f"{argument} {str(path)!r}: no space is left for it; {told}")
    return InputError(argument, str(path), f"cannot be written ({error.strerror})", hint)


def hide_passwords(message: str) -> str:
    """Return a message without the password of any URL in it, such as one given where a study's name belongs."""
    return _PASSWORDS.sub(lambda found: f"{found[2]}=..." if found[2] else f"{found[1]}:***@", message)


def check_seed(seed: int) -> int:
    """Return `seed` if every generator takes it.

    Raises:
        InputError: If it is negative or over 2**31 - 1.
    """
    if not 0 <= seed < 2**31:
        raise InputError("--seed", seed, "must be a whole number from 0 to 2,147,483,647")
    return seed


class RunFailedError(BudgetnasError):
    """A training that cannot go on, with the reason that its record keeps.

    Args:
        reason: One line: what happened, where, and what may help.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class SearchFailedError(BudgetnasError):
    """A search that cannot go on (too many failed runs in a row, a space used up)."""


class StateError(BudgetnasError):
    """A kept state that a training cannot go on from.

    Args:
        reason: One line: what is wrong with it, as a clause.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class StoppedEarly(Exception):
    """A verdict that a training need not go on, raised by whoever follows it.

    Args:
        reason: One line: after which epoch, what it had, what was needed.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Interrupted(Exception):
    """A request to stop (Ctrl-C or SIGTERM), raised at a point where nothing is half done.

    Args:
        exit_code: 130 for SIGINT, 143 for SIGTERM, 1 where the storage is gone.
        reason: Why, if nobody asked for it.
    """

    def __init__(self, exit_code: int = EXIT_INTERRUPTED, reason: str = "") -> None:
        self.exit_code = exit_code
        self.reason = reason
        super().__init__(exit_code, reason)


class LeaseLost(Exception):
    """This process did not renew its lease in time and another process has taken over its work; it must not write."""


def plural(count: int, noun: str) -> str:
    """Return a number with its noun, e.g. ``1 image`` or ``1,204 images``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Return the first `limit` names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - limit:,} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more
