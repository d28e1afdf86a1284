"""Who may open the dashboard, and what it sends."""

from __future__ import annotations

import json
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from reporting import seeded_study
from secrets_and_names import NASTY, in_files, in_user_part, shown
from small import STUDY, run, start, study_file

from budgetnas.cli.app import main
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage


@pytest.fixture
def studied(tmp_path: Path) -> Path:
    """A folder with a storage that has a study."""
    records = open_records(parse_storage(str(tmp_path / "budgetnas.db")))
    seeded_study(records)
    records.close()
    return tmp_path


@contextmanager
def dashboard(folder: Path, *arguments: str) -> Iterator[tuple[int, list[str], list[str]]]:
    """The real dashboard: its port, the addresses it listens on, and its output."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process, output = start(folder, "dashboard", "--port", str(port), *arguments), []
    listening: list[str] = []
    deadline = time.monotonic() + 60
    while not listening and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        found = psutil.Process(process.pid).net_connections()
        listening = [connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN]
        time.sleep(0.2)
    try:
        yield port, listening, output
    finally:
        process.send_signal(signal.SIGINT)
        try:
            output += process.communicate(timeout=30)
        finally:
            process.kill()


def asked(port: int, host: str, path: str = "/api/studies") -> tuple[int, str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_the_dashboard_listens_and_answers_here_only(studied: Path) -> None:
    with dashboard(studied) as (port, listening, output):
        assert listening == ["127.0.0.1"]
        for name in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST", f"[::1]:{port}"):
            assert asked(port, name)[0] == 200, name
        for name in (f"evil.example:{port}", "127.0.0.1.evil.example", "", "localhost@evil.example"):
            code, _, body = asked(port, name)
            assert (code, "--host" in body) == (403, True), name
    assert "no password" not in output[1]


def test_an_address_of_another_machine_is_refused(
    studied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(studied)
    assert main(["dashboard", "--host", "203.0.113.1"]) == 2
    assert "--host '203.0.113.1': cannot listen on 203.0.113.1:8080" in capsys.readouterr().err


def test_a_dashboard_for_others_warns(studied: Path) -> None:
    with dashboard(studied, "--host", "0.0.0.0") as (port, listening, output):
        assert listening == ["0.0.0.0"]
        assert asked(port, f"my-server.example:{port}")[0] == 200
    assert "other machines may reach 0.0.0.0, and the dashboard has no password" in output[1]


@pytest.mark.slow
def test_the_dashboard_shows_no_password_and_sends_names_as_json(postgres_database: str, tmp_path: Path) -> None:
    records = open_records(parse_storage(postgres_database))
    records.close()
    url = in_user_part(postgres_database)
    named = (study_file(tmp_path, STUDY, trials="1"), "--study", NASTY, "--storage", url)
    assert run(tmp_path, "search", *named).returncode == 0
    with dashboard(tmp_path, "--storage", url) as (port, _, output):
        code, kind, body = asked(port, "localhost")
        assert (code, kind.partition(";")[0]) == (200, "application/json")
        (study,) = json.loads(body)["study_summaries"]
        assert study["study_name"] == NASTY
        code, kind, detail = asked(port, "localhost", f"/api/studies/{study['study_id']}?after=0")
        assert (code, kind.partition(";")[0]) == (200, "application/json")
        assert "budgetnas-history" in detail
        assert "<script" not in json.dumps(json.loads(detail)["plotly_graph_objects"])
        shown(body, detail)
    shown(*output)
    in_files(tmp_path)
