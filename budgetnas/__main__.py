"""Run the command line: `python -m budgetnas`."""

import sys

from budgetnas.cli.app import main

sys.exit(main())
