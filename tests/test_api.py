"""`import budgetnas`: searches on digits, in threads, interrupted, and with a running event loop."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import reference
from small import environment, run

import budgetnas
from budgetnas.api.arguments import run_number
from budgetnas.searching.options import SearchOptions
from budgetnas.space.recipe import EXTRAS
from budgetnas.storage import State

SMALL: dict[str, Any] = {
    "data": "digits",
    "budget": "6k",
    "subset": 200,
    "subset_eval": 100,
    "epochs": 2,
    "batch_size": 50,
    "trials": 2,
    "space": {"blocks": [[1, 2], [1, 1]], "widths": [4, 6, 8, 10, 12]},
    "device": "cpu",
    "progress": False,
}
HEAVY = {"torch", "optuna", "numpy", "typer", "sqlalchemy"}


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("call", ["pass", "budgetnas.count('v2').params", "budgetnas.fit('resnet18', budget=5e6)"])
def test_importing_and_counting_import_nothing_heavy(call: str) -> None:
    code = f"import sys, budgetnas; {call}; print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_those_of_the_stub() -> None:
    stub = Path(budgetnas.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    found = {
        name: module for module, name in re.findall(r"^from budgetnas\.(\S+) import \w+ as (\w+)$", stub, re.MULTILINE)
    }
    assert found == budgetnas._MODULES
    assert set(dir(budgetnas)) >= set(budgetnas.__all__)
    with pytest.raises(AttributeError, match="'sarch'"):
        budgetnas.sarch  # noqa: B018


def test_no_public_name_is_hidden_by_a_package_of_that_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(budgetnas.__path__)}
    assert not modules & set(budgetnas._MODULES)


def test_the_arguments_of_a_search_are_options() -> None:
    names = set(inspect.signature(budgetnas.search).parameters) - {"study_file", "queue", "progress"}
    assert {name.replace("batch_size", "batch") for name in names} <= set(SearchOptions.model_fields)


def test_count_and_fit_give_what_the_commands_print(tmp_path: Path) -> None:
    printed = run(tmp_path, "count", "--blocks", "2,2", "--widths", "8,16", "--budget", "5k", "--json")
    counted = budgetnas.count(blocks=(2, 2), widths="8,16", budget=5e3)
    assert counted.to_dict() == json.loads(printed.stdout)
    assert counted.fits is False and counted.excesses[0].amount == counted.params - 5000
    assert budgetnas.count(counted.architecture).counts == counted.counts
    printed = run(tmp_path, "fit", "resnet18", "--budget", "5M", "--json")
    found = budgetnas.fit("resnet18", budget="5M")
    assert [near.counts.params for near in found] == [near["params"] for near in json.loads(printed.stdout)]


def test_a_search_gives_a_study(tmp_path: Path) -> None:
    study = budgetnas.search(**SMALL)
    assert study.name == "digits-6k"
    first, second = study.trials
    assert first.state is State.COMPLETE and first.accuracy is not None and first.epochs == 2
    assert second.params == budgetnas.count(second.architecture).params <= 6000
    assert study.trials[-1:] == (second,)
    best = study.best
    assert best is not None and best.params in (first.params, second.params)
    shown = json.loads(run(tmp_path, "show", "digits-6k", "--json").stdout)
    assert study.tables.to_dict() == shown
    assert "2 trials trained" in repr(study)
    assert repr(best).startswith(f"<Chosen {best.name!r} of the search: ") and f"{best.params:,} param" in repr(best)
    assert repr(study.tables).startswith("<StudyTables of 'digits-6k': 2 candidates") and len(repr(study.tables)) < 300
    assert budgetnas.open_study("digits-6k") != study, "it does not know where the data are"
    assert budgetnas.open_study("digits-6k").trials == study.trials
    more = budgetnas.search(**SMALL | {"trials": 3})
    assert more.trials[:2] == study.trials[:2] and len(more.trials) == 3


def test_a_search_is_the_search_of_the_command_line(tmp_path: Path) -> None:
    study = budgetnas.search("digits-demo", epochs=1, trials=1, subset=100, device="cpu", progress=False)
    arguments = ("--epochs", "1", "--trials", "1", "--subset", "100", "--device", "cpu", "--storage", "other.db")
    assert run(tmp_path, "search", "digits-demo", *arguments).returncode == 0
    other = budgetnas.open_study(study.name, storage="other.db")
    assert [trial.to_dict() | {"seconds": 0} for trial in other.trials] == [
        trial.to_dict() | {"seconds": 0} for trial in study.trials
    ]


def test_progress_is_shown_on_stderr_or_not_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    budgetnas.search(**SMALL | {"trials": 1})
    assert capsys.readouterr() == ("", "")
    budgetnas.search(**SMALL | {"trials": 2, "progress": True})
    out, err = capsys.readouterr()
    assert out == "" and "trained 2/2" in err


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: budgetnas.search(progress=False), "budget: is missing: the limit on parameters; add e.g. budget=5e6"),
        (lambda: budgetnas.search(budget="6k", batch_size=1), "batch_size 1: must be a whole number from 2 to 65,536"),
        (lambda: budgetnas.search(budget="6k", space={"blx": 1}), "search: space.blx 1: there is no such key"),
        (lambda: budgetnas.search("no-such"), "study_file 'no-such': no study file of that name"),
        (lambda: budgetnas.open_study("x", storage="no.db"), "storage '"),
        (
            lambda: budgetnas.count("v2", max_macs=3),
            "max_macs 3: needs budget, the limit on parameters; add",
        ),
        (
            lambda: budgetnas.fit("v2"),
            "budget: is missing: the limit on parameters; add",
        ),
        (lambda: budgetnas.count(), 'network: is missing; give a name, e.g. "v2", or blocks and widths'),
        (lambda: budgetnas.count(18), "network 18: must be the name of a network, or an Architecture"),
        (lambda: budgetnas.count("v2", size="32"), "size '32': must be a whole number from 1 to 1,024"),
        (lambda: budgetnas.count(blocks=1.5, widths=8), "blocks '1.5': must be whole numbers"),
        (lambda: budgetnas.fit("v2", budget="2M", top="3"), "top '3': must be a whole number"),
        (lambda: budgetnas.search(data=Path("photos")), "data 'PosixPath': must be a name, a pair"),
        (lambda: budgetnas.search(data=("photos",)), "data 'tuple': must be a name, a pair"),
        (lambda: budgetnas.replay(["v2-sgd"]), "names ['v2-sgd']: no recorded run has that name"),
        (lambda: budgetnas.search(budget="6k", data_dir=3), "data_dir 3: must be a path"),
        (lambda: budgetnas.search(budget="6k", trials=2.5), "trials 2.5: must be a whole number"),
        (lambda: budgetnas.search(budget="6k", data="digits", seeds=["foo"]), "seeds 'foo': "),
        (lambda: budgetnas.search(budget="6k", seeds=["v1-sgd", 3]), "seeds 3: must be text"),
        (lambda: budgetnas.open_study("x", data_dir=3), "data_dir 3: must be a path: text or a pathlib.Path; write"),
        (lambda: budgetnas.open_study(None), "name: must be text: the name of a study, not None; write e.g."),
        (lambda: budgetnas.replay("v2-sgd", out=3), "out 3: must be a path: text or a pathlib.Path; write"),
        (lambda: budgetnas.replay("v2-sgd", device=None), "device: must be auto, cpu, cuda, cuda:N or mps, not None"),
        (lambda: budgetnas.replay("v2-sgd", seed="0"), "seed '0': must be a whole number"),
        (lambda: budgetnas.replay("v2-sgd", epochs="1"), "epochs '1': must be a whole number"),
        (lambda: budgetnas.replay("v2-sgd", subset=1.5), "subset 1.5: must be a whole number"),
    ],
)
def test_errors_name_arguments_of_python(call: Any, words: str) -> None:
    with pytest.raises(budgetnas.InputError, match=f"^{re.escape(words)}") as caught:
        call()
    assert isinstance(caught.value, ValueError)
    assert "--" not in str(caught.value)


MISUSES: list[tuple[Any, str]] = [
    (lambda study: study.finish(device=None), "device: must be auto, cpu, cuda, cuda:N or mps, not None; leave it out"),
    (lambda study: study.finish(finalists=2.5), "finalists 2.5: must be a whole number"),
    (lambda study: study.finish(final_seeds="a"), "final_seeds 'a': must be a whole number"),
    (lambda study: study.rename(None), "name: must be text: the name of a study, not None; write e.g."),
    (lambda study: study.report(3), "out 3: must be a path: text or a pathlib.Path; write e.g."),
    (lambda study: study.export(out=3), "out 3: must be a path: text or a pathlib.Path; write e.g."),
    (lambda study: study.export(run=True), "run True: must be a trial or run of the study, study.best, or the number"),
    (lambda study: study.export(run="2"), "run '2': must be a trial or run of the study, study.best, or the number"),
]


def test_methods_of_a_study_name_their_arguments(tmp_path: Path) -> None:
    study = budgetnas.search(**SMALL | {"trials": 1})
    for call, words in MISUSES:
        with pytest.raises(budgetnas.InputError, match=f"^{re.escape(words)}"):
            call(study)
    best = study.best
    assert best is not None and run_number(best) == run_number(best.run) == run_number(study.trials[0]) == 1
    assert run_number(np.int64(1)) == 1 and run_number(None) is None
    assert not list(tmp_path.glob("*bundle*"))


def test_a_search_leaves_the_log_of_optuna_as_it_was() -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        budgetnas.search(**SMALL | {"trials": 1})
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
        with pytest.raises(budgetnas.InputError, match="budget was 6000, now 7000"):
            budgetnas.search(study="digits-6k", budget=7000, progress=False)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(before)


def test_a_study_that_was_renamed_or_deleted_says_so_in_a_notebook() -> None:
    study = budgetnas.search(**SMALL | {"trials": 1, "objective": "balanced-accuracy"})
    for html in (study._repr_html_(), study.trials._repr_html_()):
        assert "<th>balanced validation accuracy</th>" in html and "<th>validation</th>" not in html
    renamed = study.rename("second")
    assert "<b>digits-6k</b>: " in study._repr_html_() and "no study of that name" in study._repr_html_()
    renamed.delete()
    assert "no study of that name" in renamed._repr_html_()


def test_whole_numbers_of_numpy_and_of_a_single_stage() -> None:
    counted = budgetnas.count(blocks=2, widths=np.int64(8), size=np.int64(28), classes=np.int64(10))
    assert counted.architecture == budgetnas.count(blocks="2", widths="8", size=28).architecture
    assert budgetnas.Architecture.from_json(counted.architecture.to_json()) == counted.architecture


def test_an_unknown_study_and_a_changed_one_are_errors() -> None:
    budgetnas.search(**SMALL | {"trials": 1})
    with pytest.raises(budgetnas.InputError, match=r"^name 'nope': is not in this storage; its studies: digits-6k"):
        budgetnas.open_study("nope")
    with pytest.raises(budgetnas.InputError, match=r"budget was 6000, now 7000.* use another name with study$"):
        budgetnas.search(study="digits-6k", budget=7000, progress=False)


def test_a_search_in_a_thread_of_a_running_event_loop() -> None:
    before = signal.getsignal(signal.SIGINT)

    async def main() -> tuple[budgetnas.Study, int]:
        ticks, search = 0, asyncio.create_task(asyncio.to_thread(budgetnas.search, **SMALL))
        while not search.done():
            ticks += 1
            await asyncio.sleep(0.01)
        return await search, ticks

    study, ticks = asyncio.run(main())
    assert len(study.trials) == 2 and ticks > 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_search_inside_a_coroutine() -> None:
    async def main() -> budgetnas.Study:
        return budgetnas.search(**SMALL)

    assert len(asyncio.run(main()).trials) == 2


def interrupt(number: int) -> None:
    """Send this process a signal as soon as an epoch is recorded."""

    def wait() -> None:
        while True:
            time.sleep(0.02)
            try:
                trials = budgetnas.open_study("digits-6k").trials
            except budgetnas.InputError:
                continue
            if any(trial.epochs for trial in trials):
                return os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_an_interrupted_search_resumes_with_the_same_call(
    number: int, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    long = SMALL | {"epochs": 60, "trials": 1}
    interrupt(number)
    with pytest.raises(error):
        budgetnas.search(**long | {"progress": True})
    assert "Stopped. Every finished epoch is saved. The same call resumes." in capsys.readouterr().err
    (stopped,) = budgetnas.open_study("digits-6k").trials
    assert stopped.state is State.INTERRUPTED and 0 < stopped.epochs < 60
    (resumed,) = budgetnas.search(**long).trials
    assert resumed.state is State.COMPLETE and resumed.number == stopped.number and resumed.run == stopped.run


def test_a_time_limit_ends_a_search_early_without_an_error() -> None:
    study = budgetnas.search(**SMALL | {"epochs": 400, "trials": 50, "timeout": 1})
    assert len(study.trials) < 50


def test_trials_as_a_data_frame_of_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    study = budgetnas.search(**SMALL | {"trials": 1})
    frame = study.trials.to_dataframe()
    assert frame.to_dict("records") == [trial.to_dict() for trial in study.trials]
    (trial,) = study.trials
    row = trial.to_dict()
    assert {name: row[name] for name in EXTRAS} == {name: trial.recipe.extra(name) for name in EXTRAS}
    assert (row["stem_width"], row["se"]) == (trial.architecture.stem_width, trial.architecture.se)
    assert row["nesterov"] == trial.recipe.nesterov and row["cutout"] == trial.recipe.augmentation.cutout
    assert frame["accuracy"].dtype == float and frame["params"].dtype == int
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(budgetnas.BudgetnasError, match="pandas is not installed; install it"):
        study.trials.to_dataframe()


@pytest.mark.slow
def test_a_study_is_finished_shown_reported_and_exported(tmp_path: Path) -> None:
    study = budgetnas.search(**SMALL)
    with pytest.raises(budgetnas.InputError, match=r"^study 'digits-6k': has no final yet; call finish\(\) first"):
        study.export(progress=False)
    with pytest.raises(budgetnas.InputError, match=r"^final_seeds 1: must be"):
        study.finish(final_seeds=1)
    searched = study.best
    assert searched is not None and not searched.by_final
    bundle = study.export(run=searched, out="searched", progress=False)
    assert json.loads((bundle / "metrics.json").read_text(encoding="utf-8"))["split"] == "validation"
    result = study.finish(finalists=1, final_seeds=2, device="cpu", progress=False)
    assert result.winner is not None and len(result.winner.test) == 2
    opened = budgetnas.open_study("digits-6k")
    assert opened.finish(finalists=1, final_seeds=2, device="cpu", progress=False) == result, "nothing is trained"
    best = opened.best
    assert best is not None and best.by_final and best.seeds == 2
    figures = study.figures()
    assert {"history", "winner"} <= set(figures)
    assert figures["history"].layout.title.text
    assert study.report() == Path("digits-6k-report.html")
    assert study.report(tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(budgetnas.InputError, match=r"^out '.*': is a folder"):
        study.report(tmp_path)
    network, _ = budgetnas.load(study.export(out="bundle", pt=True, progress=False))
    assert sum(parameter.numel() for parameter in network.parameters()) == budgetnas.count(best.architecture).params
    assert Path("bundle/model.pt").exists()
    with pytest.raises(budgetnas.InputError, match=r"^device 'gpu': must be auto"):
        study.export(out="other", device="gpu", progress=False)  # its weights are stored, so no device is needed
    of_final = study.export(run=best, out="best", progress=False)
    weights = [folder / "weights.safetensors" for folder in (of_final, Path("bundle"))]
    assert weights[0].read_bytes() == weights[1].read_bytes(), "the network that the final recommends"
    with pytest.raises(budgetnas.InputError, match=r"^out 'bundle'.*force"):
        study.export(out="bundle", progress=False)


@pytest.mark.slow
def test_a_replay_gives_what_the_command_prints(tmp_path: Path) -> None:
    small: dict[str, Any] = {"data": "digits", "epochs": 1, "subset": 20, "subset_eval": 20}
    (result,) = budgetnas.replay("v2-sgd", **small, device="cpu", out="page.html", progress=False)
    assert result.why_not and Path("page.html").exists()
    options = ("--data", "digits", "--epochs", "1", "--subset", "20", "--subset-eval", "20", "--device", "cpu")
    (printed,) = json.loads(run(tmp_path, "replay", "v2-sgd", *options, "--json").stdout)
    assert result.comparison() == {name: value for name, value in printed.items() if name != "page"}
    with pytest.raises(budgetnas.InputError, match=r"^names: name a recorded run"):
        budgetnas.replay()
    with pytest.raises(budgetnas.InputError, match=r"^all_runs: cannot be combined with names"):
        budgetnas.replay("v2-sgd", all_runs=True)


def test_the_reference_is_that_of_the_docstrings() -> None:
    page = reference.PAGE.read_text(encoding="utf-8")
    begin, rest = page.split(reference.BEGIN)
    assert rest.partition(reference.END)[0] == f"\n{reference.reference()}", "run python tests/reference.py"
    assert begin.rstrip().endswith("## Reference")


def test_every_argument_is_documented() -> None:
    for name, value in reference.documented().items():
        members = vars(value).values() if name in ("Counted", "Study", "Trial", "Trials") else [value]
        for function in (member for member in members if inspect.isfunction(member)):
            if function.__name__.startswith("_"):
                continue
            arguments = [argument for argument, _ in reference.entries(reference.sections(function).get("Args", ""))]
            parameters = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
            assert arguments == parameters, function


@pytest.mark.slow
def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    page = reference.PAGE.read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "page.py").write_text("\n".join(examples), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
