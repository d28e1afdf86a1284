"""budgetnas: architecture search for residual networks under a hard parameter budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from budgetnas.bundle.loading import Bundle

__version__ = "0.1.0"


def load(path: str | os.PathLike[str]) -> Bundle:
    """Return the network and the preprocessing of a bundle: ``network, preprocess = budgetnas.load("DIR")``.

    Args:
        path: The folder that ``budgetnas export`` wrote.

    Raises:
        budgetnas.errors.InputError: If it is no bundle, or a file of it is missing or damaged; it says which.
    """
    from budgetnas.bundle.loading import load as read  # brings torch, which importing budgetnas does not

    return read(path)
