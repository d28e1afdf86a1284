from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from PIL import Image
from quiet import Quiet
from small import run, run_fresh, study_file
from sqlalchemy import delete, select, update

import budgetnas
from budgetnas.api.final_int8 import evaluate_int8_of_final
from budgetnas.architecture import named
from budgetnas.bundle import contents
from budgetnas.bundle.chosen import ExportRequest, choose_run
from budgetnas.bundle.export import Exported, export
from budgetnas.bundle.figures import metrics_of
from budgetnas.bundle.loading import load
from budgetnas.bundle.provenance import data_sentences, provenance_of
from budgetnas.bundle.retraining import Weights, recorded_runtime
from budgetnas.cli.final_text import final_lines
from budgetnas.data import DataRequest, load_data
from budgetnas.errors import InputError
from budgetnas.experiments.final import finish
from budgetnas.experiments.final_plan import FinishRequest
from budgetnas.experiments.final_results import FinalResult, final_result
from budgetnas.metrics import Int8Reading
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.reopen import DataPlace
from budgetnas.space.specification import ChoiceProtocol
from budgetnas.storage import Records, Role, Run, State, tables
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage
from budgetnas.training import CpuFacts, RuntimeConfig, runtime_rules

REPLAYED = ("replay", "v2-sgd", "--data", "digits", "--subset", "60", "--subset-eval", "50", "--epochs", "2")


@dataclass
class View(Quiet):
    again: list[int] = field(default_factory=list)

    def on_retraining(self, run: Run, runtime: RuntimeConfig) -> None:
        self.again.append(run.id)

    def on_final_start(self, result: FinalResult, *, resumed: bool) -> None:
        pass

    def on_final_run(self, training: object) -> None:
        pass


