"""The reference in docs/python.md, from the docstrings. Run this file to write it anew."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import budgetnas

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"
BEGIN, END = "<!-- from the docstrings: python tests/reference.py -->\n", "<!-- end -->\n"
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises):$", re.MULTILINE)


def documented() -> dict[str, Any]:
    """Every public function and class by its name."""
    values = {name: getattr(budgetnas, name) for name in budgetnas.__all__ if name != "__version__"}
    return values | {"search": importlib.import_module("budgetnas.api.searches").search}


def reference() -> str:
    """The reference as Markdown."""
    parts = []
    for name, value in documented().items():
        kept = _class(name, value) if inspect.isclass(value) else _function(f"budgetnas.{name}", value, level=3)
        parts.append("\n".join(kept))
    return "\n".join(parts)


def sections(value: object) -> dict[str, str]:
    """The parts of a docstring: its text under the empty name, then its sections."""
    first, *rest = _SECTION.split(inspect.getdoc(value) or "")
    return {"": first.strip()} | {
        name: inspect.cleandoc(text) for name, text in zip(rest[::2], rest[1::2], strict=True)
    }


def entries(section: str) -> Iterator[tuple[str, str]]:
    """The names of a section with their descriptions."""
    for item in re.split(r"\n(?=\S)", section):
        name, colon, text = item.partition(":")
        if colon:
            yield name.strip(), " ".join(text.split())


def _table(head: str, rows: list[tuple[str, ...]]) -> Iterator[str]:
    if rows:
        yield from (f"| {head} |", f"|{'---|' * (head.count('|') + 1)}")
        yield from (f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows)
        yield ""


def _cell(text: str) -> str:
    return re.sub(r"``(.+?)``", r"`\1`", text).replace("|", "\\|")


def _function(name: str, function: Callable[..., Any], level: int) -> Iterator[str]:
    parts = sections(function)
    yield from (f"{'#' * level} `{name}`", "", _cell(parts[""]), "")
    parameters = inspect.signature(function).parameters
    rows: list[tuple[str, ...]] = []
    for argument, meaning in entries(parts.get("Args", "")):
        default = parameters[argument].default
        shown = "" if default in (inspect.Parameter.empty, None) else f"`{default!r}`"
        rows.append((f"`{argument}`", shown, meaning))
    yield from _table("argument | default | meaning", rows)
    if "Returns" in parts:
        yield from (f"Returns: {_cell(' '.join(parts['Returns'].split()))}", "")
    errors = [(f"`{error}`", text) for error, text in entries(parts.get("Raises", ""))]
    yield from _table("raises | when", errors)


def _class(name: str, value: type) -> Iterator[str]:
    parts = sections(value)
    yield from (f"### `budgetnas.{name}`", "", _cell(parts[""].partition("\n\n")[0]), "")
    rows = [(f"`{attribute}`", meaning) for attribute, meaning in entries(parts.get("Attributes", ""))]
    members = {key: member for key, member in vars(value).items() if not key.startswith("_")}
    rows += [(f"`{key}`", sections(member)[""]) for key, member in members.items() if isinstance(member, property)]
    yield from _table("attribute | meaning", rows)
    for key, member in members.items():
        if inspect.isfunction(member):
            yield from _function(f"{name}.{key}", member, level=4)


if __name__ == "__main__":
    before, after = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{reference()}{END}{after.partition(END)[2]}", encoding="utf-8")
