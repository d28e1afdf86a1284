"""A survey of a search space before training: how much of it fits, and which ranges waste proposals."""

from budgetnas.space.survey.overview import InitialNetwork, Survey, survey
from budgetnas.space.survey.suggestion import Suggestion
from budgetnas.space.survey.tally import End, Share, Tally, ValueShare

__all__ = ["End", "InitialNetwork", "Share", "Suggestion", "Survey", "Tally", "ValueShare", "survey"]
