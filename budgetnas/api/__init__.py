"""The functions of ``import budgetnas``; the command line calls the same code below them."""

import os

# Before PyTorch is imported: idle threads sleep. If they spin, two searches on two cores take seven times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
