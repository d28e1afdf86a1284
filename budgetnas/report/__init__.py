"""Reports: tables of a study and of replays, and pages of them.

The tables are light to import; `budgetnas.report.page` brings Plotly and Optuna.
"""

from budgetnas.report.replays import ReplayComparison, ReplayResult, comparison
from budgetnas.report.tables import study_tables
from budgetnas.report.values import StudyTables

__all__ = ["ReplayComparison", "ReplayResult", "StudyTables", "comparison", "study_tables"]
