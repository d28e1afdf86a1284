"""Storage: engines and URLs, our own tables, and the records in them."""

from budgetnas.storage.records import Records
from budgetnas.storage.values import SEARCHED, OverLimit, Rejection, Role, Run, RunKey, State

__all__ = ["SEARCHED", "OverLimit", "Records", "Rejection", "Role", "Run", "RunKey", "State"]
