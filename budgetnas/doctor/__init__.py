"""What may keep a search from running here: versions, device, storage, data, space. Looks only, and leaves nothing."""

from budgetnas.doctor.check import Check
from budgetnas.doctor.disks import disk_check
from budgetnas.doctor.examining import examine
from budgetnas.doctor.request import DoctorRequest
from budgetnas.doctor.storage import clock_check, file_system_check, file_system_of

__all__ = [
    "Check",
    "DoctorRequest",
    "clock_check",
    "disk_check",
    "examine",
    "file_system_check",
    "file_system_of",
]
