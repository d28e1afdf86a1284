"""Training: candidates and images to trained networks, without knowing why they are trained."""

from budgetnas.training.callbacks import NO_CHECKPOINTS, Callbacks, Checkpointer
from budgetnas.training.engine import Task, train
from budgetnas.training.runtime import (
    CpuFacts,
    Runtime,
    RuntimeConfig,
    RuntimeRules,
    runtime_rules,
    runtime_to_resume,
)
from budgetnas.training.state import TrainingState

__all__ = [
    "NO_CHECKPOINTS",
    "Callbacks",
    "Checkpointer",
    "CpuFacts",
    "Runtime",
    "RuntimeConfig",
    "RuntimeRules",
    "Task",
    "TrainingState",
    "runtime_rules",
    "runtime_to_resume",
    "train",
]
