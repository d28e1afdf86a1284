from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from budgetnas.architecture import Architecture, count, named
from budgetnas.data.identity import DataIdentity
from budgetnas.epoch import Epoch
from budgetnas.errors import InputError
from budgetnas.recipe import RecipeSpace
from budgetnas.recorded import recorded_run
from budgetnas.report import ReplayResult, comparison, study_tables
from budgetnas.report import figures as draw
from budgetnas.report.importance import importances, top_share
from budgetnas.report.page import write_replay_report, write_study_report
from budgetnas.report.points import pareto_front, running_best
from budgetnas.report.replay_figures import replay_curves
from budgetnas.report.replays import report_tables
from budgetnas.report.values import RankedRun
from budgetnas.seeds import SEEDS, seed_candidate
from budgetnas.space import Candidate, InputShape, SearchSpace
from budgetnas.specification import StudySpecification
from budgetnas.storage import Records, Rejection, Role, RunKey, State
from budgetnas.storage.engine import open_engine
from budgetnas.storage.records import create_tables
from budgetnas.storage.urls import parse_storage

STUDY = "cifar10-5M"
NASTY = "<script>alert(1)</script>"
EPOCHS = 6
INPUTS = InputShape(in_channels=3, size=32, classes=10)


def data(name: str = "cifar10", subset: int | None = None, subset_eval: int | None = None) -> DataIdentity:
    return DataIdentity(
        name=name, content_hash="0" * 64, subset=subset, subset_eval=subset_eval, split_seed=0, resolution=32
    )


def specification(identity: DataIdentity, max_params: int = 5_000_000) -> StudySpecification:
    recipes = RecipeSpace(epochs=EPOCHS)
    return StudySpecification(max_params=max_params, space=SearchSpace(), recipes=recipes, data=identity, inputs=INPUTS)


def plausible_curve(final: float, epochs: int = EPOCHS, seed: int = 0) -> list[Epoch]:
    """A curve that rises to `final` and is a little higher one epoch before the end."""
    generator = random.Random(seed)
    curve = []
    for epoch in range(1, epochs + 1):
        left = math.exp(-3 * epoch / epochs) - math.exp(-3)
        accuracy = final * (1 - left) + generator.uniform(-0.01, 0.01) * (epoch < epochs)
        accuracy = min(1.0, final + 0.005) if epoch == epochs - 1 else accuracy
        loss = 2.3 * (1 - accuracy) + 0.05
        curve.append(Epoch(epoch, loss * 0.8, min(1.0, accuracy + 0.02), loss, accuracy, 0.1 * left, 12.5))
    return curve


def add_run(
    records: Records,
    study: str,
    candidate: Candidate,
    trial: int,
    curve: Sequence[Epoch],
    *,
    label: str = "",
    seed: int = 0,
    role: Role = Role.SEARCH,
    failed: str = "",
) -> int:
    identity = data()
    architecture, recipe = candidate.key
    run = records.start_run(
        key=RunKey(architecture, recipe, identity.digest(), seed, role),
        architecture=candidate.architecture,
        recipe=candidate.recipe,
        data=identity.model_dump_json(),
        environment=json.dumps({"device": "cpu", "precision": "float32", "threads": 2, "micro_batch": None}),
        study=study,
        trial=trial,
        label=label,
    )
    for epoch in curve:
        records.add_epoch(run, epoch)
    records.finish_run(run, State.FAILED if failed else State.COMPLETE, failed)
    return run


def open_records(folder: Path) -> Records:
    engine = open_engine(parse_storage(f"sqlite:///{folder / 'records.db'}"))
    create_tables(engine)
    return Records(engine)


def save(records: Records, study: str, spec: StudySpecification) -> None:
    records.save_specification(study, spec.canonical_json(), spec.digest)


