"""What may keep a search from running here: versions, device, storage, data, space. Looks only, and leaves nothing."""

from budgetnas.cli.checks.check import Check
from budgetnas.cli.checks.disks import disk_check
from budgetnas.cli.checks.examining import examine
from budgetnas.cli.checks.request import DoctorRequest
from budgetnas.cli.checks.storage import clock_check, file_system_check, file_system_of

__all__ = [
    "Check",
    "DoctorRequest",
    "clock_check",
    "disk_check",
    "examine",
    "file_system_check",
    "file_system_of",
]
