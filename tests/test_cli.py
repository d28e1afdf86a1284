from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from small import environment, run, run_fresh, study_file

from budgetnas.cli import app


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BUDGETNAS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = app.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_count_prints_parts_share_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, "count", "v2", "--budget", "5e6")
    assert code == 0
    for text in ("stage 4", "607,488", "12.1%", "1,891,658", "335,480,064", "542,720", "3,108,342 to spare"):
        assert text in out


def test_count_sets_networks_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, "count", "resnet18", "v2", "--budget", "5M")
    assert code == 3
    for text in ("11,173,962", "1,891,658", "over the budget", "6,173,962", "2-2-2-2", "64-128-128-128"):
        assert text in out


def test_count_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = called(capsys, "count", "v1", "--json")
    one = json.loads(out)
    assert one.keys() >= {"name", "params", "macs", "activations", "parts", "budget", "fits"}
    assert (one["name"], one["params"], one["budget"], one["fits"]) == ("v1", 4_903_242, None, None)
    _, out, _ = called(capsys, "count", "v1", "resnet50", "--budget", "5e6", "--json")
    assert [(each["budget"], each["fits"]) for each in json.loads(out)] == [(5_000_000, True), (5_000_000, False)]


def test_count_against_several_limits(capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys, "count", "v1", "--budget", "5e6", "--max-macs", "300M")[0] == 0
    limits = ("--budget", "5e6", "--max-macs", "300M", "--max-activations", "600e3")
    code, out, _ = called(capsys, "count", "v2", *limits)
    assert code == 3
    told = " ".join(out.split())
    assert "Over the budget: 335,480,064 of 300,000,000 multiply-accumulates, 35,480,064 too many (1.12 x)." in told
    for text in ("share of 5M", "share of 300M", "share of 600k", "111.8%", "90.5%"):
        assert text in told
    code, out, _ = called(capsys, "count", "v1", "resnet18", *limits)
    assert code == 3
    told = " ".join(out.split())
    for text in (
        "verdict fits over the budget",
        "excess parameters 0 6,173,962",
        "excess activations 0 14,400",
    ):
        assert text in told


def test_count_against_several_limits_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, "count", "v2", "--budget", "5e6", "--max-macs", "300M", "--json")
    one = json.loads(out)
    assert (code, one["budget"], one["max_macs"], one["max_activations"], one["fits"]) == (
        *(3, 5_000_000, 300_000_000),
        *(None, False),
    )
    assert one["excesses"] == [{"quantity": "macs", "count": 335_480_064, "most": 300_000_000, "over": 35_480_064}]
    code, out, _ = called(capsys, "count", "v2", "--json")
    assert (code, json.loads(out)["max_macs"], json.loads(out)["excesses"]) == (0, None, None)


