"""Reports: tables of a study, pages of it and of replays, and the dashboard.

The tables are light to import; `budgetnas.report.page` brings Plotly and Optuna.
"""

from budgetnas.report.tables import study_tables
from budgetnas.report.values import StudyTables

__all__ = ["StudyTables", "study_tables"]
