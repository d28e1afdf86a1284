"""Training: candidates and images to trained networks, without knowing why they are trained."""

from budgetnas.train.engine import Observer, Task, train
from budgetnas.train.setup import Setup, choose_setup

__all__ = ["Observer", "Setup", "Task", "choose_setup", "train"]
