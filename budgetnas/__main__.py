"""Run the command line: `python -m budgetnas`."""

from budgetnas.cli.app import main

main()
