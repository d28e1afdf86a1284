"""The Optuna dashboard on a storage of ours."""

from __future__ import annotations

import signal
import socket

from optuna_dashboard import run_server

from budgetnas.errors import InputError
from budgetnas.search.study import optuna_storage, quiet_optuna
from budgetnas.storage import Records


def serve(records: Records, host: str, port: int) -> None:
    """Serve the dashboard until interrupted.

    Raises:
        InputError: If the address is taken, or not this machine's.
    """
    _require_free(host, port)
    quiet_optuna()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start a program in the background deaf to it
    run_server(optuna_storage(records.engine.url), host=host, port=port)


def _require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                "--port", port, f"cannot listen on {host}:{port} ({error.strerror})", "choose another --port"
            ) from None
