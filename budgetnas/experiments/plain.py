"""Frozen values as plain JSON types."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from pydantic import BaseModel

from budgetnas.architecture import Architecture
from budgetnas.architecture.budget import Excess


def to_plain(value: Any) -> Any:
    """Return `value` as plain JSON types; a number that JSON cannot hold (NaN, infinity) as None.

    A dataclass field with ``metadata={"plain": False}`` is left out.
    """
    if isinstance(value, Excess):
        return value.to_dict()
    if isinstance(value, Architecture):
        return value.to_dict() | {"description": value.describe()}
    if is_dataclass(value):
        shown = [field.name for field in fields(value) if field.metadata.get("plain", True)]
        return {name: to_plain(getattr(value, name)) for name in shown}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): to_plain(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
