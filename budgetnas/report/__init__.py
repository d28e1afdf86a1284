"""Reports: the tables of a study, HTML pages of studies and replays, and the dashboard.

The tables are quick to import; `budgetnas.report.page` imports Plotly and Optuna.
"""

from budgetnas.report.tables import study_tables
from budgetnas.report.values import StudyTables

__all__ = ["StudyTables", "study_tables"]