def test_count_of_a_described_network(capsys: pytest.CaptureFixture[str]) -> None:
    stages = ("--blocks", "3,4,6,3", "--widths", "64,128,256,512")
    code, out, _ = called(capsys, "count", *stages, "--block", "bottleneck", "--json")
    assert (code, json.loads(out)["params"]) == (0, 23_520_842)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["count", "v3"], ["NAME 'v3'", "known are v1", "--blocks"]),
        (["count"], ["NAME", "is missing"]),
        (["count", "--blocks", "2,2"], ["--widths", "is missing"]),
        (["count", "--blocks", "2,2,2", "--widths", "64,128"], ["3 stages", "64,128 names 2"]),
        (["count", "--blocks", "2,x", "--widths", "1,2"], ["--blocks '2,x'", "whole numbers"]),
        (["count", "--blocks", "0", "--widths", "8"], ["--blocks 0", "from 1"]),
        (
            ["count", "v2", "--stem-kernel", "x"],
            ["--stem-kernel 'x': must be a whole number", "see budgetnas count --help"],
        ),
        (["count", "v2", "--wide"], ["--wide"]),
        (["count", "v2", "--max-macs", "300M"], ["--max-macs '300M'", "needs --budget"]),
        (["count", "v2", "--budget", "5e6", "--max-macs", "many"], ["--max-macs 'many'", "multiply-accumulates"]),
        (["search", "--budget", "5e6", "--data", "digits", "--max-macs", "x"], ["--max-macs 'x'", "write it as"]),
        (
            ["search", "--budget", "5e6", "--data", "digits", "--max-activations", "1k"],
            ["--max-activations '1k'", "nothing in the space fits", "activations", "allow at least"],
        ),
        (["fly"], ["fly"]),
        *(
            (["search", "--budget", text], ["--budget", text, "write it as 5e6"])
            for text in ("five", "0", "-5", "nan", "inf", "1.5")
        ),
        (["search"], ["--budget", "is missing", "--budget 5e6"]),
        (["export"], ["STUDY", "is missing", "--replay NAME"]),
        (["space"], ["--budget", "is missing", "--budget 5e6"]),
        (["space", "--budget", "five"], ["--budget 'five'", "write it as 5e6"]),
        (["space", "--budget", "5e6", "--max-macs", "many"], ["--max-macs 'many'", "multiply-accumulates"]),
        (["space", "--budget", "4000"], ["--budget '4k'", "nothing in the space fits", "allow at least 4,034"]),
        (["space", "--budget", "5e6", "--max-macs", "9"], ["--max-macs '9'", "nothing in the space fits"]),
        (["space", "--budget", "5e6", "--data", "cifar"], ["--data 'cifar'", "cifar10", "digits"]),
        (["space", "--budget", "5e6", "--data", "folder:nowhere"], ["--data", "nowhere", "does not exist"]),
        (["space", "--budget", "5e6", "--size", "0"], ["--size 0", "from 1 to 1,024"]),
        (["space", "--budget", "5e6", "--classes", "0"], ["--classes 0", "from 1"]),
        (["space", "--budget", "5e6", "--in-channels", "0"], ["--in-channels 0", "from 1"]),
        (["space", "--budget", "5e6", "--seed", "-1"], ["--seed -1"]),
        (
            ["space", "--budget", "5e6", "--size", "big"],
            ["--size 'big': must be a whole number", "see budgetnas space --help"],
        ),
        (["space", "nothing", "--budget", "5e6"], ["STUDY_FILE", "digits-demo"]),
        (["fit"], ["--budget", "is missing"]),
        (["fit", "--budget", "5e6"], ["NAME", "is missing", "budgetnas fit resnet18"]),
        (["fit", "resnet19", "--budget", "5e6"], ["NAME 'resnet19'", "did you mean resnet1"]),
        (["fit", "resnet18"], ["--budget", "is missing", "--budget 5e6"]),
        (["fit", "resnet18", "--max-macs", "1G"], ["--max-macs '1G'", "needs --budget"]),
        (["fit", "resnet18", "--budget", "1k"], ["--budget '1k'", "no edits make it fit", "1,506"]),
        (["fit", "resnet18", "--budget", "5M", "--max-activations", "99"], ["--max-activations '99'", "no edits"]),
        (["fit", "resnet18", "--budget", "5M", "--top", "0"], ["--top 0", "at least 1"]),
        (["fit", "v1", "--blocks", "2", "--widths", "8", "--budget", "5M"], ["NAME 'v1'", "combined with --blocks"]),
        (["fit", "v1", "--block", "bottleneck", "--budget", "5M"], ["--block", "--blocks and --widths"]),
        (["search", "--budget", "5e6", "--trials", "0"], ["--trials 0", "at least 1"]),
        (["search", "--budget", "5e6", "--trials", "-3"], ["--trials -3", "at least 1"]),
        (["search", "--budget", "5e6", "--trials", "9" * 20], ["--trials 9", "at most 1,000,000,000"]),
        (["search", "--budget", "5e6", "--epochs", "10001"], ["--epochs 10001", "from 1 to 10,000"]),
        (["search", "--budget", "5e6", "--sampler", "tpee"], ["--sampler 'tpee'", "did you mean tpe"]),
        (["search", "--budget", "5e6", "--timeout", "soon"], ["--timeout 'soon'", "15m"]),
        (["search", "--budget", "5e6", "--device", "cuda:99"], ["--device 'cuda:99'", "is missing", "--device auto"]),
        (["search", "--budget", "5e6", "--device", "tpu"], ["--device 'tpu'", "cuda:N"]),
        (["search", "--budget", "5e6", "--data", "cifar"], ["--data 'cifar'", "cifar10", "digits"]),
        (["search", "--budget", "5e6", "--data", "folder:nowhere"], ["--data", "nowhere", "not"]),
        (["search", "--budget", "100", "--data", "digits"], ["--budget '100'", "smallest network", "allow at least"]),
        (["search", "--budget", "5e6", "--data", "digits", "--subset", "3"], ["--subset 3"]),
        (["search", "--budget", "5e6", "--data", "digits", "--epochs", "0"], ["--epochs 0"]),
        (["search", "--budget", "5e6", "--data", "digits", "--batch", "1"], ["--batch-size 1", "from 2"]),
        (["search", "--budget", "5e6", "--data", "digits", "--recipe-space", "x"], ["--recipe-space 'x'", "tuned"]),
        (["search", "--budget", "5e6", "--storage", "mysql://u:secret@h/d"], ["--storage", "mysql is not supported"]),
        (["search", "--budget", "5e6", "--storage", "no/such/folder.db"], ["--storage", "does not exist"]),
        (["search", "--budget", "5e6", "--data", "digits", "--study", " "], ["--study"]),
        (["search", "nothing"], ["STUDY_FILE", "digits-demo"]),
        (["search", "nothing.toml"], ["STUDY_FILE", "no such file"]),
        (["search", "--budget", "5e6", "--workers", "0"], ["--workers 0", "from 1 to 256"]),
        (
            ["search", "--budget", "5e6", "--workers", "x"],
            ["--workers 'x': must be a whole number", "see budgetnas search --help"],
        ),
        (
            ["search", "--budget", "5e6", "--device", "cpu", "--per-device", "2"],
            ["--per-device 2", "for GPUs"],
        ),
        (["search", "--budget", "5e6", "--gpus-per-trial", "0.5"], ["--gpus-per-trial 0.5", "needs --ray"]),
        (
            ["search", "--budget", "5e6", "--ray", "auto", "--gpus-per-trial", "2"],
            ["--gpus-per-trial 2", "0 to 1"],
        ),
        (["search", "--budget", "5e6", "--ray", "auto", "--per-device", "2"], ["--per-device 2", "--gpus-per-trial"]),
        (["search", "--budget", "5e6", "--ray", "somewhere"], ["--ray 'somewhere'", "HOST:PORT"]),
        (["worker"], ["--study", "is missing", "budgetnas studies"]),
        (["worker", "--study", "s"], ["--storage", "no such database"]),
        (["replay", "v3-sgd"], ["NAME 'v3-sgd'", "v1-sgd"]),
        (["replay"], ["NAME", "--list"]),
        (["replay", "v2-sgd", "--all"], ["--all", "cannot be combined with names"]),
        (["replay", "v2-sgd", "--epochs", "0"], ["--epochs 0"]),
        (["replay", "v2-sgd", "--precision", "int8"], ["--precision 'int8'", "bf16"]),
        (["show", "x"], ["--storage", "no such database"]),
        (["dashboard"], ["--storage", "no such database"]),
        (["dashboard", "--port", "0"], ["--port 0"]),
    ],
)
def test_bad_input_gets_one_line_and_code_2_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], told: list[str]
) -> None:
    code, out, err = called(capsys, *arguments)
    assert code == 2, err
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith(("note:", "loading"))]
    assert len(lines) == 1, err
    for text in told:
        assert text in lines[0]
    assert "secret" not in err
    assert list(tmp_path.iterdir()) == []


