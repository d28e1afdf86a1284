"""Training: candidates and images to trained networks, without knowing why they are trained."""

from budgetnas.training.callbacks import Callbacks
from budgetnas.training.engine import NO_CHECKPOINTS, Checkpointer, NoCheckpoints, Task, train
from budgetnas.training.runtime import RuntimeConfig, alternatives, choose_runtime, runtime_to_resume
from budgetnas.training.state import TrainingState

__all__ = [
    "NO_CHECKPOINTS",
    "Callbacks",
    "Checkpointer",
    "NoCheckpoints",
    "RuntimeConfig",
    "Task",
    "TrainingState",
    "alternatives",
    "choose_runtime",
    "runtime_to_resume",
    "train",
]
