"""Callbacks that print nothing and keep what they were called with."""

from __future__ import annotations

from dataclasses import dataclass, field

from budgetnas.metrics import Epoch
from budgetnas.searching.callbacks import SearchCallbacks


@dataclass
class Quiet(SearchCallbacks):
    """Callbacks of any view; keeps messages and epochs."""

    notices: list[str] = field(default_factory=list, kw_only=True)
    epochs: list[Epoch] = field(default_factory=list, kw_only=True)

    def on_message(self, text: str) -> None:
        self.notices.append(text)

    def on_epoch_end(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
