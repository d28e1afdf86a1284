"""A listener that shows nothing and notes what it hears."""

from __future__ import annotations

from dataclasses import dataclass, field

from budgetnas.metrics import Epoch
from budgetnas.training import RuntimeConfig


@dataclass
class Quiet:
    """What every listener of a training has; notes notices and epochs."""

    notices: list[str] = field(default_factory=list, kw_only=True)
    epochs: list[Epoch] = field(default_factory=list, kw_only=True)

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def preparing(self, text: str) -> None:
        pass

    def step(self, epoch: int, done: int, total: int) -> None:
        pass

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def restart(self, runtime: RuntimeConfig, reason: str) -> None:
        pass
