"""``budgetnas dashboard``: Optuna's dashboard for a storage."""

from __future__ import annotations

from typing import Annotated

import typer

from budgetnas.api.progress.terminal import stderr
from budgetnas.cli.options import StorageOption, option
from budgetnas.errors import EXIT_INTERRUPTED, InputError


def dashboard_command(
    port: Annotated[int, option("Port to listen on.")] = 8080,
    host: Annotated[str, option("Address to listen on; there is no password.")] = "127.0.0.1",
    storage: StorageOption = None,
) -> None:
    """Start the Optuna dashboard for a storage; by default only this machine can open it.

    Example: budgetnas dashboard --port 8080
    """
    from budgetnas.report.dashboard import is_this_machine, serve
    from budgetnas.storage.opening import open_records
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage

    if not 1 <= port <= 65_535:
        raise InputError("--port", port, "must be from 1 to 65,535")
    records = open_records(parse_storage(storage or DEFAULT_STORAGE), must_exist=True)
    if not is_this_machine(host):
        stderr().print(f"note: other machines may reach {host}, and the dashboard has no password")
    stderr().print(f"dashboard: http://{host}:{port}/ (stop with Ctrl-C)")
    serve(records, host, port)
    raise typer.Exit(EXIT_INTERRUPTED)  # only Ctrl-C stops the server
