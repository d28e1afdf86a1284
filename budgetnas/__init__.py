"""budgetnas: architecture search for residual networks under a hard parameter budget.

``import budgetnas`` is cheap: each name below is imported when it is first used. docs/python.md documents them, and
``__init__.pyi`` tells type checkers where they are.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

__version__ = "0.1.0"
_MODULES: Final = {
    "search": "api.searches",
    "Architecture": "architecture",
    "Budget": "architecture.budget",
    "BudgetSampler": "samplers.budget_sampler",
    "BudgetnasError": "errors",
    "Counted": "api.networks",
    "ImageArrays": "data.arrays",
    "InputError": "errors",
    "SearchFailedError": "errors",
    "Study": "api.study",
    "Trial": "api.trials",
    "Trials": "api.trials",
    "count": "api.networks",
    "fit": "api.networks",
    "load": "bundle.loading",
    "open_study": "api.searches",
    "replay": "api.replays",
}
"""The module of each public name, in the order of docs/python.md."""
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'budgetnas' has no attribute {name!r}")
    value = getattr(import_module(f"budgetnas.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
