"""Training: candidates and images to trained networks, without knowing why they are trained."""

from budgetnas.training.engine import NOTHING_KEPT, Keeper, NothingKept, Observer, Task, train
from budgetnas.training.setup import Setup, alternatives, choose_setup, setup_to_go_on
from budgetnas.training.state import TrainingState

__all__ = [
    "NOTHING_KEPT",
    "Keeper",
    "NothingKept",
    "Observer",
    "Setup",
    "Task",
    "TrainingState",
    "alternatives",
    "choose_setup",
    "setup_to_go_on",
    "train",
]
