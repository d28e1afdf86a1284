"""Networks as people write them: lists of whole numbers, one for each stage."""

from __future__ import annotations

from typing import Any

from budgetnas.architecture.model import Architecture, default_strides
from budgetnas.errors import InputError


def parse_architecture(
    blocks: str | None, widths: str | None, strides: str | None = None, **fields: Any
) -> Architecture:
    """Return the network that the lists describe.

    Args:
        blocks: Blocks of each stage, e.g. ``2,2,2,2``.
        widths: Their widths.
        strides: Their strides; by default 1, then 2.
        fields: The other fields of `Architecture`.

    Raises:
        InputError: If blocks or widths are missing, a list is no list of whole numbers, or a rule is broken.
    """
    stages = _numbers("--blocks", blocks)
    return Architecture(
        stages,
        _numbers("--widths", widths),
        default_strides(len(stages)) if strides is None else _numbers("--strides", strides),
        **fields,
    )


def _numbers(argument: str, text: str | None) -> tuple[int, ...]:
    if text is None:
        raise InputError(argument, None, "is missing: --blocks and --widths go together", "write e.g. 2,2,2,2")
    try:
        return tuple(int(one) for one in text.split(","))
    except ValueError:
        raise InputError(argument, text, "must be whole numbers separated by commas", "write e.g. 2,2,2,2") from None