def images_in(folder: Path, classes: dict[str, int]) -> None:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / name / f"{index}.png")


def test_folders_that_cannot_be_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    images_in(tmp_path / "a" / "train", {"cat": 20, "dog": 0})
    code, _, err = called(capsys, "search", "--budget", "5e6", "--data", "folder:a")
    assert code == 2
    assert "dog" in err
    images_in(tmp_path / "b" / "train", {"cat": 20, "dog": 20})
    (tmp_path / "b" / "train" / "cat" / "0.png").write_bytes(b"no image")
    code, _, err = called(capsys, "search", "--budget", "5e6", "--data", "folder:b")
    assert code == 2
    assert "0.png" in err
    assert not (tmp_path / "budgetnas.db").exists()


@pytest.mark.parametrize("content", ["budget = [1]", "bugdet = 5", "x =", "[space]\nwidths = [4, 2]", "trials = 'x'"])
def test_study_files_that_cannot_be_used(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str) -> None:
    (tmp_path / "s.toml").write_text(content)
    code, _, err = called(capsys, "search", "s.toml", "--budget", "5e6")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "STUDY_FILE" in err


def test_a_name_that_is_not_utf_8(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = study_file(tmp_path, trials="1")
    assert run(tmp_path, "search", path).returncode == 0
    for command in ("finish", "show", "cancel"):
        code, _, err = called(capsys, command, "caf\udce9", "--storage", str(tmp_path / "budgetnas.db"))
        assert (code, len(err.splitlines())) == (2, 1)
        assert "is not UTF-8" in err


def test_a_file_that_is_not_sqlite(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, and long enough to be told from one" * 20)
    code, _, err = called(capsys, "search", "--budget", "5e6", "--data", "digits", "--storage", "text.db")
    assert (code, len([line for line in err.splitlines() if not line.startswith("note")])) == (2, 1)
    assert "cannot be opened" in err


def test_a_study_of_another_specification_is_refused(tmp_path: Path) -> None:
    path = study_file(tmp_path, trials="1")
    assert run(tmp_path, "search", path).returncode == 0
    for changed, told in (
        (("--epochs", "3"), "--epochs was 2, now 3"),
        (("--subset", "150"), "--subset was 200, now 150"),
    ):
        result = run(tmp_path, "search", path, *changed)
        assert result.returncode == 2
        assert told in result.stderr
    named = run(tmp_path, "search", "--study", "digits-6k", "--budget", "7k")
    assert named.returncode == 2
    assert "--budget was 6000, now 7000" in named.stderr
    unknown = run(tmp_path, "show", "digits-6K")
    assert unknown.returncode == 2
    assert "did you mean digits-6k?" in unknown.stderr
    listed = run(tmp_path, "studies", "--json")
    assert [one["study"] for one in json.loads(listed.stdout)] == ["digits-6k"]
    as_json = run(tmp_path, "search", path, "--json")
    assert json.loads(as_json.stdout)["study"] == "digits-6k"


@pytest.mark.parametrize("arguments", [["--help"], ["count", "v2"], ["count", "--help"], ["search", "--help"]])
def test_quick_commands_import_neither_torch_nor_optuna(arguments: list[str]) -> None:
    code = (
        "import sys; from budgetnas.cli.app import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'optuna', 'sqlalchemy', 'plotly', 'numpy'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["space", "--budget", "5M"], ["space", "digits-demo", "--json"], ["fit", "resnet18", "--budget", "5M"]],
)
def test_space_and_fit_import_neither_torch_nor_optuna(arguments: list[str]) -> None:
    code = (
        "import sys; from budgetnas.cli.app import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'torchvision', 'optuna', 'sqlalchemy', 'plotly', 'sklearn', 'scipy.stats'}; "
        "heavy &= set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    names = [command.name for command in app.app.registered_commands]
    assert names == [
        "count",
        "space",
        "fit",
        "search",
        "worker",
        "finish",
        "export",
        "predict",
        "replay",
        "compare",
        "bench",
        "doctor",
        "studies",
        "cancel",
        "rename",
        "delete",
        "show",
        "report",
        "dashboard",
    ]
    for name in names:
        code, out, _ = called(capsys, str(name), "--help")
        assert code == 0
        assert f"Example: budgetnas {name}" in " ".join(out.replace("│", " ").split())


def test_a_closed_pipe_prints_no_traceback() -> None:
    command = f"{sys.executable} -m budgetnas count resnet152 v1 v2 | head -c 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment())
    assert "Traceback" not in result.stderr


def test_the_stem_of_a_named_network_can_be_changed(capsys: pytest.CaptureFixture[str]) -> None:
    """A 7x7 stem gives 1,899,338 parameters: what the source report's structure table would mean."""
    _, out, _ = called(capsys, "count", "v2", "--stem-kernel", "7", "--json")
    assert json.loads(out)["params"] == 1_899_338
    code, _, err = called(capsys, "count", "v2", "--block", "bottleneck")
    assert (code, "--blocks and --widths" in err) == (2, True)


def test_a_page_that_cannot_be_written_is_reported_before_any_training(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = called(capsys, "replay", "v2-sgd", "--data", "digits", "--out", "no/folder/page.html")
    assert (code, "--out" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", ["-1", "99999999999"])
def test_seeds_out_of_range(capsys: pytest.CaptureFixture[str], tmp_path: Path, seed: str) -> None:
    for command in (("search", "--budget", "20k", "--data", "digits"), ("replay", "v2-sgd", "--data", "digits")):
        code, _, err = called(capsys, *command, "--seed", seed)
        assert (code, f"--seed {seed}" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_a_fresh_folder_has_no_study_yet(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, "studies")
    assert code == 0
    assert "no studies yet in sqlite:///budgetnas.db" in out
    assert "digits-demo" in out


def test_no_password_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from budgetnas.cli.console import shown_storage

    assert shown_storage("postgresql+psycopg://u:secret@h/d") == "postgresql+psycopg://u:***@h/d"
    assert shown_storage("sqlite:///a.db") == "sqlite:///a.db"


def test_reading_another_program_s_database_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE a (b)")
        connection.commit()
    code, _, err = called(capsys, "show", "x", "--storage", "other.db")
    assert (code, "has no study of budgetnas" in err) == (2, True)
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        assert [row[0] for row in connection.execute("SELECT name FROM sqlite_master")] == ["a"]


@pytest.mark.slow
@pytest.mark.parametrize(("given", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_idle_threads_sleep_unless_the_environment_says_otherwise(
    tmp_path: Path, given: dict[str, str], policy: str
) -> None:
    done = run_fresh(tmp_path, "doctor", "--data", "digits", OMP_DISPLAY_ENV="TRUE", **given)
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr
