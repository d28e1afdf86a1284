from __future__ import annotations

import json
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import run, start, study_file


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


def fetched(address: str) -> dict[str, object]:
    with urllib.request.urlopen(address, timeout=20) as answer:
        value: dict[str, object] = json.load(answer)
        return value


def test_the_dashboard_shows_each_trial_with_architecture_counts_verdict_and_note(dashboard: str) -> None:
    (study,) = fetched(f"{dashboard}/api/studies")["study_summaries"]  # type: ignore[misc, attr-defined]
    assert study["study_name"] == "t"
    detail = fetched(f"{dashboard}/api/studies/{study['study_id']}?after=0")
    assert {"key": "params", "sortable": True} in detail["union_user_attrs"]  # type: ignore[operator]
    trials = detail["trials"]
    assert len(trials) == 2  # type: ignore[arg-type]
    for trial in trials:  # type: ignore[attr-defined]
        attributes = {one["key"]: one["value"] for one in trial["user_attrs"]}
        for name in ("architecture", "recipe", "params", "macs", "activations", "verdict"):
            assert f'"{name}": ' in attributes["budgetnas"]
        assert f'"params": {attributes["params"]},' in attributes["budgetnas"]
        assert "| stage 1 |" in trial["note"]["body"]


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    assert run(tmp_path, "search", study_file(tmp_path, trials="1")).returncode == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run(tmp_path, "dashboard", "--port", str(taken.getsockname()[1]))
    assert result.returncode == 2
    assert "choose another --port" in result.stderr