def seeded_study(records: Records, study: str = STUDY, runs: int = 12, label: str = "") -> StudySpecification:
    """Seeds v1-sgd, v1-adam, v2-sgd trained; v2-adam failed; the rest searched; proposals turned away."""
    spec = specification(data(subset=2000, subset_eval=1000))
    save(records, study, spec)
    for trial, (name, accuracy) in enumerate({"v1-sgd": 0.86, "v1-adam": 0.80, "v2-sgd": 0.94}.items()):
        candidate = seed_candidate(name, spec.recipes, INPUTS)
        add_run(records, study, candidate, trial, plausible_curve(accuracy, seed=trial), label=name)
    candidate = seed_candidate("v2-adam", spec.recipes, INPUTS)
    reason = f"loss is not finite in epoch 2 {label}"
    add_run(records, study, candidate, 3, plausible_curve(0.3)[:1], label="v2-adam", failed=reason)
    generator = random.Random(1)
    for trial in range(4, runs + 1):
        params = spec.space.draw_feasible(INPUTS, spec.budget, generator)
        rate = generator.uniform(0.02, 0.4)
        params |= {"optimizer": "sgd", "sgd_learning_rate": rate, "sgd_weight_decay": 5e-4}
        accuracy = 0.62 + 0.045 * math.log10(count(spec.space.architecture(params, INPUTS)).params)
        curve = plausible_curve(accuracy, seed=trial)
        add_run(records, study, spec.candidates.candidate(params), trial, curve, label=label if trial == 4 else "")
    records.reject(study, turned_away(spec))
    return spec


def turned_away(spec: StudySpecification) -> list[Rejection]:
    generator, found = random.Random(2), []
    while len(found) < 30:
        architecture = spec.space.architecture(spec.space.draw(generator), INPUTS)
        over = count(architecture).params - spec.max_params
        if over > 0:
            found.append(Rejection(architecture, "sampler", spec.max_params, over))
    big = named("resnet18")
    found.append(Rejection(big, "seed resnet18", spec.max_params, count(big).params - spec.max_params))
    found.append(Rejection(named("v2"), "sampler", spec.max_params, 0, duplicate=True))
    return found


def replay(records: Records, name: str, epochs: int, final: float, why_not: tuple[str, ...] = ()) -> ReplayResult:
    recorded = recorded_run(name)
    candidate = Candidate(named(recorded.network), recorded.recipe)
    run = add_run(records, "", candidate, 0, plausible_curve(final, epochs), label=name, role=Role.REPLAY)
    return ReplayResult(recorded, records.run(run), records.curve(run), not why_not, why_not)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return open_records(tmp_path)


# Tables


def test_ranking_is_by_the_last_epoch_and_tells_the_best(records: Records) -> None:
    seeded_study(records)
    tables = study_tables(records, STUDY)
    assert [one.rank for one in tables.ranking] == list(range(1, 13))
    accuracies = [one.accuracy for one in tables.ranking]
    assert accuracies == sorted(accuracies, reverse=True)
    best = tables.ranking[0]
    assert (best.label, best.params, best.accuracy) == ("v2-sgd", 1_891_658, 0.94)
    assert (best.best_accuracy, best.best_epoch) == (0.945, EPOCHS - 1)
    assert best.budget_share == pytest.approx(0.378, abs=1e-3)
    assert best.macs == 335_480_064


def test_equal_accuracies_are_ranked_by_fewer_parameters(records: Records) -> None:
    spec = specification(data())
    save(records, STUDY, spec)
    for trial, name in enumerate(("v1-sgd", "v2-sgd")):
        add_run(records, STUDY, seed_candidate(name, spec.recipes, INPUTS), trial, plausible_curve(0.9), label=name)
    assert [one.label for one in study_tables(records, STUDY).ranking] == ["v2-sgd", "v1-sgd"]


def test_tallies_count_every_proposal_once(records: Records) -> None:
    seeded_study(records)
    tallies = study_tables(records, STUDY).tallies
    assert (tallies.proposed, tallies.over_budget, tallies.duplicates) == (13 + 32, 31, 1)
    assert (tallies.trained, tallies.failed, tallies.running) == (12, 1, 0)


