"""Results on stdout, as tables or as JSON; everything else on stderr."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from budgetnas.api.progress.terminal import console_on, stderr

if TYPE_CHECKING:
    from budgetnas.training import RuntimeRules


def stdout() -> Console:
    """Return the console of results."""
    return console_on(sys.stdout, soft_wrap=False)


def print_json(value: Any) -> None:
    """Print a JSON value."""
    print(json.dumps(value, indent=2, allow_nan=False))


def chosen_runtime(device: str, precision: str) -> RuntimeRules:
    """Return the rules for the device and precision that the user asked for, after printing their notes.

    Raises:
        InputError: If the device is missing, or a name is unknown.
    """
    from budgetnas.training import runtime_rules

    rules = runtime_rules(device, precision)
    for note in rules.notes:
        stderr().print(note)
    return rules


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> Table:
    """Return a table whose first `left` columns are aligned left, the others right."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*map(printed, row))
    return made


def printed(text: str) -> str:
    """Return `text` without control characters, because names of classes and studies can come from other people."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)


def shown_storage(storage: str | None) -> str | None:
    """Return a storage as the user wrote it, but without a password."""
    if storage is None:
        return None
    from budgetnas.storage.urls import masked, parse_storage

    url = parse_storage(storage)
    return storage if masked(url) == url.render_as_string(hide_password=False) else masked(url)


def print_stopped(storage: str | None, saved: str) -> None:
    """Print what is saved, and the command that resumes: the one that was run, without the password of its storage."""
    stderr().print(f"Stopped. {saved} Resume with:")
    given, shown = storage or "", shown_storage(storage) or ""
    words = [
        word.replace(given, shown) if given and word in (given, f"--storage={given}") else word for word in sys.argv[1:]
    ]
    stderr().print(f"  {shlex.join(['budgetnas', *words])}", soft_wrap=True)


def print_next(storage: str | None, *commands: Sequence[str]) -> None:
    """Print the next commands, with the storage that was given."""
    shown = shown_storage(storage)
    where = ["--storage", shown] if shown else []
    stdout().print("\nNext:")
    for words in commands:
        stdout().print(f"  {shlex.join(['budgetnas', *words, *where])}")
