from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reporting import (
    INPUTS,
    NASTY,
    STUDY,
    add_pruned,
    add_run,
    data,
    open_records,
    plausible_curve,
    replay,
    save,
    seeded_study,
    specification,
    with_final,
)

from benchmarks.tasks import strong_recipe
from budgetnas.architecture import named
from budgetnas.errors import BudgetnasError, InputError
from budgetnas.experiments.replay_results import report_tables
from budgetnas.metrics import Int8Reading, mean_interval
from budgetnas.report import study_tables
from budgetnas.report.figures.curves import accuracy_curves, loss_curves
from budgetnas.report.figures.excess import excess
from budgetnas.report.figures.figure import Table
from budgetnas.report.figures.finalists import finalists
from budgetnas.report.figures.finalists import test_accuracies as draw_tests
from budgetnas.report.figures.history import history
from budgetnas.report.figures.importance import importance_bars, importances
from budgetnas.report.figures.params import accuracy_against_params
from budgetnas.report.figures.replay import replay_curves
from budgetnas.report.figures.winner import winner as winner_figure
from budgetnas.report.page import study_page, write_replay_report, write_study_report
from budgetnas.report.tables import parts_of
from budgetnas.space.initial_trials import initial_candidate
from budgetnas.storage import Records


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return open_records(tmp_path)


# Figures


def test_curves_show_the_best_ten_and_the_rest_faintly(records: Records) -> None:
    seeded_study(records, runs=20)
    traces = accuracy_curves(study_tables(records, STUDY)).figure.data
    faint = [trace for trace in traces if trace.opacity < 1]
    assert (len(traces), len(faint)) == (2 * 20, 2 * 10)
    assert sum(bool(trace.showlegend) for trace in traces) == 11


def test_excess_figure_counts_every_proposal(records: Records) -> None:
    seeded_study(records)
    tables = study_tables(records, STUDY)
    (bars,) = excess(tables).figure.data
    assert sum(bars.y) == len(tables.rejections.params)
    assert min(bars.x) > tables.summary.max_params


def test_figures_escape_markup_in_names(records: Records) -> None:
    seeded_study(records, label=NASTY)
    tables = study_tables(records, STUDY)
    for drawn in (history(tables), accuracy_against_params(tables), accuracy_curves(tables)):
        text = json.dumps(drawn.figure.to_dict(), default=str)
        assert "<script" not in text
        assert "&lt;script&gt;" in text


def test_history_distinguishes_pruned_runs(records: Records) -> None:
    spec = seeded_study(records)
    add_pruned(records, spec)
    tables = study_tables(records, STUDY)
    drawn = history(tables)
    figure, rows = drawn.figure, dicts(drawn.data)
    shown = {trace.name: list(zip(trace.x, trace.y, strict=True)) for trace in figure.data}
    pruned = [(row["order"], row["validation_accuracy_percent"]) for row in rows if row["state"] == "pruned"]
    assert shown["pruned, at its last epoch"] == pruned
    assert len(pruned) == 3
    complete = [(row["order"], row["validation_accuracy_percent"]) for row in rows if row["state"] == "complete"]
    assert sorted((*shown["searched"], *shown["initial trial"])) == complete
    assert [row["best_so_far_percent"] for row in rows if row["state"] == "complete"] == list(figure.data[1].y)


def test_params_figure_equals_its_table_without_pruned_runs(records: Records) -> None:
    spec = seeded_study(records)
    add_pruned(records, spec)
    tables = study_tables(records, STUDY)
    drawn = accuracy_against_params(tables)
    rows = dicts(drawn.data)
    front, searched, seeds = drawn.figure.data
    points = [(row["params"], row["validation_accuracy_percent"]) for row in rows]
    assert sorted(points) == sorted([*zip(searched.x, searched.y, strict=True), *zip(seeds.x, seeds.y, strict=True)])
    assert {row["params"] for row in rows if row["pareto_front"]} == set(front.x)


