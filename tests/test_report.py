from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from reporting import (
    INPUTS,
    NASTY,
    STUDY,
    add_run,
    data,
    open_records,
    plausible_curve,
    replay,
    save,
    seeded_study,
    specification,
)

from budgetnas.errors import InputError
from budgetnas.report import comparison, study_tables
from budgetnas.report import figures as draw
from budgetnas.report.page import write_replay_report, write_study_report
from budgetnas.report.replay_figures import replay_curves
from budgetnas.report.replays import report_tables
from budgetnas.seeds import seed_candidate
from budgetnas.storage import Records


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return open_records(tmp_path)


# Figures


def test_curves_show_the_best_ten_and_the_rest_faintly(records: Records) -> None:
    seeded_study(records, runs=20)
    traces = draw.accuracy_curves(study_tables(records, STUDY)).data
    faint = [trace for trace in traces if trace.opacity < 1]
    assert (len(traces), len(faint)) == (2 * 20, 2 * 10)
    assert sum(bool(trace.showlegend) for trace in traces) == 11


def test_overshoot_figure_counts_every_proposal(records: Records) -> None:
    seeded_study(records)
    tables = study_tables(records, STUDY)
    (bars,) = draw.overshoot(tables).data
    assert sum(bars.y) == len(tables.rejections.params)
    assert min(bars.x) > tables.summary.max_params


def test_figures_hold_no_markup_of_users(records: Records) -> None:
    seeded_study(records, label=NASTY)
    tables = study_tables(records, STUDY)
    for figure in (draw.history(tables), draw.accuracy_against_params(tables), draw.accuracy_curves(tables)):
        text = json.dumps(figure.to_dict(), default=str)
        assert "<script" not in text
        assert "&lt;script&gt;" in text


# Pages


def scripts_of_others(html: str) -> list[str]:
    return re.findall(r"<(?:script|img|iframe|link)[^>]+(?:src|href)=\"(?!data:)", html)


def test_page_is_one_file_with_plotly_once(records: Records, tmp_path: Path) -> None:
    seeded_study(records)
    out = write_study_report(records, STUDY, tmp_path / "report.html")
    html = out.read_text(encoding="utf-8")
    assert html.count("plotly.js v") == 1
    assert scripts_of_others(html) == []
    assert '<meta name="viewport"' in html
    assert "Own images" not in html
    assert "94.00" in html
    assert "PED-ANOVA" in html
    assert "Seed trial resnet18 was turned away: 11,173,962 parameters, 6,173,962 over the budget." in html


def test_names_are_escaped_everywhere(records: Records, tmp_path: Path) -> None:
    seeded_study(records, study=NASTY, label=NASTY)
    html = write_study_report(records, NASTY, tmp_path / "report.html").read_text(encoding="utf-8")
    assert NASTY not in html
    assert "&lt;script&gt;alert(1)" in html
    assert html.count("</script>") == 4


def test_report_of_nothing_trained(records: Records, tmp_path: Path) -> None:
    save(records, "empty", specification(data()))
    html = write_study_report(records, "empty", tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Nothing is trained yet" in html
    assert "No proposal was turned away" in html
    assert len(html) < 50_000


def test_report_of_one_run(records: Records, tmp_path: Path) -> None:
    spec = specification(data())
    save(records, STUDY, spec)
    add_run(records, STUDY, seed_candidate("v2-sgd", spec.recipes, INPUTS), 0, plausible_curve(0.9, epochs=1))
    html = write_study_report(records, STUDY, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "n = 1 complete training, one training seed" in html
    assert "they need at least 8 complete runs" in html


def test_writing_is_all_or_nothing(records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded_study(records)
    out = tmp_path / "report.html"
    out.write_text("before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="No space left"):
        write_study_report(records, STUDY, out)
    assert out.read_text() == "before"
    assert not list(tmp_path.glob(".*tmp"))


def test_a_folder_or_a_missing_one_is_refused(records: Records, tmp_path: Path) -> None:
    seeded_study(records)
    with pytest.raises(InputError, match=r"--out.*is a folder"):
        write_study_report(records, STUDY, tmp_path)
    with pytest.raises(InputError, match=r"--out.*cannot be written"):
        write_study_report(records, STUDY, tmp_path / "none" / "report.html")


# Replays


def test_comparison_tells_best_and_last(records: Records) -> None:
    found = comparison(replay(records, "v2-sgd", 60, 0.93))
    assert (found.best_test_epoch, found.last_epoch) == (59, 60)
    assert found.best_test == pytest.approx(93.5)
    assert found.last_test == pytest.approx(93.0)
    assert found.best_test_difference == pytest.approx(93.5 - 94.21)
    assert found.last_test_difference == pytest.approx(93.0 - 94.21)
    assert found.best_train_difference == pytest.approx(95.5 - 99.812)
    assert json.loads(json.dumps(found.to_dict()))["why_not"] == []


def test_comparison_without_printed_figures_or_epochs(records: Records) -> None:
    found = comparison(replay(records, "resnet50", 2, 0.5, ("2 of 40 epochs",)))
    assert (found.printed_test, found.best_test_difference, found.last_test_difference) == (None, None, None)
    nothing = comparison(replay(records, "v2-sgd", 0, 0.5, ("0 of 60 epochs",)))
    assert (nothing.best_test, nothing.last_epoch, nothing.best_test_difference) == (None, None, None)


def test_reports_tables_say_what_was_not_replayed(records: Records) -> None:
    tables = report_tables([replay(records, "v2-sgd", 60, 0.93)])
    assert len(tables) == 7
    rows = {table.title[:7]: [(row.run.name, row.replay is not None) for row in table.rows] for table in tables}
    assert rows["Table 1"] == [(name, False) for name in ("resnet18", "resnet34", "resnet101", "resnet152")]
    assert rows["Table 4"] == [("v2-sgd", True)]
    assert ("v2-sgd", True) in rows["Table 6"]
    assert rows["In no t"] == [("resnet50", False)]


def test_replay_figure_overlays_printed_and_ours(records: Records) -> None:
    names = [trace.name for trace in replay_curves(replay(records, "v2-sgd", 3, 0.6)).data if trace.showlegend]
    assert names == ["test, printed", "test, ours", "train, printed", "train, ours"]
    assert len(replay_curves(replay(records, "resnet50", 3, 0.6)).data) == 4


def test_replay_page_marks_what_cannot_be_compared(records: Records, tmp_path: Path) -> None:
    why = ("2 of 60 epochs", f"data folder-{NASTY}, not CIFAR-10")
    results = [replay(records, "v2-sgd", 60, 0.93), replay(records, "v1-adam", 2, 0.5, why)]
    html = write_replay_report(results, tmp_path / "replay.html").read_text(encoding="utf-8")
    assert NASTY not in html
    assert html.count("NOT COMPARABLE: 2 of 60 epochs") == 3
    assert "not replayed" in html
    assert "the honest one" in html
    assert "7x7" in html
    assert scripts_of_others(html) == []


def test_replay_page_of_nothing(tmp_path: Path) -> None:
    html = write_replay_report([], tmp_path / "replay.html").read_text(encoding="utf-8")
    assert "0 replayed trainings" in html
    assert html.count("not replayed") == 13
