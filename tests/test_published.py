from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from budgetnas.architecture import count, named
from budgetnas.errors import InputError
from budgetnas.experiments.published import contradictions, curves_accuracy, printed_curve, recorded_run, recorded_runs
from budgetnas.space.presets import shipped, shipped_studies

NAMES = ("v1-sgd", "v1-adam", "v2-sgd", "v2-adam", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
UNREAD = {("v2-adam", "train", "accuracy"): {4}, ("resnet101", "train", "accuracy"): {9}}


def test_runs_come_in_the_reports_order() -> None:
    assert tuple(recorded_runs()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_network_has_the_recorded_parameters(name: str) -> None:
    run = recorded_run(name)
    assert count(named(run.network)).params == run.params


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_the_reports(name: str) -> None:
    recipe = recorded_run(name).recipe
    adam = name.endswith("adam")
    assert (recipe.optimizer, recipe.weight_decay) == (("adam", 0.0) if adam else ("sgd", 5e-4))
    assert (recipe.momentum, recipe.batch, recipe.t_max) == (0.9, 128, 60 if name.startswith("v") else 200)
    assert (recipe.augmentation.crop_padding, recipe.augmentation.flip, recipe.augmentation.rotation) == (4, True, 0)
    assert recipe.normalisation is not None
    assert recipe.normalisation.mean == (0.4914, 0.4822, 0.4465)
    assert recipe.normalisation.std == (0.2023, 0.1994, 0.2010)


def test_learning_rates_and_epochs() -> None:
    found = {name: (run.recipe.learning_rate, run.recipe.epochs) for name, run in recorded_runs().items()}
    rates = (0.1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.03, 0.02, 0.02)
    epochs = (60, 60, 60, 60, 50, 50, 40, 40, 40)
    assert found == {name: (rate, length) for name, rate, length in zip(NAMES, rates, epochs, strict=True)}


def test_tables_list_the_runs_of_the_report() -> None:
    tables = {number: [n for n, run in recorded_runs().items() if number in run.tables] for number in range(1, 7)}
    assert tables == {
        1: ["resnet18", "resnet34", "resnet101", "resnet152"],
        2: ["v1-sgd"],
        3: ["v1-adam"],
        4: ["v2-sgd"],
        5: ["v2-adam"],
        6: ["v1-sgd", "v1-adam", "v2-sgd", "v2-adam"],
    }


def test_every_contradiction_touches_a_run_and_is_a_sentence() -> None:
    listed = {sentence for run in recorded_runs().values() for sentence in run.contradictions}
    assert listed == set(contradictions().values())
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in listed)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "resnet50"])
def test_printed_curve_is_complete_and_peaks_at_the_printed_accuracy(name: str) -> None:
    run, points = recorded_run(name), printed_curve(name)
    for split, printed in (("train", run.printed_train), ("test", run.printed_test)):
        for metric in ("accuracy", "loss"):
            values = {p.epoch: p.value for p in points if (p.split, p.metric) == (split, metric)}
            unread = UNREAD.get((name, split, metric), set())
            assert set(values) == set(range(1, run.recipe.epochs + 1)) - unread
        best = max(p.value for p in points if (p.split, p.metric) == (split, "accuracy"))
        assert printed is not None
        assert math.isclose(best, printed, abs_tol=0.6)
    assert "0.2 points" in curves_accuracy()
    assert "0.6" in curves_accuracy()


def test_resnet50_was_never_finished() -> None:
    run = recorded_run("resnet50")
    assert (run.printed_train, run.printed_test, run.tables) == (None, None, ())
    assert printed_curve("resnet50") == ()


def test_unknown_run_is_refused_with_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"NAME 'v2-sdg'.*resnet152; did you mean v2-sgd\?"):
        recorded_run("v2-sdg")
    assert recorded_run(" V2-SGD ").name == "v2-sgd"


def test_shipped_files_are_found_and_the_report_is_not_a_study() -> None:
    assert shipped("report-2022.toml").is_file()
    assert shipped("report-2022") == shipped("report-2022.toml")
    assert "report-2022" not in shipped_studies()
    assert all(shipped(name).suffix == ".toml" for name in shipped_studies())


@pytest.mark.parametrize("name", ["nothing-like-it", "../pyproject.toml", "", "/etc/passwd"])
def test_unknown_shipped_files_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="STUDY_FILE"):
        shipped(name)


def test_installed_package_contains_its_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "budgetnas"
    (package / "studies").mkdir(parents=True)
    (package / "studies" / "mine.toml").write_text("")
    monkeypatch.setattr("budgetnas.space.presets.__file__", str(package / "space" / "presets.py"))
    assert shipped_studies() == ("mine",)
    with pytest.raises(InputError, match="did you mean mine"):
        shipped("mina")


def test_reading_the_records_needs_no_heavy_package() -> None:
    code = (
        "import sys, budgetnas.experiments.published as r; r.recorded_runs(); "
        "print({'torch', 'optuna', 'typer'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
