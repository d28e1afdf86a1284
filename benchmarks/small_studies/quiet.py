"""A view of a search and its final that prints nothing."""

from __future__ import annotations

from budgetnas.experiments.final import FinalCallbacks
from budgetnas.searching.callbacks import SearchCallbacks


class Quiet(SearchCallbacks, FinalCallbacks):
    """Prints nothing."""
