from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go
import pytest
from optuna_dashboard import save_plotly_graph_object
from playwright.sync_api import expect, sync_playwright
from small import run, start, study_file

from budgetnas.report import study_tables
from budgetnas.report.figures import study_figures
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage

CHROMIUM = os.environ.get("BUDGETNAS_CHROMIUM") or shutil.which("chromium")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[str]:
    assert run(tmp_path, "search", study_file(tmp_path, trials="2"), "--study", "t").returncode == 0
    port = free_port()
    process = start(tmp_path, "dashboard", "--port", str(port))
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        try:
            urllib.request.urlopen(f"{address}/api/studies", timeout=5).close()
            break
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.3)
    yield address
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130


def number_of(address: str, name: str) -> int:
    studies = fetched(f"{address}/api/studies")["study_summaries"]
    return next(int(study["study_id"]) for study in studies if study["study_name"] == name)


def detail_of(address: str, name: str) -> dict[str, Any]:
    return fetched(f"{address}/api/studies/{number_of(address, name)}?after=0")


def sent(address: str, method: str, body: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), headers, method=method)
    urllib.request.urlopen(request, timeout=30).close()


def drawn(detail: dict[str, Any]) -> dict[str, Any]:
    return {item["id"]: json.loads(item["graph_object"]) for item in detail["plotly_graph_objects"]}


def fetched(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(address, timeout=20) as answer:
        value: dict[str, Any] = json.load(answer)
        return value


def test_the_dashboard_shows_each_trial_with_architecture_counts_verdict_and_note(dashboard: str) -> None:
    (study,) = fetched(f"{dashboard}/api/studies")["study_summaries"]
    assert study["study_name"] == "t"
    detail = fetched(f"{dashboard}/api/studies/{study['study_id']}?after=0")
    assert {"key": "params", "sortable": True} in detail["union_user_attrs"]
    assert {"key": "state", "value": "done"} in detail["user_attrs"]
    trials = detail["trials"]
    assert len(trials) == 2
    for trial in trials:
        attributes = {item["key"]: item["value"] for item in trial["user_attrs"]}
        for name in ("architecture", "recipe", "params", "macs", "activations", "verdict"):
            assert f'"{name}": ' in attributes["budgetnas"]
        assert f'"params": {attributes["params"]},' in attributes["budgetnas"]
        assert "| stage 1 |" in trial["note"]["body"]


def test_a_studys_page_has_the_reports_figures_and_they_follow_the_search(dashboard: str, tmp_path: Path) -> None:
    before = drawn(detail_of(dashboard, "t"))
    records = open_records(parse_storage(f"sqlite:///{tmp_path / 'budgetnas.db'}"), must_exist=True)
    try:
        tables = study_tables(records, "t")
    finally:
        records.close()
    shown = study_figures(tables)
    assert list(before) == [f"budgetnas-{item.key}" for item in shown]
    points = {row["name"]: row for row in before["budgetnas-history"]["data"]}
    assert len(points["searched"]["x"]) == len(tables.ranking) == 2
    assert before["budgetnas-history"]["layout"]["title"]["text"] == "<b>The search in order of time</b>"
    assert run(tmp_path, "search", "--study", "t", "--trials", "3").returncode == 0
    after = drawn(detail_of(dashboard, "t"))
    assert len({row["name"]: row for row in after["budgetnas-history"]["data"]}["searched"]["x"]) == 3


def test_a_foreign_study_keeps_its_figures_and_gets_none(dashboard: str, tmp_path: Path) -> None:
    study = optuna.create_study(study_name="theirs", storage=f"sqlite:///{tmp_path / 'budgetnas.db'}")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    save_plotly_graph_object(study, go.Figure().add_scatter(x=[1], y=[2]), graph_object_id="own")
    assert list(drawn(detail_of(dashboard, "theirs"))) == ["own"]
    assert "budgetnas-history" in drawn(detail_of(dashboard, "t"))
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetched(f"{dashboard}/api/studies/999?after=0")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/api/studies/{study}", {}),
        ("POST", "/api/studies/{study}/rename", {"study_name": "other"}),
        ("POST", "/api/studies", {"study_name": "other", "directions": ["maximize"]}),
        ("POST", "/api/trials/1/tell", {"state": "Fail"}),
    ],
)
def test_studies_and_trials_cannot_be_changed_from_the_dashboard(
    dashboard: str, tmp_path: Path, method: str, path: str, body: dict[str, Any]
) -> None:
    before = fetched(f"{dashboard}/api/studies")["study_summaries"]
    with pytest.raises(urllib.error.HTTPError) as caught:
        sent(dashboard + path.format(study=number_of(dashboard, "t")), method, body)
    assert caught.value.code == 403
    assert "changes notes only" in json.loads(caught.value.read())["reason"]
    assert fetched(f"{dashboard}/api/studies")["study_summaries"] == before
    assert run(tmp_path, "show", "t").returncode == 0


def test_notes_can_be_written_in_the_dashboard(dashboard: str) -> None:
    address = f"{dashboard}/api/studies/{number_of(dashboard, 't')}"
    sent(f"{address}/note", "PUT", {"body": "the first", "version": 1})
    assert detail_of(dashboard, "t")["note"]["body"] == "the first"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs the chromium package of the system")
def test_the_browser_draws_them_without_errors(dashboard: str) -> None:
    expected = len(drawn(detail_of(dashboard, "t")))
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(
            f"{dashboard}/dashboard/studies/{number_of(dashboard, 't')}", wait_until="domcontentloaded", timeout=120_000
        )
        figures = page.locator("[id^='user-defined-plot:budgetnas-'] svg.main-svg:first-child")
        expect(figures).to_have_count(expected, timeout=30_000)
        browser.close()
    assert complaints == []


def test_an_idle_connection_blocks_no_request(dashboard: str) -> None:
    port = int(dashboard.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.send(b"GET /api")
        assert fetched(f"{dashboard}/api/studies")["study_summaries"]


def test_a_port_in_use_is_an_error(tmp_path: Path) -> None:
    assert run(tmp_path, "search", study_file(tmp_path, trials="1")).returncode == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run(tmp_path, "dashboard", "--port", str(taken.getsockname()[1]))
    assert result.returncode == 2
    assert "choose another --port" in result.stderr