def test_a_trial_begun_again_is_one_proposal(records: Records) -> None:
    spec = seeded_study(records)
    again = seed_candidate("v2-adam", spec.recipes, INPUTS)
    add_run(records, STUDY, again, 3, plausible_curve(0.7), label="v2-adam")
    tallies = study_tables(records, STUDY).tallies
    assert (tallies.proposed, tallies.trained, tallies.failed) == (13 + 32, 13, 1)


def test_finals_are_not_ranked(records: Records) -> None:
    spec = seeded_study(records)
    candidate = seed_candidate("v2-sgd", spec.recipes, INPUTS)
    add_run(records, STUDY, candidate, 0, plausible_curve(0.99), role=Role.FINAL)
    assert study_tables(records, STUDY).ranking[0].accuracy == 0.94


def test_rejections_are_grouped_and_seeds_named(records: Records) -> None:
    seeded_study(records)
    rejections = study_tables(records, STUDY).rejections
    assert [(one.origin, one.over_budget, one.duplicates) for one in rejections.origins] == [
        ("sampler", 30, 1),
        ("seed", 1, 0),
    ]
    assert [(one.name, one.params, one.overshoot) for one in rejections.seeds] == [("resnet18", 11_173_962, 6_173_962)]
    assert rejections.overshoot is not None
    assert 1 < rejections.overshoot.smallest <= rejections.overshoot.median <= rejections.overshoot.largest
    assert len(rejections.params) == 31


def test_winner_is_split_into_parts_and_set_against_the_seeds(records: Records) -> None:
    seeded_study(records)
    tables = study_tables(records, STUDY)
    assert [part.name for part in tables.winner] == ["stem", "stage 1", "stage 2", "stage 3", "stage 4", "head"]
    assert sum(part.params for part in tables.winner) == tables.ranking[0].params
    assert sum(part.budget_share for part in tables.winner) == pytest.approx(tables.ranking[0].budget_share)
    found = {one.name: (one.outcome, one.points) for one in tables.distances}
    assert tuple(found) == SEEDS
    assert found["v2-sgd"] == ("trained", 0.0)
    assert found["v1-sgd"] == ("trained", pytest.approx(8.0))
    assert found["v2-adam"] == ("failed", None)


def test_rejected_and_untrained_seeds_are_told_apart(records: Records) -> None:
    save(records, STUDY, specification(data(), max_params=2_000_000))
    over = count(named("v1")).params - 2_000_000
    records.reject(STUDY, [Rejection(named("v1"), "seed v1-sgd", 2_000_000, over)])
    outcomes = {one.name: one.outcome for one in study_tables(records, STUDY).distances}
    assert outcomes == dict.fromkeys(SEEDS, "not trained") | {"v1-sgd": "rejected"}


def test_notices_say_what_is_reduced(records: Records) -> None:
    seeded_study(records)
    thinned, evaluated, noise = study_tables(records, STUDY).notices
    assert "2,000 images" in thinned
    assert "1,000 images, one of which is 0.1 points" in evaluated
    assert "standard error of 0.75" in evaluated
    assert noise.startswith("n = 12 complete trainings, one training seed per candidate")


def test_notices_say_own_images_and_nothing_of_noise_without_runs(records: Records) -> None:
    save(records, "own", specification(data("folder-cats")))
    (notice,) = study_tables(records, "own").notices
    assert notice.startswith("Own images (folder-cats)")


def test_tables_become_json(records: Records) -> None:
    seeded_study(records)
    values = json.loads(json.dumps(study_tables(records, STUDY).to_dict(), allow_nan=False))
    assert values["ranking"][0]["architecture"]["description"] == "basic 2-2-2-2 x 64-128-128-128, stem 64"
    assert values["ranking"][0]["recipe"]["optimizer"] == "sgd"
    assert "curve" not in values["ranking"][0]
    assert values["specification"]["max_params"] == 5_000_000


