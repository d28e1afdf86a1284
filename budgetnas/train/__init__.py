"""Training: candidates and images to trained networks, without knowing why they are trained."""

from budgetnas.train.engine import Observer, Task, train
from budgetnas.train.setup import Setup, alternatives, choose_setup

__all__ = ["Observer", "Setup", "Task", "alternatives", "choose_setup", "train"]
