from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from reporting import (
    EPOCHS,
    INPUTS,
    STUDY,
    add_pruned,
    add_run,
    data,
    open_records,
    plausible_curve,
    save,
    seeded_study,
    specification,
    with_accuracy,
    with_final,
)

from budgetnas.architecture import Architecture, count, named
from budgetnas.cli.summary import print_summary
from budgetnas.errors import InputError
from budgetnas.report import StudyTables, study_tables
from budgetnas.report.figures import study_figures
from budgetnas.report.figures.importance import importances, top_share
from budgetnas.report.figures.params import accuracy_against_params, pareto_front
from budgetnas.report.page import study_page
from budgetnas.report.values import RankedRun
from budgetnas.space.initial_trials import INITIAL_TRIALS, initial_candidate
from budgetnas.space.search_space import DEFAULT_WIDTHS
from budgetnas.space.specification import StudySpecification
from budgetnas.storage import Records, Rejection, Role, State


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return open_records(tmp_path)


# Figures outside of a page


def contrast(colour: str, ground: str) -> float:
    """The contrast of two colours by WCAG 2."""

    def luminance(code: str) -> float:
        shares = [int(code[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(colour), luminance(ground)))
    return (high + 0.05) / (low + 0.05)


def test_figures_outside_of_a_page_are_on_white(records: Records) -> None:
    seeded_study(records)
    for figure in study_figures(study_tables(records, STUDY)):
        layout = figure.titled().layout
        assert (layout.paper_bgcolor, layout.plot_bgcolor) == ("white", "white")
        assert figure.figure.layout.paper_bgcolor == "rgba(0,0,0,0)", "the page has its own colours"


def test_the_documentation_lists_the_figures(records: Records) -> None:
    seeded_study(records)
    keys = [figure.key for figure in study_figures(with_final(study_tables(records, STUDY)))]
    page = (Path(__file__).parent.parent / "docs" / "python.md").read_text(encoding="utf-8")
    table = page.partition("The figures by name")[2].partition("| name | shows |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"`(\w+)`", table)) == sorted(keys)


def test_the_label_of_the_budget_can_be_read_on_white(records: Records) -> None:
    seeded_study(records)
    notes = accuracy_against_params(study_tables(records, STUDY)).figure.layout.annotations
    (label,) = [note for note in notes if note.name == "budget"]
    assert label.text == " budget 5M " and contrast(label.font.color, "#ffffff") >= 4.5


# Tables


def test_ranking_is_by_the_last_epoch(records: Records) -> None:
    seeded_study(records)
    tables = study_tables(records, STUDY)
    assert [candidate.rank for candidate in tables.ranking] == list(range(1, 13))
    accuracies = [candidate.accuracy for candidate in tables.ranking]
    assert accuracies == sorted(accuracies, reverse=True)
    best = tables.ranking[0]
    assert (best.label, best.run.params, best.accuracy) == ("v2-sgd", 1_891_658, 0.94)
    assert (best.best.eval_accuracy, best.best.epoch) == (0.945, EPOCHS - 1)
    assert best.budget_share == pytest.approx(0.378, abs=1e-3)
    assert best.run.macs == 335_480_064


def test_equal_accuracies_are_ranked_by_fewer_parameters(records: Records) -> None:
    spec = specification(data())
    save(records, STUDY, spec)
    for trial, name in enumerate(("v1-sgd", "v2-sgd")):
        add_run(records, STUDY, initial_candidate(name, spec.recipes, INPUTS), trial, plausible_curve(0.9), label=name)
    assert [candidate.label for candidate in study_tables(records, STUDY).ranking] == ["v2-sgd", "v1-sgd"]


def test_tallies_count_every_proposal_once(records: Records) -> None:
    seeded_study(records)
    tallies = study_tables(records, STUDY).tallies
    assert (tallies.proposed, tallies.over_budget, tallies.duplicates) == (13 + 32, 31, 1)
    assert (tallies.trained, tallies.failed, tallies.running) == (12, 1, 0)


def test_a_restarted_trial_counts_as_one_proposal(records: Records) -> None:
    spec = seeded_study(records)
    again = initial_candidate("v2-adam", spec.recipes, INPUTS)
    add_run(records, STUDY, again, 3, plausible_curve(0.7), label="v2-adam")
    tallies = study_tables(records, STUDY).tallies
    assert (tallies.proposed, tallies.trained, tallies.failed) == (13 + 32, 13, 1)


def printed(tables: StudyTables, capsys: pytest.CaptureFixture[str]) -> str:
    print_summary(tables, None)
    return capsys.readouterr().out


def test_printed_counts_add_up_while_trials_run_or_were_interrupted(
    records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = seeded_study(records)
    assert "trained 12, failed 1\n" in printed(study_tables(records, STUDY), capsys)
    for trial, state in ((20, State.RUNNING), (21, State.INTERRUPTED), (22, State.INTERRUPTED)):
        candidate = initial_candidate("v1-sgd", spec.recipes, INPUTS)
        add_run(records, STUDY, candidate, trial, plausible_curve(0.5)[:1], seed=trial, state=state)
    text = printed(study_tables(records, STUDY), capsys)
    assert "proposed 48: 31 over the budget and 1 duplicates rejected" in text
    assert "trained 12, failed 1, running 1, interrupted 2\n" in text


def test_the_printed_winner_is_the_best_by_expectation_and_a_better_accuracy_is_named(
    records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    seeded_study(records)
    tables = study_tables(records, STUDY)
    first, second, chosen = *tables.ranking[:2], tables.chosen
    assert chosen is not None and tables.ahead is None
    text = printed(tables, capsys)
    assert "Winner of the search: v2-sgd, 94.00% on validation" in text
    assert "a single run, chosen from 12 candidates, so optimistic" in text and "own accuracy" not in text
    other = replace(tables, chosen=replace(chosen, run=second.run, name=second.name, accuracy=second.accuracy))
    assert other.ahead == first
    assert "by its own accuracy alone, v2-sgd is the best: 94.00%" in printed(other, capsys)
    assert with_final(tables).ahead is None, "a final's winner is the best of fresh seeds"


def test_a_single_candidate_is_not_called_the_best_of_one(records: Records, capsys: pytest.CaptureFixture[str]) -> None:
    spec = specification(data())
    save(records, STUDY, spec)
    add_run(records, STUDY, initial_candidate("v2-sgd", spec.recipes, INPUTS), 0, plausible_curve(0.9), label="v2-sgd")
    text = printed(study_tables(records, STUDY), capsys)
    assert "a single run; budgetnas finish gives an unbiased figure" in text
    assert "chosen from" not in text and "highest" not in text


def test_finals_are_not_ranked(records: Records) -> None:
    spec = seeded_study(records)
    candidate = initial_candidate("v2-sgd", spec.recipes, INPUTS)
    add_run(records, STUDY, candidate, 0, plausible_curve(0.99), role=Role.FINAL)
    assert study_tables(records, STUDY).ranking[0].accuracy == 0.94


def test_pruned_runs_have_a_place_in_time_and_no_rank(records: Records) -> None:
    spec = seeded_study(records)
    add_pruned(records, spec)
    again = initial_candidate("v2-sgd", spec.recipes, INPUTS)
    add_run(records, STUDY, again, 95, plausible_curve(0.5), seed=1, role=Role.REPEAT)
    tables = study_tables(records, STUDY)
    assert [(run.order, run.run.epochs_done, run.run.epochs_asked) for run in tables.pruning.pruned] == [
        (13, 1, EPOCHS),
        (14, 2, EPOCHS),
        (15, 3, EPOCHS),
    ]
    assert (len(tables.ranking), len(tables.complete), tables.complete[-1].order) == (12, 13, 16)
    assert (tables.tallies.trained, tables.tallies.pruned) == (16, 3)


def test_a_pruned_initial_trial_is_reported_as_pruned(records: Records) -> None:
    spec = seeded_study(records)
    pruned = initial_candidate("v2-adam", spec.recipes, INPUTS)
    add_run(records, STUDY, pruned, 3, plausible_curve(0.3)[:1], label="v2-adam", state=State.PRUNED)
    outcomes = {distance.name: distance.outcome for distance in study_tables(records, STUDY).distances}
    assert outcomes["v2-adam"] == "pruned"


def test_the_network_chosen_is_the_finals_winner_or_the_searchs_best(records: Records) -> None:
    seeded_study(records)
    tables = study_tables(records, STUDY)
    best, second = tables.ranking[:2]
    assert tables.chosen is not None
    assert (tables.chosen.run, tables.chosen.seeds, tables.chosen.by_final) == (best.run, 1, False)
    finished = with_final(tables)
    assert finished.chosen is not None
    assert finished.final is not None
    assert finished.final.winner is not None
    assert (finished.chosen.run, finished.chosen.seeds, finished.chosen.by_final) == (second.run, 3, True)
    assert finished.chosen.accuracy == pytest.approx(sum(finished.final.winner.validation) / 3)
    assert sum(part.params for part in finished.winner) == second.run.params
    assert json.loads(json.dumps(finished.to_dict(), allow_nan=False))["final"]["winner"]["run"] == second.run.id


def test_rejections_are_grouped_and_initial_trials_named(records: Records) -> None:
    seeded_study(records)
    rejections = study_tables(records, STUDY).rejections
    assert [(origin.origin, origin.over_budget, origin.duplicates) for origin in rejections.origins] == [
        ("sampler", 30, 1),
        ("seed", 1, 0),
    ]
    assert [(seed.name, seed.params, seed.overshoot) for seed in rejections.seeds] == [
        ("resnet18", 11_173_962, 6_173_962)
    ]
    assert rejections.overshoot is not None
    assert 1 < rejections.overshoot.smallest <= rejections.overshoot.median <= rejections.overshoot.largest
    assert len(rejections.params) == 31


def test_winner_has_parts_and_leads_over_initial_trials(records: Records) -> None:
    seeded_study(records)
    tables = study_tables(records, STUDY)
    assert [part.name for part in tables.winner] == ["stem", "stage 1", "stage 2", "stage 3", "stage 4", "head"]
    assert sum(part.params for part in tables.winner) == tables.ranking[0].run.params
    assert sum(part.budget_share for part in tables.winner) == pytest.approx(tables.ranking[0].budget_share)
    found = {distance.name: (distance.outcome, distance.points) for distance in tables.distances}
    assert tuple(found) == INITIAL_TRIALS
    assert found["v2-sgd"] == ("trained", 0.0)
    assert found["v1-sgd"] == ("trained", pytest.approx(8.0))
    assert found["v2-adam"] == ("failed", None)


def test_rejected_and_untrained_initial_trials_differ(records: Records) -> None:
    save(records, STUDY, specification(data(), max_params=2_000_000))
    over = count(named("v1")).params - 2_000_000
    records.reject(STUDY, [Rejection(named("v1"), "seed v1-sgd", 2_000_000, over)])
    outcomes = {distance.name: distance.outcome for distance in study_tables(records, STUDY).distances}
    assert outcomes == dict.fromkeys(INITIAL_TRIALS, "not trained") | {"v1-sgd": "rejected"}


def test_notices_name_reduced_data(records: Records) -> None:
    seeded_study(records)
    thinned, evaluated, noise = study_tables(records, STUDY).notices
    assert "2,000 images" in thinned
    assert "1,000 images, each worth 0.1 points" in evaluated
    assert "standard error of 0.75" in evaluated
    assert noise.startswith("n = 12 complete runs, one training seed per candidate")


def test_notices_of_own_images_without_runs(records: Records) -> None:
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


def test_unknown_study_lists_the_known_ones(records: Records) -> None:
    with pytest.raises(InputError, match=r"STUDY 'x'.*no studies yet"):
        study_tables(records, "x")
    seeded_study(records)
    with pytest.raises(InputError, match=rf"there are: {STUDY}; did you mean {STUDY}\?"):
        study_tables(records, "cifar-5M")


@pytest.mark.slow
def test_tables_need_no_heavy_package() -> None:
    heavy = "{'torch', 'optuna', 'typer', 'plotly'}"
    code = f"import sys, budgetnas.report; print(sorted({heavy} & set(sys.modules)))"
    code += f"; import budgetnas.report.page; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "['optuna', 'plotly']"]


# Numbers behind the figures


def test_pareto_front_has_exactly_the_unbeaten_runs(records: Records) -> None:
    seeded_study(records)
    runs = study_tables(records, STUDY).ranking
    front = pareto_front(runs)
    for run in runs:
        beaten = any(other.run.params <= run.run.params and other.accuracy > run.accuracy for other in runs)
        beaten |= any(other.run.params < run.run.params and other.accuracy >= run.accuracy for other in runs)
        assert (run in front) is not beaten
    assert [run.run.params for run in front] == sorted(run.run.params for run in front)


def planted(records: Records, runs: int) -> tuple[tuple[RankedRun, ...], StudySpecification]:
    """Accuracy follows the third stage's width alone."""
    spec = specification(data(), max_params=50_000_000)
    save(records, STUDY, spec)
    generator = random.Random(3)
    for trial in range(runs):
        params = spec.space.draw(generator)
        optimizer = generator.choice(("sgd", "adam"))
        rates = {f"{optimizer}_learning_rate": generator.uniform(0.02, 0.09), f"{optimizer}_weight_decay": 1e-4}
        candidate = spec.candidates.candidate(params | {"optimizer": optimizer} | rates)
        curve = plausible_curve(0.5 + 0.015 * DEFAULT_WIDTHS.index(int(params["width_3"])), seed=trial)
        add_run(records, STUDY, candidate, trial, curve)
    return study_tables(records, STUDY).ranking, spec


def test_importances_find_the_parameter_that_decides(records: Records) -> None:
    runs, spec = planted(records, 40)
    shares = importances(runs, spec)
    assert next(iter(shares)) == "width_3"
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == set(spec.candidates.ranges())
    assert shares == importances(runs, spec)


def test_no_importances_from_few_or_equal_runs(records: Records) -> None:
    runs, spec = planted(records, 8)
    assert importances(runs[:7], spec) == {}
    assert importances([with_accuracy(run, 0.5) for run in runs], spec) == {}
    half_equal = [with_accuracy(run, 0.6 if place < 3 else 0.1) for place, run in enumerate(runs)]
    assert importances(half_equal, spec) == {}
    assert importances(runs, spec)


def test_rates_of_an_optimiser_of_a_single_run_have_no_importance(records: Records) -> None:
    spec = seeded_study(records)
    shares = importances(study_tables(records, STUDY).ranking, spec)
    assert "sgd_learning_rate" in shares
    assert "adam_learning_rate" not in shares


def test_runs_outside_the_space_do_not_count_for_importances(records: Records) -> None:
    runs, spec = planted(records, 8)
    first = runs[0].trainings[0]
    network = first.run.architecture
    strange = replace(first.run, architecture=replace(network, blocks=(6,) * network.num_stages))
    outside = replace(runs[0], trainings=(replace(first, run=strange),))
    assert importances([outside, *runs[1:]], spec) == {}


def test_the_page_counts_the_candidates_that_importances_compare(records: Records) -> None:
    runs, _ = planted(records, 13)
    tables = study_tables(records, STUDY)
    assert "among the\nbest 5 runs with its distribution among all 13; the larger" in study_page(tables)
    first = runs[0].trainings[0]
    strange = replace(first.run, architecture=replace(first.run.architecture, blocks=(6,) * 4))
    outside = replace(runs[0], trainings=(replace(first, run=strange),))
    html = study_page(replace(tables, ranking=(outside, *runs[1:])))
    assert "among all 12 inside the space; the larger" in html and "With 12 runs the shares" in html


def test_top_group_has_five_runs_where_that_is_at_most_half() -> None:
    assert (top_share(8), top_share(20), top_share(200)) == (0.5, 0.25, 0.1)


def test_architectures_of_the_fixture_keep_the_budget(records: Records) -> None:
    spec = seeded_study(records)
    chosen: list[Architecture] = [candidate.run.architecture for candidate in study_tables(records, STUDY).ranking]
    assert all(spec.budget.fits(item) for item in chosen)


def test_rejections_are_counted_by_limit(records: Records) -> None:
    spec = specification(data()).model_copy(update={"max_macs": 300_000_000, "max_activations": 600_000})
    save(records, STUDY, spec)
    rejected = [(named("v2"), "seed v2-sgd"), (named("resnet18"), "sampler"), (named("v2"), "sampler")]
    records.reject(STUDY, [Rejection.of(one, origin, spec.budget) for one, origin in rejected])
    tables = study_tables(records, STUDY)
    found = tables.rejections
    assert [(limit.quantity, limit.proposals) for limit in found.limits] == [
        ("params", 1),
        ("macs", 3),
        ("activations", 1),
    ]
    assert found.params == (11_173_962,), "the figure is about parameters"
    (seed,) = found.seeds
    assert (seed.overshoot, [(excess.quantity, excess.amount) for excess in seed.excesses]) == (
        0,
        [("macs", 35_480_064)],
    )
    assert (tables.tallies.over_budget, tables.tallies.duplicates) == (3, 0)
    plain = json.loads(json.dumps(tables.to_dict()))
    assert plain["summary"]["limits"][1] == {"quantity": "macs", "most": 300_000_000}
    assert plain["rejections"]["seeds"][0]["excesses"][0]["over"] == 35_480_064
    page = " ".join(study_page(tables).split())
    assert "5,000,000 parameters, 300,000,000 multiply-accumulates, 600,000 activations" in page
    assert '<th scope="row">multiply-accumulates</th><td class="n">300,000,000</td><td class="n">3</td>' in page
    assert "Initial trial v2-sgd was rejected: 335,480,064 of 300,000,000 multiply-accumulates, 35,480,064 too" in page


def test_a_page_with_a_single_limit_has_no_table_of_limits(records: Records) -> None:
    seeded_study(records)
    page = study_page(study_tables(records, STUDY))
    assert "Limit on" not in page and "It fits:" not in page
    assert "<dd>5,000,000 parameters</dd>" in page


def test_a_page_where_only_other_limits_were_exceeded(records: Records) -> None:
    spec = specification(data()).model_copy(update={"max_macs": 300_000_000})
    save(records, STUDY, spec)
    records.reject(STUDY, [Rejection.of(named("v2"), "sampler", spec.budget)])
    tables = study_tables(records, STUDY)
    assert (tables.rejections.overshoot, tables.rejections.params) == (None, ())
    assert "No proposal was over the budget in parameters." in study_page(tables)
