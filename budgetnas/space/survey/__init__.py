"""Looking at a space before anything is trained: how much of it fits, and what wastes proposals."""

from budgetnas.space.survey.look import InitialTrial, Survey, survey
from budgetnas.space.survey.suggestion import Suggestion
from budgetnas.space.survey.tally import Found, Share, Tally, ValueShare

__all__ = ["Found", "InitialTrial", "Share", "Suggestion", "Survey", "Tally", "ValueShare", "survey"]
