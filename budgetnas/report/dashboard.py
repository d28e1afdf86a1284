"""The Optuna dashboard on a storage of ours, with the figures of our reports on each study's page."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import plotly.graph_objects as go
from optuna_dashboard import wsgi
from sqlalchemy.exc import DatabaseError

from budgetnas.errors import InputError
from budgetnas.report.importance import importances
from budgetnas.report.shown import Figure, study_figures
from budgetnas.report.tables import study_tables
from budgetnas.search.study import optuna_storage, quiet_optuna
from budgetnas.storage import Records

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_STUDY_PAGE: Final = re.compile(r"/api/studies/\d+")
_HERE: Final = ("127.0.0.1", "localhost", "::1")
_HEIGHT: Final = 450
"""What the dashboard gives a figure; it cuts off what is beyond."""
_TITLE: Final = 32


def serve(records: Records, host: str, port: int) -> None:
    """Serve the dashboard until interrupted.

    Raises:
        InputError: If the address is taken, or not this machine's.
    """
    quiet_optuna()
    application = with_figures(wsgi(optuna_storage(records.engine.url)), StudyFigures(records))
    if is_this_machine(host):
        application = for_this_machine(application)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start a program in the background deaf to it
    with _server(host, port, application) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def is_this_machine(host: str) -> bool:
    """Return whether only this machine reaches an address to listen on."""
    return host in _HERE


def for_this_machine(application: WSGIApplication) -> WSGIApplication:
    """Return an application that answers only what was asked of this machine by one of its own names.

    A page of somebody else's that a browser shows may let its own name lead to this machine, and so read or delete
    studies; the name it asks by gives it away.
    """

    def checked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        asked = urlsplit(f"//{environ.get('HTTP_HOST', '')}").hostname
        if asked in _HERE:
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"asked by a name that is not this machine's; to be reached by others, start it with --host\n"]

    return checked


class StudyFigures:
    """The figures of studies as the dashboard takes them, drawn again only after something happened.

    Args:
        records: Where the studies are.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._lock = threading.Lock()
        self._drawn: dict[str, tuple[tuple[Any, ...], list[dict[str, str]]]] = {}

    def of(self, study: str) -> list[dict[str, str]]:
        """Return identifier and Plotly's JSON of each figure of `study`; none for a study that is not ours."""
        with self._lock:
            seen = self._records.activity(study)
            drawn = self._drawn.get(study)
            if drawn is None or drawn[0] != seen:
                drawn = self._drawn[study] = (seen, self._draw(study))
            return drawn[1]

    def _draw(self, study: str) -> list[dict[str, str]]:
        if self._records.specification(study) is None:
            return []
        tables = study_tables(self._records, study)
        shown = study_figures(tables, importances(tables.ranking, tables.specification))
        return [{"id": f"budgetnas-{one.key}", "graph_object": _for_dashboard(one).to_json()} for one in shown]


def with_figures(dashboard: WSGIApplication, figures: StudyFigures) -> WSGIApplication:
    """Return the dashboard's application with `figures` added to what it answers about a study.

    They are beside those that somebody saved with `optuna_dashboard.save_plotly_graph_object`.
    """

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET" or not _STUDY_PAGE.fullmatch(environ["PATH_INFO"]):
            return dashboard(environ, start_response)
        return _answer(dashboard, environ, start_response, lambda body: _added(body, figures))

    return application


def _answer(
    dashboard: WSGIApplication,
    environ: WSGIEnvironment,
    start_response: StartResponse,
    change: Callable[[bytes], bytes],
) -> Iterable[bytes]:
    """Pass on the dashboard's answer, its body changed if it is a good one."""
    given: list[Any] = []

    def keep(*head: Any) -> Callable[[bytes], object]:
        given[:] = head
        return lambda _: None

    answer = dashboard(environ, keep)
    try:
        body = b"".join(answer)
    finally:
        getattr(answer, "close", lambda: None)()
    status, headers = given[:2]
    if status.startswith("200"):
        body = change(body)
    headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return [body]


def _added(body: bytes, figures: StudyFigures) -> bytes:
    detail = json.loads(body)
    try:
        detail["plotly_graph_objects"] += figures.of(detail["name"])
    except (InputError, DatabaseError):
        return body  # a storage that is busy for a moment is no reason to show nothing at all
    return json.dumps(detail).encode()


def _for_dashboard(shown: Figure) -> go.Figure:
    """Return a figure with its title inside, on white: the dashboard adds none, and has a dark page, too."""
    figure = go.Figure(shown.figure).update_yaxes(title_font_size=10)
    return figure.update_layout(
        title={"text": f"<b>{shown.title}</b>", "x": 0.02, "font": {"size": 14}},
        margin={"t": _TITLE + (shown.figure.layout.margin.t or 0)},
        legend={"font": {"size": 10}},
        height=_HEIGHT,
        paper_bgcolor="white",
        plot_bgcolor="white",
    )


class _QuietHandler(WSGIRequestHandler):
    """Tells of errors only: the page asks again every few seconds."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Tell nothing."""


def _server(host: str, port: int, application: WSGIApplication) -> WSGIServer:
    class Server(ThreadingMixIn, WSGIServer):
        """A thread for each request: a browser also holds connections open that it asks nothing on."""

        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        return make_server(host, port, application, Server, _QuietHandler)
    except OSError as error:
        raise InputError(
            "--port", port, f"cannot listen on {host}:{port} ({error.strerror})", "choose another --port"
        ) from None
