"""Unbalanced data: the share of the commonest class and the accuracy of each class, from the records to the reader."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import run

import budgetnas
from budgetnas.metrics import BALANCED, ClassAccuracy, ClassCounts, balanced_accuracy, by_class, by_class_words
from budgetnas.storage import Records
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage

COUNTS = ClassCounts(("cat", "dog", "owl"), (30, 10, 0))
SMALL: dict[str, Any] = {
    "budget": "3k",
    "study": "s",
    "trials": 2,
    "epochs": 2,
    "batch_size": 32,
    "seeds": [],
    "space": {"blocks": [[1, 1], [1, 1]], "widths": [4, 6, 8]},
    "device": "cpu",
    "progress": False,
}


def unbalanced(seed: int = 0) -> tuple[budgetnas.ImageArrays, np.ndarray]:
    """Noisy images of 8 x 8 pixels of three classes with 160, 40 and 20 training images, and the test images."""
    chance, parts = np.random.default_rng(seed), {}
    for part, counts in (("train", (160, 40, 20)), ("validation", (32, 8, 4)), ("test", (24, 6, 3))):
        labels = np.repeat([0, 1, 2], counts)
        pixels = chance.integers(0, 120, (len(labels), 8, 8, 1)) + 60 * labels[:, None, None, None]
        parts[part] = (pixels.astype(np.uint8), labels)
    images, labels = parts.pop("train")
    return budgetnas.ImageArrays(images, labels, classes=("many", "some", "few"), **parts), parts["test"][1]


def test_the_commonest_class() -> None:
    assert COUNTS.commonest == ("cat", 0.75)
    assert COUNTS.describe("the images") == "commonest class cat: 75.00% of the images"
    assert COUNTS.describe("the images", BALANCED).endswith("; always predicting it: balanced accuracy 50.00%")
    assert COUNTS.to_dict() == {
        "images": {"cat": 30, "dog": 10, "owl": 0},
        "commonest_class": {"class": "cat", "share": 0.75},
    }


def test_the_accuracy_of_each_class_is_a_mean_over_networks() -> None:
    rows = by_class(COUNTS, [(30, 0, 0), (15, 5, 0)])
    assert rows == (ClassAccuracy("cat", 30, 0.75), ClassAccuracy("dog", 10, 0.25), ClassAccuracy("owl", 0, None))
    means = "mean of classes 50.0%, all images 62.5%"
    assert by_class_words(rows) == f"by class: cat 75.0% of 30, dog 25.0% of 10; {means}"
    assert by_class_words(rows, most=1) == f"lowest 1 of 2 classes: dog 25.0% of 10; {means}"


@pytest.mark.parametrize(("counts", "correct"), [(None, [(1, 2, 0)]), (COUNTS, []), (COUNTS, [(1, 2, 0), ()])])
def test_what_was_not_recorded_has_no_accuracy_by_class(counts: ClassCounts | None, correct: list[Any]) -> None:
    assert by_class(counts, correct) == ()
    assert by_class_words(()) == ""


def test_the_balanced_accuracy_leaves_out_classes_without_images() -> None:
    assert balanced_accuracy((30, 0, 0), (30, 10, 0)) == 0.5
    assert np.isnan(balanced_accuracy((0, 0), (0, 0)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search with a final on unbalanced images, and its bundle."""
    folder = tmp_path_factory.mktemp("unbalanced")
    study = budgetnas.search(data=unbalanced()[0], storage=folder / "budgetnas.db", finalists=1, final_seeds=2, **SMALL)
    study.report(folder / "report.html")
    study.export(out=folder / "bundle", progress=False, device="cpu")
    return folder


def opened(folder: Path) -> Records:
    return open_records(parse_storage(f"sqlite:///{folder}/budgetnas.db"), must_exist=True)


def test_a_search_and_its_final_record_the_classes(finished: Path) -> None:
    with closing(opened(finished)) as records:
        runs = records.runs(study="s")
        (final,) = records.finals("s")
        results = records.test_results(final.id)
        data = json.loads(json.dumps(runs[0].data))
        identity = budgetnas.open_study("s", storage=finished / "budgetnas.db").specification.data
        assert records.class_counts(identity.digest(), "validation") == ClassCounts(("many", "some", "few"), (32, 8, 4))
        test = records.class_counts(identity.digest(), "test")
        assert records.class_counts("other", "test") is None
        curves = records.curves(run.id for run in runs)
    assert data and test == ClassCounts(("many", "some", "few"), (24, 6, 3))
    evaluated = [epoch for curve in curves.values() for epoch in curve if epoch.eval_correct]
    assert len(evaluated) == 2 * 2 + 2 * 2, "the last trainings of a final are not evaluated after their epochs"
    for epoch in evaluated:
        assert sum(epoch.eval_correct) / 44 == epoch.eval_accuracy
        assert epoch.eval_balanced_accuracy == balanced_accuracy(epoch.eval_correct, (32, 8, 4))
    assert len(results) == 2
    for result in results.values():
        assert sum(result.correct) / 33 == result.accuracy
        assert result.balanced_accuracy == balanced_accuracy(result.correct, test.images)


def test_the_winner_has_an_accuracy_by_class_that_adds_up(finished: Path) -> None:
    tables = budgetnas.open_study("s", storage=finished / "budgetnas.db").tables
    chosen, final = tables.chosen, tables.final
    assert chosen is not None and final is not None and final.winner is not None
    for rows, accuracy in ((chosen.by_class, chosen.accuracy), (final.winner.test_by_class, final.winner.mean_test)):
        correct = sum((row.accuracy or 0.0) * row.images for row in rows)
        assert correct / sum(row.images for row in rows) == pytest.approx(accuracy)
    shown = json.loads(json.dumps(tables.to_dict()))
    assert shown["classes"]["commonest_class"] == {"class": "many", "share": 32 / 44}
    assert [row["name"] for row in shown["chosen"]["by_class"]] == ["many", "some", "few"]
    assert shown["final"]["test_classes"]["images"] == {"many": 24, "some": 6, "few": 3}
    assert [row["images"] for row in shown["final"]["winner"]["test_by_class"]] == [24, 6, 3]


def test_every_reader_sees_the_share_of_the_commonest_class(finished: Path) -> None:
    study = budgetnas.open_study("s", storage=finished / "budgetnas.db")
    assert "commonest class many: 72.73% of the images" in repr(study)
    shown = run(finished, "show", "s").stdout
    assert "commonest class many: 72.73% of the validation images" in shown
    assert "commonest class many: 72.73% of the test images" in shown
    assert "by class: many " in shown and "of 24, some " in shown
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "(commonest class many: 72.73% of these images)" in page
    assert page.count("The commonest class, many, has 72.73 % of the images") == 2
    assert "By class, on the validation split" in page and "By class, on the test split" in page
    card = (finished / "bundle" / "README.md").read_text(encoding="utf-8")
    assert "The commonest class, many, has 72.73% of the test images" in card
    assert "By class: many " in card


def test_a_study_without_recorded_classes_shows_none(finished: Path, tmp_path: Path) -> None:
    """Such as one that a program made through the functions below a search."""
    (tmp_path / "budgetnas.db").write_bytes((finished / "budgetnas.db").read_bytes())
    with closing(opened(tmp_path)) as records, records.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM class_counts")
    tables = budgetnas.open_study("s", storage=tmp_path / "budgetnas.db").tables
    assert tables.classes is None and tables.chosen is not None and tables.chosen.by_class == ()
    assert "commonest" not in run(tmp_path, "show", "s").stdout
