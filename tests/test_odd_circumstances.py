"""What users' files, terminals and machines do, as reported for other tools."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pexpect
import pytest
from small import environment, run, run_fresh, start, study_file
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from budgetnas.architecture.budget import parse_budget
from budgetnas.bundle.loading import load
from budgetnas.bundle.write import check_place
from budgetnas.cli import app
from budgetnas.data import DataRequest, load_data
from budgetnas.errors import InputError, check_out
from budgetnas.searching.options import check_study_name, read_study_file
from budgetnas.storage.engine import open_engine
from budgetnas.storage.urls import parse_storage, sqlite_file


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_engine(parse_storage(str(tmp_path / "nas.db")))
    with opened.begin() as connection:
        connection.execute(text("CREATE TABLE kept (value INTEGER)"))
    yield opened
    opened.dispose()


def write(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO kept VALUES (1)"))


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    other = path.with_name("older.db")
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE kept (value INTEGER)")
    other.replace(path)


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [removed, replaced, replaced_by_a_folder])
def test_a_database_file_that_vanishes_is_noticed_at_the_next_write(
    engine: Engine, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    write(engine)
    change(tmp_path / "nas.db")
    with pytest.raises(OperationalError, match=r"nas\.db was (removed|replaced by another file) while it was in use"):
        write(engine)


def test_a_restored_database_file_is_used_again(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "nas.db").rename(tmp_path / "moved.db")
    with pytest.raises(OperationalError, match="was removed while it was in use"):
        write(engine)
    (tmp_path / "moved.db").rename(tmp_path / "nas.db")
    write(engine)


def test_a_database_that_is_overwritten_by_an_older_copy_is_noticed(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "nas.db"
    write(engine)
    checkpoint(path)
    older = path.read_bytes()
    write(engine)
    checkpoint(path)
    write(engine)
    path.write_bytes(path.read_bytes())
    write(engine)
    path.write_bytes(older)
    with pytest.raises(OperationalError, match=r"nas\.db was overwritten by an older copy while it was in use"):
        write(engine)


def test_a_database_restored_to_an_older_state_through_sqlite_is_noticed(engine: Engine, tmp_path: Path) -> None:
    write(engine)
    with closing(sqlite3.connect(tmp_path / "nas.db")) as now, closing(sqlite3.connect(":memory:")) as older:
        now.backup(older)
        for _ in range(3):
            write(engine)
        older.backup(now)
    with pytest.raises(OperationalError, match="was overwritten by an older copy"):
        write(engine)


def test_transactions_that_fail_or_only_read_are_not_counted(engine: Engine) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), engine.begin() as connection:
            connection.execute(text("INSERT INTO kept VALUES (1)"))
            raise ZeroDivisionError
        write(engine)
        with engine.begin() as connection:
            connection.execute(text("SELECT * FROM kept"))
    with engine.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA user_version").scalar_one() == 3


def checkpoint(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def test_a_database_that_another_program_locked_is_waited_for_as_long_as_asked(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUDGETNAS_PATIENCE", "0.5")
    with closing(sqlite3.connect(tmp_path / "nas.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match="another program has locked it for over 0 s"):
            open_engine(engine.url)
    open_engine(engine.url).dispose()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("sqlite://x/y.db", "write sqlite:///x/y.db"),
        ("sqlite:///a?b.db", "has a '?'"),
        ("a?b.db", "has a '?'"),
        ("a\0b.db", "has a null character"),
    ],
)
def test_sqlite_urls_that_mean_another_file(written: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_storage(written)
    assert message in str(caught.value)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for written in ("~/nas.db", "sqlite:///~/nas.db"):
        assert sqlite_file(parse_storage(written)) == tmp_path / "nas.db"


def test_a_number_sign_in_the_name_of_a_database(tmp_path: Path) -> None:
    open_engine(parse_storage(str(tmp_path / "run #1.db"))).dispose()
    assert (tmp_path / "run #1.db").is_file()


def test_numbers_with_commas() -> None:
    assert parse_budget("5,000,000") == 5_000_000
    for wrong in ("5,0", "50,00,000", ",500", "5,000,00"):
        with pytest.raises(InputError, match="is not a number"):
            parse_budget(wrong)


def test_a_study_cannot_be_named_like_an_option() -> None:
    with pytest.raises(InputError, match="must not begin with '-'"):
        check_study_name("--help")


def test_study_files_of_other_editors(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text('budget = "6k"\n', encoding="utf-8-sig")
    assert read_study_file(str(path)).budget == 6_000
    path.write_text('budget = "6k"\n', encoding="utf-16")
    with pytest.raises(InputError, match="is not encoded in UTF-8; save it as UTF-8"):
        read_study_file(str(path))


def test_a_report_is_not_written_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["report", "s", "--out", "-"]) == 2
    assert "--out '-': is not a file name" in capsys.readouterr().err


def test_a_deleted_working_directory(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"rmdir {gone}; exec {sys.executable} -m budgetnas count v2"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=gone,
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=str(Path(app.__file__).parents[2])),
    )
    assert (done.returncode, done.stderr) == (
        2,
        "budgetnas: the working directory was deleted; change to another folder\n",
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    command = f"exec {sys.executable} -m budgetnas studies --storage none.db {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_name_that_is_too_long_for_a_file() -> None:
    with pytest.raises(InputError, match="cannot name a file"):
        parse_storage(f"{'x' * 300}.db")
    long = Path("x" * 300)
    for call in (
        lambda: load_data(DataRequest(f"folder:{long}")),
        lambda: load_data(DataRequest("cifar10", data_dir=long)),
        lambda: check_out(long),
        lambda: check_place(long, replace=False),
    ):
        with pytest.raises(InputError, match="File name too long"):
            call()
    with pytest.raises(InputError, match="is not a folder"):
        load(long)


def test_images_of_a_kind_that_is_not_read(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.HEIC").write_bytes(b"x")
    with pytest.raises(InputError, match=r"class 'cat' has no images .*its \.heic files are not read: convert them"):
        load_data(DataRequest(f"folder:{tmp_path}"))


@pytest.mark.slow
def test_a_search_whose_database_is_removed_fails_with_the_reason(tmp_path: Path) -> None:
    study = study_file(tmp_path, trials="30", epochs="5")
    with start(tmp_path, "search", study, "--study", "h", "--storage", "sqlite:///d.db") as search:
        until = time.monotonic() + 120
        while time.monotonic() < until and not _complete(tmp_path / "d.db"):
            time.sleep(0.2)
        for name in ("d.db", "d.db-wal", "d.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        out, err = search.communicate(timeout=120)
        assert search.wait() == 1
    assert "was removed while it was in use; what was written since is lost" in err
    assert "The storage cannot be read. Resume with:" in err
    assert "saved" not in err
    assert "winner" not in out
    assert not (tmp_path / "d.db").exists()


@pytest.mark.slow
def test_a_search_whose_database_is_overwritten_by_an_older_copy_fails_with_the_reason(tmp_path: Path) -> None:
    search = ("search", study_file(tmp_path, epochs="5"), "--study", "h", "--storage", "sqlite:///d.db", "--trials")
    assert run(tmp_path, *search, "1").returncode == 0
    older = (tmp_path / "d.db").read_bytes()
    assert run(tmp_path, *search, "2").returncode == 0
    with start(tmp_path, *search, "30") as running:
        until = time.monotonic() + 120
        while time.monotonic() < until and not _complete(tmp_path / "d.db", more_than=2):
            time.sleep(0.2)
        (tmp_path / "d.db").write_bytes(older)
        out, err = running.communicate(timeout=120)
        assert running.wait() == 1
    assert "d.db was overwritten by an older copy while it was in use; what was written since is lost" in err
    assert "delete d.db-wal and d.db-shm, and copy it again" in err
    assert "winner" not in out


def _complete(path: Path, more_than: int = 0) -> bool:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            complete = connection.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0]
            return bool(complete > more_than)
    except sqlite3.Error:
        return False


@pytest.mark.slow
def test_names_that_the_terminal_cannot_print(tmp_path: Path) -> None:
    study = study_file(tmp_path, trials="1", epochs="1")
    named = ("--study", "猫", "--storage", "sqlite:///d.db")
    done = run_fresh(tmp_path, "search", study, *named, PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr
    assert "study ?" in done.stdout


@pytest.mark.slow
def test_a_terminal_that_is_closed_stops_a_search_as_sigterm_does(tmp_path: Path) -> None:
    study = study_file(tmp_path, trials="200", epochs="3")
    arguments = ["-m", "budgetnas", "search", study, "--study", "h", "--storage", "sqlite:///d.db"]
    search = pexpect.spawn(
        sys.executable,
        arguments,
        cwd=str(tmp_path),
        env=environment(),
        timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the tests may run under nohup
    )
    search.expect("trained 2/200")
    search.kill(signal.SIGHUP)
    search.expect(pexpect.EOF)
    search.close()
    assert search.exitstatus == 143
    assert (
        run(tmp_path, "search", study, "--study", "h", "--storage", "sqlite:///d.db", "--trials", "1").returncode == 0
    )


@pytest.mark.slow
def test_nohup_keeps_a_search_running(tmp_path: Path) -> None:
    study = study_file(tmp_path, trials="3", epochs="2")
    command = [sys.executable, "-m", "budgetnas", "search", study, "--storage", "sqlite:///d.db"]
    search = subprocess.Popen(["nohup", *command], cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
    hangups = threading.Event()

    def hang_up() -> None:
        while not hangups.wait(0.5) and search.poll() is None:
            os.kill(search.pid, signal.SIGHUP)

    thread = threading.Thread(target=hang_up)
    thread.start()
    code = search.wait(120)
    hangups.set()
    thread.join()
    assert code == 0
