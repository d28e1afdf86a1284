"""What a search as a whole tells whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from budgetnas.data import Data
from budgetnas.search.listener import SearchListener
from budgetnas.search.plan import Plan
from budgetnas.search.study import OpenStudy
from budgetnas.training import RuntimeConfig


class SearchView(SearchListener):
    """Whoever shows a whole search."""

    def planned(self, opened: OpenStudy, plan: Plan, data: Data) -> None:
        """Hear what is about to run."""

    def preparing(self, text: str) -> None:
        """Hear what takes a moment."""

    def at_work(self, epochs: Mapping[int, int]) -> None:
        """Hear which trials several workers train, and how many epochs of each are done."""


class Notices(SearchView):
    """Passes on notices alone: whoever started this worker sees everything else in the storage.

    Args:
        tell: Is handed each notice.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def on_message(self, text: str) -> None:
        """Pass it on."""
        self._tell(text)

    def on_restart(self, runtime: RuntimeConfig, reason: str) -> None:
        """Pass on why a training begins again."""
        self._tell(f"a training begins again: {reason}")