def test_curves_equal_their_tables(records: Records) -> None:
    spec = seeded_study(records)
    add_pruned(records, spec)
    tables = study_tables(records, STUDY)
    for curves, name in ((accuracy_curves(tables), "accuracy_percent"), (loss_curves(tables), "loss_nats")):
        figure, rows = curves.figure, dicts(curves.data)
        for axis, split in (("y", "validation"), ("y2", "training")):
            lines = [trace for trace in figure.data if trace.yaxis == axis and trace.mode == "lines"]
            drawn = [(x, y) for trace in lines for x, y in zip(trace.x, trace.y, strict=True) if x is not None]
            assert sorted(drawn) == sorted((row["epoch"], row[f"{split}_{name}"]) for row in rows)
            ends = next(trace for trace in figure.data if trace.yaxis == axis and trace.mode == "markers")
            assert list(ends.x) == [1, 2, 3]


def test_excess_and_importance_figures_equal_their_tables(records: Records) -> None:
    spec = seeded_study(records)
    tables = study_tables(records, STUDY)
    rows = dicts(excess(tables).data)
    (bars,) = excess(tables).figure.data
    assert [row["proposals"] for row in rows] == list(bars.y)
    assert all(row["params_from"] < x < row["params_below"] for row, x in zip(rows, bars.x, strict=True))
    shares = importances(tables.ranking, spec)
    (bars,) = importance_bars(shares).figure.data
    assert [row["share_percent"] for row in dicts(importance_bars(shares).data)] == list(reversed(bars.x))


def test_the_winner_is_drawn_block_by_block_and_fills_the_budget(records: Records) -> None:
    seeded_study(records)
    tables = study_tables(records, STUDY)
    assert tables.chosen is not None
    drawn = winner_figure(tables, tables.chosen)
    figure = drawn.figure
    blocks = {bar.name: len(bar.x) for bar in figure.data if bar.xaxis == "x"}
    assert blocks == {"stem": 1, "stage 1": 2, "stage 2": 2, "stage 3": 2, "stage 4": 2, "head": 1}
    budget = [bar for bar in figure.data if bar.xaxis == "x3"]
    assert [bar.name for bar in budget][-1] == "left"
    assert sum(bar.x[0] for bar in budget) == pytest.approx(100)
    assert budget[-1].base[0] == pytest.approx(100 - budget[-1].x[0])
    rows = dicts(drawn.data)
    assert [row["share_of_budget_percent"] for row in rows] == pytest.approx([bar.x[0] for bar in budget])
    assert sum(row["params"] for row in rows) == 5_000_000


def test_bottlenecks_are_drawn_with_their_inner_width(records: Records) -> None:
    seeded_study(records)
    tables, network = study_tables(records, STUDY), named("resnet50")
    assert tables.chosen is not None
    chosen = replace(tables.chosen, run=replace(tables.chosen.run, architecture=network))
    figure = winner_figure(replace(tables, chosen=chosen, winner=parts_of(network, 30_000_000)), chosen).figure
    assert any("3 bottlenecks of 64 → 256 × 32 × 32" in note.text for note in figure.layout.annotations)


def test_finalists_show_seeds_mean_interval_and_search_accuracy(records: Records) -> None:
    seeded_study(records)
    tables = with_final(study_tables(records, STUDY))
    final = tables.final
    assert final is not None
    one_run, score, seeds, mean = finalists(tables, final).figure.data
    assert list(one_run.x) == [100 * entrant.search_accuracy for entrant in final.entrants]
    assert list(score.x) == [100 * entrant.score for entrant in final.entrants]
    assert len(seeds.x) == 4 * 3
    for place, entrant in enumerate(final.entrants):
        expected = mean_interval(entrant.validation)
        assert mean.x[place] == pytest.approx(100 * expected.estimate)
        assert mean.error_x.array[place] == pytest.approx(100 * (expected.high - expected.estimate))
    rows = dicts(finalists(tables, final).data)
    assert [row["accuracy_percent"] for row in rows if row["kind"] == "fresh validation"] == list(seeds.x)
    assert {row["run"] for row in rows if row["winner"]} == {tables.name_of(final.winner.run) if final.winner else ""}
    tested = dicts(draw_tests(tables, final).data)
    assert [row["accuracy_percent"] for row in tested] == list(draw_tests(tables, final).figure.data[0].x)


