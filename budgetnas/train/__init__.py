"""Training: candidates and images to trained networks, without knowing why they are trained."""

from budgetnas.train.engine import Keeper, NothingKept, Observer, Task, train
from budgetnas.train.setup import Setup, alternatives, choose_setup, setup_to_go_on

__all__ = [
    "Keeper",
    "NothingKept",
    "Observer",
    "Setup",
    "Task",
    "alternatives",
    "choose_setup",
    "setup_to_go_on",
    "train",
]
