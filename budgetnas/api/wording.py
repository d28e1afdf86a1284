"""Errors in a Python program: they name its arguments instead of the options of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from budgetnas.errors import BudgetnasError, InputError

_OPTION: Final = re.compile(r"--([a-z]+(?:-[a-z]+)*)(?: (?=\S*[\dA-Z:/])([^\s;,]*[^\s;,.]))?")
_NUMBER: Final = re.compile(r"\d[\d.e_]*")
_FUNCTIONS: Final = {
    re.compile(r"run budgetnas finish .+? first"): "call finish() first",
    re.compile(r"budgetnas search --study NAME --trials N"): "budgetnas.search(study=NAME, trials=N)",
}
_ARGUMENTS: Final = {"STUDY": "study", "STUDY_FILE": "study_file", "NAME": "network", "DIR": "path", "IMAGE": "image"}


@contextmanager
def python_words(**arguments: str) -> Iterator[None]:
    """Reword the errors raised inside, or in a decorated function, for a Python program.

    Args:
        arguments: Names of arguments that differ from the usual, e.g. ``STUDY="name"``.
    """
    try:
        yield
    except BudgetnasError as error:
        reword(error, arguments)
        raise


def reword(error: BudgetnasError, arguments: dict[str, str]) -> None:
    """Let the message of an error name arguments of Python, e.g. ``max_macs`` for ``--max-macs``."""
    if isinstance(error, InputError):
        names = _ARGUMENTS | arguments
        error.argument = names.get(error.argument) or _translated(error.argument)
        error.rule, error.hint = _translated(error.rule), _translated(error.hint)
        error.args = InputError(error.argument, error.value, error.rule, error.hint).args
    else:
        error.args = tuple(_translated(text) if isinstance(text, str) else text for text in error.args)


def _translated(text: str) -> str:
    """Return `text` with its options as arguments, and with functions instead of the commands that have one."""
    for command, function in _FUNCTIONS.items():
        text = command.sub(function, text)
    return text if "budgetnas " in text else _OPTION.sub(_argument, text)


def _argument(option: re.Match[str]) -> str:
    name, value = option[1].replace("-", "_"), option[2]
    if value is None:
        return name
    return f"{name}={value}" if _NUMBER.fullmatch(value) else f'{name}="{value}"'
