"""Searches of the real program under several limits at once."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path

import optuna
import pytest
from optuna_dashboard._note import get_note_from_system_attrs
from small import run, study_file

from budgetnas.architecture import Counts, count
from budgetnas.architecture.budget import Budget
from budgetnas.bundle import contents
from budgetnas.cli import app
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.storage import Records
from budgetnas.storage.opening import open_records_read_only
from budgetnas.storage.urls import parse_storage

BUDGET = Budget(4_000, 180_000, 2_600)
LIMITS = {
    "budget": '"4k"',
    "max_macs": "180e3",
    "max_activations": "2_600",
    "sampler": '"random"',
    "seed": "1",
    "epochs": "1",
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BUDGETNAS_")]:
        monkeypatch.delenv(name)


def every_network() -> list[Counts]:
    """The counts of all networks in the space of the small study."""
    space, digits = (
        SearchSpace(blocks=((1, 2), (1, 1)), widths=(4, 6, 8, 10, 12)),
        InputShape(in_channels=1, size=8, classes=10),
    )
    ranges = space.ranges()
    values = product(*(one.values for one in ranges.values()))
    return [count(space.architecture(dict(zip(ranges, each, strict=True)), digits)) for each in values]


def records_in(folder: Path) -> Iterator[Records]:
    with closing(open_records_read_only(parse_storage(f"sqlite:///{folder / 'budgetnas.db'}"))) as records:
        yield records


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    result = run(folder, "search", study_file(folder, **LIMITS), "--study", "t", "--trials", "8")
    assert result.returncode == 0, result.stderr
    (folder / "out").write_text(result.stdout)
    (folder / "err").write_text(result.stderr)
    return folder


def test_nothing_over_a_limit_is_trained_and_each_limit_rejects_a_proposal(searched: Path) -> None:
    for records in records_in(searched):
        runs, rejections = records.runs(study="t"), records.rejections("t")
        broken = records.over_limits("t", BUDGET)
    assert len(runs) == 8
    assert all(BUDGET.fits(one.architecture) for one in runs)
    assert not any(BUDGET.fits(one.architecture) for one in rejections if not one.duplicate)
    assert any(one.overshoot == 0 for one in rejections), "by another limit than that on parameters"
    assert all(one.proposals > 4 for one in broken), "the four seeds break each of them, and something else does too"


def test_a_search_reports_several_limits(searched: Path) -> None:
    err, out = (searched / "err").read_text(), " ".join((searched / "out").read_text().split())
    networks = every_network()
    share = sum(not BUDGET.excesses(one) for one in networks) / len(networks)
    told = re.search(
        r"budget: at most 4,000 parameters, 180,000 multiply-accumulates, 2,600 activations\nspace: .*; ([\d.]+)% of",
        err,
    )
    assert told is not None
    assert abs(float(told[1]) / 100 - share) < 0.05, "the share is of all limits together"
    assert sum(one.params <= 4_000 for one in networks) / len(networks) > share + 0.09
    seed = (
        "initial trial v1-sgd: rejected, over the budget: 4,902,090 of 4,000 parameters, 4,898,090 too many "
        "(1225.52 x); 15,"
    )
    assert seed in err and seed in out
    counted = r"\((\d+) in parameters, (\d+) in multiply-accumulates, (\d+) in activations\)"
    last = re.findall(r"trained 8/8, rejected (\d+)", err)
    (summary,) = re.findall(rf"(\d+) over the budget {counted} and \d+ duplicates", out)
    assert last[-1] == summary[0]
    assert max(map(int, summary[1:])) <= int(summary[0]) <= sum(map(int, summary[1:]))
    assert re.search(r"fits: [\d,]+ of 4,000 parameters, .* activations, [\d,]+ to spare", out)


def test_a_trial_describes_several_limits(searched: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{searched / 'budgetnas.db'}")
    study = optuna.load_study(study_name="t", storage=storage)
    for trial in study.trials:
        told = trial.user_attrs["budgetnas"]
        most = {"params": 4_000, "macs": 180_000, "activations": 2_600}
        assert trial.constraints == {name: told[name] - limit for name, limit in most.items()}
        assert max(trial.constraints.values()) <= 0
        assert "multiply-accumulates, " in told["verdict"]
    system_attributes = storage.get_study_system_attrs(study._study_id)
    note = get_note_from_system_attrs(system_attributes, study.trials[0]._trial_id)["body"]
    assert re.search(r"\| head \| [\d,]+ \| [\d.]+% \| [\d,]+ \([\d.]+%\) \| 0 \(0.0%\) \|", note)
    storage.remove_session()
    storage.engine.dispose()


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Call the program in this process, which has imported it already."""
    code = app.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_a_study_with_limits_resumes_and_other_limits_are_rejected_by_name(
    searched: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(searched)
    for option, was in (("--max-macs", "180000"), ("--max-activations", "2600")):
        code, _, err = called(capsys, "search", "--study", "t", option, "170k", "--trials", "9")
        assert code == 2
        assert f"{option} was {was}, now 170000" in err
    code, out, err = called(capsys, "search", "--study", "t", "--max-macs", "0.18M", "--trials", "9", "--json")
    assert code == 0, err
    value = json.loads(out)
    assert (value["tallies"]["trained"], value["specification"]["max_activations"]) == (9, 2_600)
    assert called(capsys, "worker", "--study", "t", "--trials", "10")[0] == 0
    assert "4k parameters, 180k multiply-accumulates, 2.6k activations" in called(capsys, "studies")[1]
    (one,) = json.loads(called(capsys, "studies", "--json")[1])
    assert (one["budget"], one["max_macs"], one["max_activations"]) == (4_000, 180_000, 2_600)


def test_other_commands_work_with_limits(
    searched: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(searched)
    for arguments in (
        ("finish", "t", "--finalists", "1", "--final-seeds", "2"),
        ("export", "t"),
        ("compare", "t", "--architectures", "2", "--rates", "1"),
        ("report", "t"),
    ):
        code, out, err = called(capsys, *arguments)
        assert code == 0, err
        if arguments[0] == "export":
            assert "within the budget of 180,000 multiply-accumulates" in out
    told = json.loads((searched / "t-bundle" / contents.CERTIFICATE).read_text())
    assert [one["counted"] for one in told["limits"]] == ["built", "static", "static"]
    for records in records_in(searched):
        assert all(BUDGET.fits(one.architecture) for one in records.runs())


@pytest.mark.slow
def test_limits_from_the_environment_apply_to_every_worker(tmp_path: Path) -> None:
    path = study_file(tmp_path, sampler='"tpe"')
    result = run(tmp_path, "search", path, "--study", "w", "--workers", "2", BUDGETNAS_MAX_MACS="60k")
    assert result.returncode == 0, result.stderr
    for records in records_in(tmp_path):
        runs = records.runs(study="w")
        assert len(runs) == 4
        assert all(one.macs <= 60_000 for one in runs)


def test_a_storage_older_than_the_limits_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables are the same, and a specification of then, which has neither key, keeps its text and its digest."""
    monkeypatch.chdir(tmp_path)
    path = study_file(tmp_path, epochs="1")
    assert called(capsys, "search", path, "--study", "old", "--trials", "1")[0] == 0
    with closing(sqlite3.connect(tmp_path / "budgetnas.db")) as connection:
        ((text, digest),) = connection.execute("SELECT specification, digest FROM specifications").fetchall()
        columns = [row[1] for row in connection.execute("PRAGMA table_info(rejections)")]
        assert connection.execute("SELECT version FROM budgetnas_schema").fetchall() == [(4,)]
    assert not {"max_macs", "max_activations"} & json.loads(text).keys()
    assert columns == ["id", "study", "trial", "origin", "duplicate", "architecture", "max_params", "overshoot", "at"]
    code, _, err = called(capsys, "search", path, "--study", "old", "--max-macs", "60k")
    assert (code, "--max-macs was none, now 60000" in err) == (2, True)
    code, out, err = called(capsys, "search", "--study", "old", "--trials", "2", "--json")
    assert code == 0, err
    value = json.loads(out)
    assert value["tallies"]["trained"] == 2
    assert "max_macs" not in value["specification"]
    assert re.search(r"trained 2/2, rejected \d+", err)
    with closing(sqlite3.connect(tmp_path / "budgetnas.db")) as connection:
        assert connection.execute("SELECT specification, digest FROM specifications").fetchall() == [(text, digest)]
