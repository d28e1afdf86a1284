"""Errors in a command line: the argument, its value, the rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import typer

from budgetnas.cli.options import is_from_environment

USAGE_ERROR: Final[type[Exception]] = typer.BadParameter.__bases__[0]
_RULES: Final = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "greater_than_equal": "must be at least {ge:,}",
    "less_than_equal": "must be at most {le:,}",
}


def usage_problem(error: Exception) -> str:
    """Return the message of a `USAGE_ERROR`, without a full stop.

    Typer's own message names the argument, but not its value.
    """
    usage: Any = error
    cause: Any = error.__cause__
    if type(cause).__module__.startswith("pydantic") and usage.param is not None:  # pydantic is slow to import
        problem: Mapping[str, Any] = cause.errors()[0]
        rule = _RULES.get(problem["type"])
        if rule is not None:
            given = problem["input"] if "at " in rule else repr(problem["input"])
            return f"{_argument(usage)} {given}: {rule.format(**problem.get('ctx', {}))}"
    return str(usage.format_message()).rstrip(".")


def _argument(error: Any) -> str:
    """Return the name of the option, argument or environment variable that set the value."""
    if is_from_environment(error.ctx, error.param.name):
        return str(error.param.envvar)
    is_option = error.param.param_type_name == "option"
    return " / ".join(error.param.opts) if is_option else str(error.param.display_name_raw)
