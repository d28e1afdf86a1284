"""The search: a study, its sampler, its trials and its loop.

Calling the package calls `budgetnas.api.searches.search`, as ``budgetnas.search(budget=5e6)``.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """This package, callable: importing a package sets its name in the parent, where it would hide a function."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call `budgetnas.api.searches.search`."""
        return _function()(*arguments, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_function())


def _function() -> Any:
    return import_module("budgetnas.api.searches").search  # when it is called: it brings torch and Optuna


sys.modules[__name__].__class__ = _Callable