def test_unknown_study_is_refused_with_those_there_are(records: Records) -> None:
    with pytest.raises(InputError, match=r"STUDY 'x'.*no studies yet"):
        study_tables(records, "x")
    seeded_study(records)
    with pytest.raises(InputError, match=rf"there are: {STUDY}; did you mean {STUDY}\?"):
        study_tables(records, "cifar-5M")


def test_tables_need_no_heavy_package() -> None:
    heavy = "{'torch', 'optuna', 'typer', 'plotly'}"
    code = f"import sys, budgetnas.report; print(sorted({heavy} & set(sys.modules)))"
    code += f"; import budgetnas.report.page; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "['optuna', 'plotly']"]


# Numbers behind the figures


def test_running_best() -> None:
    assert running_best([0.2, 0.1, 0.4, 0.3]) == (0.2, 0.2, 0.4, 0.4)
    assert running_best([]) == ()


def test_pareto_front_holds_what_nothing_beats(records: Records) -> None:
    seeded_study(records)
    runs = study_tables(records, STUDY).ranking
    front = pareto_front(runs)
    for run in runs:
        beaten = any(o.params <= run.params and o.accuracy > run.accuracy for o in runs)
        beaten |= any(o.params < run.params and o.accuracy >= run.accuracy for o in runs)
        assert (run in front) is not beaten
    assert [one.params for one in front] == sorted(one.params for one in front)


def planted(records: Records, runs: int) -> tuple[tuple[RankedRun, ...], StudySpecification]:
    """Accuracy follows the last stage's width alone."""
    spec = specification(data(), max_params=50_000_000)
    save(records, STUDY, spec)
    generator = random.Random(3)
    for trial in range(runs):
        params = spec.space.draw(generator)
        optimizer = generator.choice(("sgd", "adam"))
        rates = {f"{optimizer}_learning_rate": generator.uniform(0.02, 0.09), f"{optimizer}_weight_decay": 1e-4}
        candidate = spec.candidates.candidate(params | {"optimizer": optimizer} | rates)
        curve = plausible_curve(0.5 + 0.015 * int(params["width_4"]), seed=trial)
        add_run(records, STUDY, candidate, trial, curve)
    return study_tables(records, STUDY).ranking, spec


def test_importances_find_the_parameter_that_decides(records: Records) -> None:
    runs, spec = planted(records, 40)
    shares = importances(runs, spec)
    assert next(iter(shares)) == "width_4"
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == set(spec.candidates.ranges())
    assert shares == importances(runs, spec)


def test_no_importances_from_few_or_equal_runs(records: Records) -> None:
    runs, spec = planted(records, 8)
    assert importances(runs[:7], spec) == {}
    assert importances([replace(one, accuracy=0.5) for one in runs], spec) == {}
    half_equal = [replace(one, accuracy=0.6 if place < 3 else 0.1) for place, one in enumerate(runs)]
    assert importances(half_equal, spec) == {}
    assert importances(runs, spec)


def test_rates_of_an_optimiser_that_one_run_chose_are_not_judged(records: Records) -> None:
    spec = seeded_study(records)
    shares = importances(study_tables(records, STUDY).ranking, spec)
    assert "sgd_learning_rate" in shares
    assert "adam_learning_rate" not in shares


def test_runs_outside_the_space_do_not_count_for_importances(records: Records) -> None:
    runs, spec = planted(records, 8)
    strange = replace(runs[0].architecture, blocks=(9, 9, 9, 9))
    assert importances([replace(runs[0], architecture=strange), *runs[1:]], spec) == {}


def test_top_group_has_five_runs_where_that_is_at_most_half() -> None:
    assert (top_share(8), top_share(20), top_share(200)) == (0.5, 0.25, 0.1)


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
    assert html.count("</script>") == 3


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


def test_architectures_of_the_fixture_keep_the_budget(records: Records) -> None:
    spec = seeded_study(records)
    chosen: list[Architecture] = [one.architecture for one in study_tables(records, STUDY).ranking]
    assert all(spec.budget.fits(one) for one in chosen)