def test_intervals_of_accuracies_are_cut_at_0_and_100_percent(records: Records) -> None:
    seeded_study(records)
    tables = with_final(study_tables(records, STUDY))
    assert tables.final is not None
    near = {False: (0.94, 0.99, 0.998), True: (0.002, 0.01, 0.09)}
    entrants = tuple(
        replace(entrant, validation=near[entrant.is_reference], test=near[entrant.is_reference] if entrant.test else ())
        for entrant in tables.final.entrants
    )
    final = replace(tables.final, entrants=entrants)
    for drawn, split in ((finalists(tables, final), "validation"), (draw_tests(tables, final), "test")):
        mean, shown = drawn.figure.data[-1], [entrant for entrant in entrants if getattr(entrant, split)]
        for place, entrant in enumerate(shown):
            whole, below, above = mean_interval(near[entrant.is_reference]), mean.error_x.arrayminus, mean.error_x.array
            ends = (mean.x[place] - below[place], mean.x[place] + above[place])
            expected = (0, 100 * whole.high) if entrant.is_reference else (100 * whole.low, 100)
            assert ends == pytest.approx(expected)
            assert f"{expected[0]:.2f} to {expected[1]:.2f}" in mean.hovertext[place]
    html = study_page(replace(tables, final=final))
    assert html.count(" to 100.00</td>") == 4 and html.count(">0.00 to ") == 2
    assert "Intervals: Student's, over seeds, cut at 0 and 100 %." in html


def test_csv_keeps_commas_quotes_line_ends_and_every_script() -> None:
    names = ('a,"b"', "two\nlines", "Prüfung 試験", "<script>")
    text = Table(("name", "value"), tuple((name, math.nan) for name in names)).csv()
    assert list(csv.reader(io.StringIO(text, newline="")))[1:] == [[name, ""] for name in names]


def dicts(table: Table) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


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
    assert "Initial trial resnet18 was rejected: 11,173,962 parameters, 6,173,962 over the budget." in html


def test_names_are_escaped_everywhere(records: Records, tmp_path: Path) -> None:
    seeded_study(records, study=NASTY, label=NASTY)
    html = write_study_report(records, NASTY, tmp_path / "report.html").read_text(encoding="utf-8")
    assert NASTY not in html
    assert "&lt;script&gt;alert(1)" in html
    assert html.count("</script>") == 4


