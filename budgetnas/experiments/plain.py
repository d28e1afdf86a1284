"""Frozen values as plain JSON types."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from pydantic import BaseModel

from budgetnas.architecture import Architecture


def to_plain(value: Any) -> Any:
    """Return `value` as plain JSON types; NaN and infinities, which JSON lacks, become None.

    A dataclass with a method ``to_dict`` is converted by it; otherwise fields with ``metadata={"plain": False}`` are
    left out.
    """
    if isinstance(value, Architecture):
        return value.to_dict() | {"description": value.describe()}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return value.to_dict() if hasattr(value, "to_dict") else plain_fields(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain_fields(value: Any, *names: str) -> dict[str, Any]:
    """Return the attributes `names` of a dataclass as plain JSON types; without names, all of its fields."""
    names = names or tuple(field.name for field in fields(value) if field.metadata.get("plain", True))
    return {name: to_plain(getattr(value, name)) for name in names}
