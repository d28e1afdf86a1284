"""The Optuna dashboard with the figures of our reports on each study's page."""

from __future__ import annotations

import errno
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
from budgetnas.report.figures import study_figures
from budgetnas.report.figures.figure import Figure
from budgetnas.report.standing import standing_of
from budgetnas.report.tables import study_tables
from budgetnas.searching.study import optuna_storage, quiet_optuna
from budgetnas.storage import Records

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_STUDY_PAGE: Final = re.compile(r"/api/studies/\d+")
_NOTE: Final = re.compile(r"/api/studies/\d+(/\d+)?/note")
_HERE: Final = ("127.0.0.1", "localhost", "::1")
_HEIGHT: Final = 450
"""The dashboard's height of a figure; it cuts off the rest."""
_TITLE: Final = 32


def serve(records: Records, host: str, port: int) -> None:
    """Serve the dashboard until interrupted.

    Raises:
        InputError: If the address is in use, or not this machine's.
    """
    quiet_optuna()
    dashboard = changing_only_notes(wsgi(optuna_storage(records.engine.url)))
    application = with_figures(dashboard, StudyFigures(records))
    if is_this_machine(host):
        application = for_this_machine(application)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background programs with SIGINT ignored
    with _server(host, port, application) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def is_this_machine(host: str) -> bool:
    """Return whether an address to listen on is reachable from this machine only."""
    return host in _HERE


def for_this_machine(application: WSGIApplication) -> WSGIApplication:
    """Return an application that rejects requests whose Host header does not name this machine.

    This stops DNS rebinding: a foreign web page whose name resolves to this machine could read or delete studies.
    """

    def checked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        asked = urlsplit(f"//{environ.get('HTTP_HOST', '')}").hostname
        if asked in _HERE:
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"the Host header does not name this machine; to allow other machines, start with --host\n"]

    return checked


def changing_only_notes(application: WSGIApplication) -> WSGIApplication:
    """Return an application that rejects all changes except to notes.

    The dashboard can delete and rename studies, and end trials. It knows only Optuna's tables, not our records.
    """

    def checked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD") or _NOTE.fullmatch(environ["PATH_INFO"]):
            return application(environ, start_response)
        reason = "this dashboard changes notes only, because budgetnas has records of its own for every study"
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [json.dumps({"reason": reason}).encode()]

    return checked


class StudyFigures:
    """The figures of studies in the dashboard's format, cached until the study changes."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._lock = threading.Lock()
        self._drawn: dict[str, tuple[tuple[Any, ...], list[dict[str, str]]]] = {}

    def of(self, study: str) -> list[dict[str, str]]:
        """Return identifier and Plotly's JSON of each figure of `study`; empty for a study that is not ours."""
        with self._lock:
            seen = self._records.activity(study)
            drawn = self._drawn.get(study)
            if drawn is None or drawn[0] != seen:
                drawn = self._drawn[study] = (seen, self._draw(study))
            return drawn[1]

    def state(self, study: str) -> str:
        """Return where `study` stands, in a few words."""
        return standing_of(self._records, study).describe()

    def _draw(self, study: str) -> list[dict[str, str]]:
        if self._records.specification(study) is None:
            return []
        shown = study_figures(study_tables(self._records, study))
        return [{"id": f"budgetnas-{figure.key}", "graph_object": _for_dashboard(figure).to_json()} for figure in shown]


def with_figures(dashboard: WSGIApplication, figures: StudyFigures) -> WSGIApplication:
    """Return the dashboard's application with `figures`, and where the study stands, added to its response about it.

    Figures saved with `optuna_dashboard.save_plotly_graph_object` are kept.
    """

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET" or not _STUDY_PAGE.fullmatch(environ["PATH_INFO"]):
            return dashboard(environ, start_response)
        return _answer(dashboard, environ, start_response, figures)

    return application


def _answer(
    dashboard: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse, figures: StudyFigures
) -> Iterable[bytes]:
    """Return the dashboard's response; add the figures to its body if the status is 200."""
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
        body = _added(body, figures)
    headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return [body]


def _added(body: bytes, figures: StudyFigures) -> bytes:
    detail = json.loads(body)
    try:
        shown = figures.of(detail["name"])
        if shown:  # a study of ours
            detail["user_attrs"] = [*detail["user_attrs"], {"key": "state", "value": figures.state(detail["name"])}]
        detail["plotly_graph_objects"] += shown
    except (InputError, DatabaseError):
        return body  # the storage is busy for a moment: show the page without our figures
    return json.dumps(detail).encode()


def _for_dashboard(shown: Figure) -> go.Figure:
    """Return a figure with its title inside and a white background: the dashboard adds neither."""
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
    """Logs errors only: the page sends requests every few seconds."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing."""


def _server(host: str, port: int, application: WSGIApplication) -> WSGIServer:
    class Server(ThreadingMixIn, WSGIServer):
        """A thread for each request: browsers also keep idle connections open."""

        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        return make_server(host, port, application, Server, _QuietHandler)
    except OSError as error:
        rule = f"cannot listen on {host}:{port} ({error.strerror})"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise InputError("--port", port, rule, "choose another --port") from None
        raise InputError("--host", host, rule, "name an address of this machine, e.g. 127.0.0.1") from None