def test_report_of_a_study_without_runs(records: Records, tmp_path: Path) -> None:
    save(records, "empty", specification(data()))
    html = write_study_report(records, "empty", tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No run of this study is complete yet" in html
    assert "No proposal was rejected" in html
    assert len(html) < 50_000


def test_report_of_one_run(records: Records, tmp_path: Path) -> None:
    spec = specification(data())
    save(records, STUDY, spec)
    add_run(records, STUDY, initial_candidate("v2-sgd", spec.recipes, INPUTS), 0, plausible_curve(0.9, epochs=1))
    html = write_study_report(records, STUDY, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "n = 1 complete run, one training seed" in html
    assert "these need at least 8 complete runs" in html
    assert "a single run; <code>budgetnas finish</code>" in html
    assert "chosen from" not in html and "the highest of" not in html


def test_the_page_is_written_atomically(records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded_study(records)
    out = tmp_path / "report.html"
    out.write_text("before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(BudgetnasError, match="no space is left"):
        write_study_report(records, STUDY, out)
    assert out.read_text() == "before"
    assert not list(tmp_path.glob(".*tmp"))


def test_a_folder_or_a_missing_one_is_refused(records: Records, tmp_path: Path) -> None:
    seeded_study(records)
    with pytest.raises(InputError, match=r"--out.*is a folder"):
        write_study_report(records, STUDY, tmp_path)
    with pytest.raises(InputError, match=r"--out.*cannot be written"):
        write_study_report(records, STUDY, tmp_path / "none" / "report.html")


def test_page_without_a_final_calls_the_best_run_optimistic(records: Records) -> None:
    seeded_study(records)
    html = study_page(study_tables(records, STUDY))
    assert "chosen from 12 candidates, so it is optimistic" in html
    assert "The final" not in html


def test_page_names_the_winner_of_a_search_and_a_candidate_ahead_of_it(records: Records) -> None:
    seeded_study(records)
    tables = study_tables(records, STUDY)
    first, second, chosen = *tables.ranking[:2], tables.chosen
    assert chosen is not None and chosen.run == first.run
    html = study_page(tables)
    assert "Winner of the search: <strong>94.00 %</strong>" in html and "By its own accuracy alone" not in html
    assert f'<td class="n">1</td><th scope="row">{first.name}, winner</th>' in html
    other = replace(chosen, run=second.run, name=second.name, accuracy=second.accuracy)
    html = study_page(replace(tables, chosen=other))
    assert f"By its own accuracy alone, {first.name} is the best: 94.00 %." in html
    row = f'<td class="n">2</td><th scope="row">{second.name}, winner</th>'
    assert f'<tr class="first">{row}' in html and f'<th scope="row">{first.name}</th>' in html


def test_page_of_a_final_shows_difference_and_number_of_test_evaluations(records: Records) -> None:
    seeded_study(records)
    tables = with_final(study_tables(records, STUDY))
    html = study_page(tables)
    assert tables.final is not None
    assert tables.final.difference is not None
    assert "Winner of the final" in html
    assert "so it is optimistic" not in html
    assert f"{100 * tables.final.difference.estimate:+.2f} points" in html
    assert "(Welch, over seeds)" in html
    assert "standard error" in html
    assert "This study was evaluated on the test split once." in html
    assert "-3.47" in html  # of v2-sgd, whose one run was the best: mean of its fresh seeds less that run
    assert "evaluated on the test split 3 times" in study_page(with_final(tables, readings=3))
    assert "int8 file" not in html
    int8 = replace(tables.final, int8=Int8Reading("0" * 64, 0.8125))
    assert "int8 file of the winner's exported network has 81.25 %" in study_page(replace(tables, final=int8))
    beside = replace(int8, int8=Int8Reading("0" * 64, 0.8125, float_accuracy=0.8375))
    assert "the same network in float has 83.75 %." in study_page(replace(tables, final=beside))


def test_page_of_a_final_with_long_trainings_has_their_recipe(records: Records) -> None:
    seeded_study(records)
    tables = with_final(study_tables(records, STUDY))
    assert tables.final is not None and tables.final.winner is not None
    assert "recipe for long trainings" not in study_page(tables)
    winner = replace(tables.final.winner, long_recipe=strong_recipe(200))
    protocol = tables.final.protocol.model_copy(update={"final_epochs": 200})
    html = study_page(replace(tables, final=replace(tables.final, winner=winner, protocol=protocol)))
    assert "for 200 epochs with the\nrecipe for long trainings" in html and strong_recipe(200).describe() in html


def test_page_of_an_unfinished_final_or_without_a_test_evaluation(records: Records) -> None:
    seeded_study(records)
    tables = study_tables(records, STUDY)
    under_way = study_page(with_final(tables, decided=False, readings=0))
    assert "The final has no winner yet" in under_way
    assert "so it is optimistic" in under_way
    assert "There was no evaluation on the test split." in study_page(with_final(tables, readings=0))


def test_page_of_a_final_without_a_reference_says_so(records: Records) -> None:
    seeded_study(records)
    tables = with_final(study_tables(records, STUDY))
    assert tables.final is not None
    sentence = "No initial trial is in the final, so the winner has no reference."
    page = study_page(tables)
    assert sentence not in page and "Test accuracy of winner and reference" in page
    assert "of\nequal means, that of the network with fewer parameters" in page
    entrants = tuple(entrant for entrant in tables.final.entrants if not entrant.is_reference)
    alone = replace(tables.final, entrants=entrants, reference=None, difference=None)
    page = study_page(replace(tables, final=alone))
    assert sentence in page and "Test accuracy of the winner</h3>" in page and "winner and reference" not in page


def test_page_lists_pruned_runs_separately(records: Records) -> None:
    spec = seeded_study(records)
    add_pruned(records, spec)
    html = study_page(study_tables(records, STUDY))
    assert '<h2 id="pruned">Pruned</h2>' in html
    assert "2 of 6" in html


# Replays


def test_comparison_has_best_and_last_epoch(records: Records) -> None:
    found = replay(records, "v2-sgd", 60, 0.93).comparison()
    assert (found["best_test_epoch"], found["last_epoch"]) == (59, 60)
    assert found["best_test"] == pytest.approx(93.5)
    assert found["last_test"] == pytest.approx(93.0)
    assert found["best_test_difference"] == pytest.approx(93.5 - 94.21)
    assert found["last_test_difference"] == pytest.approx(93.0 - 94.21)
    assert found["best_train_difference"] == pytest.approx(95.5 - 99.812)
    assert json.loads(json.dumps(found))["why_not"] == []


def test_comparison_without_printed_figures_or_epochs(records: Records) -> None:
    found = replay(records, "resnet50", 2, 0.5, ("2 of 40 epochs",)).comparison()
    assert (found["printed_test"], found["best_test_difference"], found["last_test_difference"]) == (None, None, None)
    nothing = replay(records, "v2-sgd", 0, 0.5, ("0 of 60 epochs",)).comparison()
    assert (nothing["best_test"], nothing["last_epoch"], nothing["best_test_difference"]) == (None, None, None)


def test_report_tables_list_runs_without_a_replay(records: Records) -> None:
    tables = report_tables([replay(records, "v2-sgd", 60, 0.93)])
    assert len(tables) == 7
    rows = {table.title[:7]: [(run.name, result is not None) for run, result in table.rows] for table in tables}
    assert rows["Table 1"] == [(name, False) for name in ("resnet18", "resnet34", "resnet101", "resnet152")]
    assert rows["Table 4"] == [("v2-sgd", True)]
    assert ("v2-sgd", True) in rows["Table 6"]
    assert rows["In no t"] == [("resnet50", False)]


def test_replay_figure_overlays_printed_and_ours(records: Records) -> None:
    names = [trace.name for trace in replay_curves(replay(records, "v2-sgd", 3, 0.6)).figure.data if trace.showlegend]
    assert names == ["test, printed", "test, ours", "train, printed", "train, ours"]
    assert len(replay_curves(replay(records, "resnet50", 3, 0.6)).figure.data) == 4


def test_replay_page_marks_incomparable_runs(records: Records, tmp_path: Path) -> None:
    why = ("2 of 60 epochs", f"data folder-{NASTY}, not CIFAR-10")
    results = [replay(records, "v2-sgd", 60, 0.93), replay(records, "v1-adam", 2, 0.5, why)]
    html = write_replay_report(results, tmp_path / "replay.html").read_text(encoding="utf-8")
    assert NASTY not in html
    assert html.count("NOT COMPARABLE: 2 of 60 epochs") == 4  # two rows, a heading, and its button
    assert "not replayed" in html
    assert "its figure is unbiased" in html
    assert "7x7" in html
    assert scripts_of_others(html) == []


def test_replay_page_without_replays(tmp_path: Path) -> None:
    html = write_replay_report([], tmp_path / "replay.html").read_text(encoding="utf-8")
    assert "0 replayed runs" in html
    assert html.count("not replayed") == 13