@contextmanager
def opened(database: Path) -> Iterator[Records]:
    with closing(open_records(parse_storage(f"sqlite:///{database}"), must_exist=True)) as records:
        yield records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a search of two runs and a replay in one storage."""
    folder = tmp_path_factory.mktemp("searched")
    searched = run(folder, "search", study_file(folder, study='"s"', trials="2"))
    assert searched.returncode == 0, searched.stderr
    replayed = run(folder, *REPLAYED)
    assert replayed.returncode == 0, replayed.stderr
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> Iterator[Records]:
    """Its records after a final."""
    with opened(folder / "budgetnas.db") as records:
        with pytest.raises(InputError, match=r"no final yet; run budgetnas finish s first, or export .* --run N"):
            choose_run(records, ExportRequest(DataPlace(), "s"))
        request = FinishRequest("s", DataPlace(), ChoiceProtocol(finalists=1, seeds=2))
        finish(request, records, runtime_rules("cpu", "float32"), Stopper(), View())
        yield records


def exported(records: Records, out: Path, view: View | None = None, **request: object) -> tuple[Exported, dict]:
    asked = ExportRequest(DataPlace(), out=out, **request)
    done = export(asked, records, Stopper(), view or View())
    return done, json.loads((out / contents.METRICS).read_text())


def weights_in(folder: Path) -> bytes:
    return (folder / contents.WEIGHTS).read_bytes()


def test_a_study_exports_the_winner_of_its_final(finished: Records, tmp_path: Path) -> None:
    result = final_result(finished, "s")
    assert result is not None and result.winner is not None and result.shipped_run is not None
    view = View()
    done, metrics = exported(finished, tmp_path / "b", view, study="s")
    assert (done.chosen.run.id, view.again, done.weights.describe()) == (
        result.shipped_run,
        [],
        "stored with the record",
    )
    assert weights_in(tmp_path / "b") == finished.weights(result.shipped_run)
    test = result.winner.test
    assert (metrics["kind"], metrics["split"], metrics["n"], metrics["seeds"]) == ("final", "test", 2, [2000, 2001])
    assert metrics["accuracy"] == statistics.fmean(test)
    assert metrics["standard_deviation"] == statistics.stdev(test)
    assert metrics["details"]["this_network"] == test[0]
    assert metrics["details"]["final"] == json.loads(json.dumps(result.to_dict()))
    assert metrics["trained_again"] is None
    certificate = json.loads((tmp_path / "b" / contents.CERTIFICATE).read_text())
    assert (certificate["budget"], certificate["fits"]) == (6_000, True)
    assert certificate["total"]["built"] == result.winner.run.params


def test_the_card_and_the_provenance_have_the_notices_on_the_data(finished: Records) -> None:
    copies = "12 of 24 test images are copies of training images, so test accuracies are too high"
    loaded = load_data(DataRequest("digits", subset=200, subset_eval=100))
    data = replace(loaded, notices=("--data-dir /home/me is not used: digits needs no downloaded archive", copies))
    chosen = choose_run(finished, ExportRequest(DataPlace(), "s"))
    sentences, origin = data_sentences(chosen, data), provenance_of(chosen, data)["data"]
    assert f"Note: {copies}." in sentences and "/home/me" not in " ".join(sentences)
    assert origin["notices"] == [copies]
    assert (list(origin["splits"]), origin["test_images"]) == (["train", "validation"], 100)
    replayed = choose_run(finished, ExportRequest(DataPlace(), replay="v2-sgd"))
    origin = provenance_of(replayed, data)["data"]
    assert (list(origin["splits"]), origin["test_images"]) == (["train", "validation", "all_train"], None)


def test_packages_that_cannot_export_are_reported_before_a_training(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "onnxscript"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('this onnxscript is too old')")
    path = os.pathsep.join([str(broken.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = run_fresh(folder, "export", "s", "--run", "1", "--out", str(tmp_path / "b"), PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("budgetnas: the installed packages cannot write an ONNX file (torch ")
    assert "this onnxscript is too old" in line
    assert line.endswith("pip install --upgrade onnx onnxscript onnxruntime")
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_missing_weights_are_retrained_to_the_same_bits(finished: Records, tmp_path: Path) -> None:
    result = final_result(finished, "s")
    assert result is not None and result.shipped_run is not None
    (replayed,) = finished.runs(role=Role.REPLAY)
    for number, request in ((result.shipped_run, {"study": "s"}), (replayed.id, {"replay": "v2-sgd"})):
        kept = finished.weights(number)
        assert kept is not None, "finals and replays keep their weights"
        with finished.engine.begin() as connection:
            connection.execute(delete(tables.weights).where(tables.weights.c.run == number))
        view = View()
        try:
            done, metrics = exported(finished, tmp_path / str(number), view, **request)
        finally:
            finished.save_weights(number, kept)
        assert view.again == [number] and len(view.epochs) == 2
        assert weights_in(tmp_path / str(number)) == kept
        assert metrics["trained_again"]["equal"] is True and done.weights.equal
        assert metrics["trained_again"]["again"]["eval_loss"] is None, "no test split, and no validation images left"


def test_a_run_of_a_search_explains_its_accuracy(finished: Records, tmp_path: Path) -> None:
    first = finished.runs(study="s", role=Role.SEARCH)[0]
    view = View()
    done, metrics = exported(finished, tmp_path / "b", view, study="s", run=first.id)
    assert view.again == [first.id]
    accuracy = finished.curve(first.id)[-1].eval_accuracy
    assert (metrics["kind"], metrics["split"], metrics["accuracy"]) == ("search", "validation", accuracy)
    assert (metrics["n"], metrics["seeds"], metrics["standard_deviation"]) == (1, [first.seed], None)
    assert any(
        "if it was chosen for being the best, its accuracy is optimistic" in sentence
        for sentence in metrics["sentences"]
    )
    assert metrics["trained_again"]["equal"] is True
    data = load_data(DataRequest("digits", subset=200, subset_eval=100))
    found = load(tmp_path / "b").predict(list(data.validation.images[:, 0]))
    right = sum(one.best == str(label) for one, label in zip(found, data.validation.labels, strict=True))
    assert right / len(found) == accuracy, "the recorded accuracy is that of the bundle's network"
    provenance = json.loads((tmp_path / "b" / contents.PROVENANCE).read_text())
    assert provenance["run"]["number"] == first.id and provenance["data"]["digest"] == data.identity.digest()
    assert provenance["data"]["trained_on"] == "train"
    assert provenance["data"]["splits"]["validation"]["images"] == 100
    assert done.bundle.onnx.images == 100
    recipe = json.loads((tmp_path / "b" / contents.RECIPE).read_text())
    assert recipe == first.recipe.model_dump(mode="json")


def test_a_retraining_with_other_figures_is_reported(finished: Records, tmp_path: Path) -> None:
    first = finished.runs(study="s", role=Role.SEARCH)[0]
    one = tables.epochs.c
    last = finished.curve(first.id)[-1]
    written = update(tables.epochs).where(one.run == first.id, one.epoch == last.epoch)
    view = View()
    with finished.engine.begin() as connection:
        connection.execute(written.values(train_loss=last.train_loss + 1e-9))
    try:
        _, metrics = exported(finished, tmp_path / "b", view, study="s", run=first.id)
    finally:
        with finished.engine.begin() as connection:
            connection.execute(written.values(train_loss=last.train_loss))
    assert metrics["trained_again"]["equal"] is False
    assert any("DIFFER from the record's: train_loss" in notice for notice in (*view.notices, *metrics["sentences"]))


def test_a_replay_explains_its_accuracy(finished: Records, tmp_path: Path) -> None:
    done, metrics = exported(finished, tmp_path / "b", replay="V2-sgd")
    (replayed,) = finished.runs(role=Role.REPLAY)
    assert (done.chosen.run.id, metrics["kind"], metrics["split"]) == (replayed.id, "replay", "test")
    assert metrics["accuracy"] == finished.curve(replayed.id)[-1].eval_accuracy
    assert any("NOT COMPARABLE" in sentence for sentence in metrics["sentences"])
    assert metrics["details"]["beside_the_report"]["printed_test"] == 94.21
    certificate = json.loads((tmp_path / "b" / contents.CERTIFICATE).read_text())
    assert (certificate["budget"], certificate["fits"]) == (None, None)
    preprocessing = load(tmp_path / "b").preprocessing
    assert preprocessing.normalisation.mean == pytest.approx([(0.4914 + 0.4822 + 0.4465) / 3], abs=1e-3)


def test_other_networks_of_a_final_have_their_own_accuracy(finished: Records, tmp_path: Path) -> None:
    result = final_result(finished, "s")
    assert result is not None and result.winner is not None
    by_seed = {run.seed: run for run in finished.runs(study="s", role=Role.FINAL)}
    _, metrics = exported(finished, tmp_path / "second", study="s", run=by_seed[2001].id)
    accuracy = result.winner.test[1]
    assert (metrics["split"], metrics["accuracy"], metrics["n"], metrics["images"]) == ("test", accuracy, 1, 100)
    sentences = " ".join(metrics["sentences"])
    assert "if it was chosen by its test accuracy, that is optimistic." in sentences
    assert (
        f"(100 images) leaves a standard error of {10 * math.sqrt(accuracy * (1 - accuracy)):.2f} points." in sentences
    )
    assert "was evaluated on the test split" not in sentences, "a single evaluation"
    card = (tmp_path / "second" / contents.CARD).read_text()
    assert f"{100 * accuracy:.2f} % on test (n = 1, seed 2001; 100 images)." in card
    _, metrics = exported(finished, tmp_path / "fresh", study="s", run=by_seed[1000].id)
    assert (metrics["split"], metrics["accuracy"], metrics["images"]) == (
        "validation",
        result.winner.validation[0],
        100,
    )


def test_a_tested_network_of_a_study_with_several_evaluations_says_so(
    finished: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = next(run for run in finished.runs(study="s", role=Role.FINAL) if run.seed == 2001)
    monkeypatch.setattr(finished, "finals_read", lambda study: 2)
    chosen = choose_run(finished, ExportRequest(DataPlace(), "s", second.id))
    metrics = metrics_of(chosen, Weights(b"", finished.curve(second.id)[-1]), finished)
    assert (
        "This study was evaluated on the test split 2 times; only the first evaluation is unbiased."
        in metrics.sentences
    )


def test_an_evaluation_of_an_int8_file_has_the_accuracy_of_the_network_in_float(finished: Records) -> None:
    result = final_result(finished, "s")
    assert result is not None and result.winner is not None and result.shipped_run is not None
    with finished.engine.begin() as connection:
        before = connection.execute(select(tables.test_readings.c.id)).scalars().all()
    finished.record_int8_reading(result.number, finished.run(result.shipped_run), Int8Reading("0" * 64, 0.25))
    try:
        evaluated = final_result(finished, "s")
        assert evaluated is not None
        assert evaluated.int8 == Int8Reading("0" * 64, 0.25, float_accuracy=result.winner.test[0])
        beside = f"accuracy 25.00%; the same network in float has {result.winner.test[0]:.2%}"
        assert beside in " ".join(final_lines(evaluated))
    finally:
        with finished.engine.begin() as connection:
            connection.execute(delete(tables.test_readings).where(tables.test_readings.c.id.not_in(before)))


@pytest.mark.slow
def test_an_int8_file_is_evaluated_on_the_test_split_once_and_exported(finished: Records, tmp_path: Path) -> None:
    before = final_result(finished, "s")
    assert before is not None and before.winner is not None and before.shipped_run is not None
    readings = finished.test_readings(before.shipped_run)
    _, metrics = exported(finished, tmp_path / "early", study="s", int8=True)
    assert metrics["int8"]["test"] is None and metrics["int8"]["trained_on"]
    results = [
        evaluate_int8_of_final("s", DataPlace(), finished, Stopper(), on_progress=lambda _: None) for _ in range(2)
    ]
    assert results[0] == results[1]
    reading = results[0].int8
    assert reading is not None and 0 < reading.accuracy <= 1
    assert finished.test_readings(before.shipped_run) == readings + 1, "the second call reads nothing"
    assert (results[0].winner, results[0].readings) == (before.winner, before.readings), "it is no reading of a final"
    assert f"int8 file of the winner's exported network (export --int8): accuracy {reading.accuracy:.2%}" in " ".join(
        final_lines(results[0])
    )
    _, metrics = exported(finished, tmp_path / "b", study="s", int8=True)
    assert metrics["int8"]["sha256"] == reading.sha256 == metrics["int8"]["test"]["sha256"], "the same file again"
    assert (tmp_path / "b" / contents.INT8).stat().st_size == metrics["int8"]["sizes"]["file"]
    assert "evaluated once, after the final" in (tmp_path / "b" / contents.CARD).read_text()


def test_invalid_exports_are_refused(finished: Records, tmp_path: Path) -> None:
    place = DataPlace()
    other = finished.runs(role=Role.REPLAY)[0].id
    for request, message in (
        (ExportRequest(place), "STUDY: is missing"),
        (ExportRequest(place, "s", replay="v2-sgd"), "cannot be combined with --replay"),
        (ExportRequest(place, run=1, replay="v2-sgd"), "--run 1: cannot be combined with --replay"),
        (ExportRequest(place, "t"), "is not in this storage; its studies: s"),
        (ExportRequest(place, "s", run=other), f"--run {other}: is not a run of study 's'; complete runs are 1, 2"),
        (ExportRequest(place, replay="v1-sgd"), "no complete replay in this storage; run budgetnas replay v1-sgd"),
        (ExportRequest(place, replay="v9"), "no recorded run has that name"),
    ):
        with pytest.raises(InputError) as caught:
            export(request, finished, Stopper(), View())
        assert message in str(caught.value)
    first = finished.runs(study="s", role=Role.SEARCH)[0]
    finished.finish_run(first.id, State.FAILED, "no memory")
    try:
        with pytest.raises(InputError, match=f"--run {first.id}: is failed, not complete"):
            choose_run(finished, ExportRequest(place, "s", first.id))
    finally:
        finished.finish_run(first.id, State.COMPLETE)


def test_other_data_are_refused(finished: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("a", "b"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        for index in range(650):
            Image.new("L", (8, 8), index % 256).save(tmp_path / "data" / "train" / name / f"{index}.png")
    place = DataPlace(f"folder:{tmp_path / 'data'}")
    for request, message in (
        (ExportRequest(place, "s"), "created with another specification"),
        (ExportRequest(place, replay="v2-sgd"), "differ from the data of replay 'v2-sgd'"),
    ):
        with pytest.raises(InputError, match=message):
            export(request, finished, Stopper(), View())


def test_a_record_is_retrained_in_its_own_runtime() -> None:
    recorded = RuntimeConfig("cpu", "float32", threads=3, micro_batch=16, layout="contiguous")
    assert recorded_runtime(recorded.to_json(), "auto", named("v2")) == recorded
    elsewhere = json.dumps(json.loads(recorded.to_json()) | {"device": "cuda:77", "graphs": True})
    for device in ("auto", "cpu"):
        again = recorded_runtime(elsewhere, device, named("v2"))
        assert (again.device, again.micro_batch, again.graphs) != ("cuda:77", 16, True)
        assert again.micro_batch == 16
    with pytest.raises(InputError, match="--device"):
        recorded_runtime(recorded.to_json(), "cuda:77", named("v2"))


@pytest.mark.parametrize("has_bf16", [False, True])
@pytest.mark.parametrize("device", ["cuda:77", "cpu"])
def test_a_precision_that_this_machine_lacks_is_replaced_by_float32(
    device: str, has_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = CpuFacts(bf16=has_bf16, threads=1)
    monkeypatch.setattr(CpuFacts, "of_this_process", lambda: facts)
    recorded = RuntimeConfig("cpu", "bf16", threads=1).to_json()
    elsewhere = json.dumps(json.loads(recorded) | {"device": device, "device_name": "another"})
    assert recorded_runtime(recorded, "auto", named("v2")).precision == "bf16", "its own machine, emulated or not"
    assert recorded_runtime(elsewhere, "cpu", named("v2")).precision == ("bf16" if has_bf16 else "float32")


def test_the_commands(finished: Records, folder: Path, tmp_path: Path) -> None:
    done = run(folder, "export", "s", "--out", str(tmp_path / "b"), "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["certificate"]["total"]["equal"] and value["onnx_check"]["same_class"] == 100
    again = run(folder, "export", "s", "--out", str(tmp_path / "b"))
    assert (again.returncode, "--force" in again.stderr, again.stdout) == (2, True, "")
    forced = run(folder, "export", "s", "--out", str(tmp_path / "b"), "--force", "--int8")
    assert forced.returncode == 0, forced.stderr
    for text in ("total", "equal", "stored with the record", "n = 2", "largest absolute difference", "agree on all"):
        assert text in forced.stdout
    for text in ("int8 file: Accuracy on all 100 validation images", "a loss of", "calibrated on 200 training images"):
        assert text in forced.stdout
    finished_int8 = run(folder, "finish", "s", "--int8", "--json")
    assert finished_int8.returncode == 0, finished_int8.stderr
    assert 0 <= json.loads(finished_int8.stdout)["int8"]["accuracy"] <= 1
    assert "Warning" not in forced.stderr and "Traceback" not in forced.stderr

    data = load_data(DataRequest("digits", subset=200, subset_eval=100))
    for index in range(3):
        Image.fromarray(data.validation.images[index, 0]).save(tmp_path / f"{index}.png")
    (tmp_path / "text.png").write_text("no image")
    bundle = budgetnas.load(tmp_path / "b")
    expected = bundle.predict([tmp_path / f"{index}.png" for index in range(3)])

    said = run(tmp_path, "predict", "b", "0.png", "1.png", "2.png", "--json", "--top", "2")
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert [item["image"] for item in found] == ["0.png", "1.png", "2.png"]
    assert [item["class"] for item in found] == [prediction.best for prediction in expected]
    assert all(len(item["top"]) == 2 and item["error"] is None for item in found)
    assert found[0]["top"][0]["probability"] == pytest.approx(expected[0].top(1)[0][1], abs=1e-6)

    mixed = run(tmp_path, "predict", "b", "0.png", "text.png", "1.png")
    assert mixed.returncode == 2
    assert "0.png" in mixed.stdout and "1.png" in mixed.stdout
    assert len(mixed.stderr.splitlines()) == 1 and "'text.png': cannot be read" in mixed.stderr

    (tmp_path / "b" / contents.ONNX).write_bytes(b"")
    for arguments, message in (
        (("predict", "b", "0.png"), "network.onnx is damaged"),
        (("predict", "nowhere", "0.png"), "is not a folder"),
        (("predict", "b", "0.png", "--top", "0"), "--top 0"),
    ):
        failed = run(tmp_path, *arguments)
        assert (failed.returncode, message in failed.stderr, failed.stdout) == (2, True, "")
