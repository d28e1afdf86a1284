"""Disks that are full or can only be read: one clear line, nothing half done, what was good before still there."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from disks import fill, make_read_only, needs_root, small_disk
from forked import Forked
from looking import NAME, check_ended
from small import environment, run, start, study_file

pytestmark = [pytest.mark.slow, needs_root]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the database of a small search."""
    folder = tmp_path_factory.mktemp("made")
    done = run(folder, "search", study_file(folder, trials="3"), "--study", "t")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def disk(tmp_path: Path, made: Path) -> Iterator[Path]:
    """A disk of 8 MiB with the database on it."""
    with small_disk(tmp_path / "disk", 8 * 1024) as folder:
        shutil.copy(made / "budgetnas.db", folder)
        yield folder


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in result.stderr
    lines = [one for one in result.stderr.splitlines() if one.startswith("budgetnas: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@contextmanager
def closing_process(process: Forked) -> Iterator[Forked]:
    """Leave no process behind, nor what it holds open on a disk."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


# Only to be read


def test_a_study_on_a_read_only_disk_can_be_shown_and_exported(disk: Path, work: Path, made: Path) -> None:
    make_read_only(disk)
    where = ("--storage", str(disk / "budgetnas.db"))
    writable = ("--storage", str(made / "budgetnas.db"))
    for command in (("show", "t", "--json"), ("studies", "--json")):
        looked, beside = run(work, *command, *where), run(work, *command, *writable)
        assert looked.returncode == 0, looked.stderr
        assert looked.stdout == beside.stdout
    assert run(work, "report", "t", "--out", "page.html", *where).returncode == 0
    assert run(work, "export", "t", "--run", "1", "--out", "bundle", *where).returncode == 0
    assert names(work) == ["bundle", "page.html"]
    assert names(disk) == ["budgetnas.db"]


@pytest.mark.parametrize(
    "command",
    [
        ("search", "--study", "t", "--trials", "5"),
        ("search", "--data", "digits", "--budget", "6k", "--study", "other"),
        ("finish", "t"),
        ("compare", "t"),
        ("dashboard",),
    ],
    ids=" ".join,
)
def test_commands_that_write_reject_a_read_only_disk(disk: Path, work: Path, command: tuple[str, ...]) -> None:
    make_read_only(disk)
    done = run(work, *command, "--storage", str(disk / "budgetnas.db"))
    assert done.returncode == 2
    assert "cannot be written; copy it to a writable folder" in one_line(done)
    assert names(disk) == ["budgetnas.db"]


def test_a_new_study_cannot_begin_on_a_read_only_disk(tmp_path: Path, work: Path) -> None:
    with small_disk(tmp_path / "empty", 64) as empty:
        make_read_only(empty)
        where = ("--storage", str(empty / "new.db"))
        done = run(work, "search", "--data", "digits", "--budget", "6k", *where)
        assert done.returncode == 2
        assert "its folder cannot be written; name a file in another folder" in one_line(done)
        assert names(empty) == []


def test_a_copy_with_an_open_log_is_read_with_its_index_and_refused_without(disk: Path, work: Path) -> None:
    """A database copied while a search wrote into it: what is only in the log must not be left out silently."""
    database = disk / "budgetnas.db"
    (disk / "copy").mkdir()
    with closing(sqlite3.connect(database)) as writer:
        writer.execute("UPDATE runs SET label = 'only in the log' WHERE id = 1")
        writer.commit()
        for name in ("budgetnas.db", "budgetnas.db-wal", "budgetnas.db-shm"):
            shutil.copy(disk / name, disk / "copy")
    copied = disk / "copy" / "budgetnas.db"
    make_read_only(disk)
    looked = run(work, "show", "t", "--storage", str(copied))
    assert looked.returncode == 0, looked.stderr
    assert "only in the log" in looked.stdout
    assert names(disk / "copy") == ["budgetnas.db", "budgetnas.db-shm", "budgetnas.db-wal"]
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    copied.with_name("budgetnas.db-shm").unlink()
    make_read_only(disk)
    refused = run(work, "show", "t", "--storage", str(copied))
    assert refused.returncode == 2
    assert "copy both files to a writable folder" in one_line(refused)


def test_a_report_is_not_written_to_a_read_only_disk(disk: Path, work: Path, made: Path) -> None:
    make_read_only(disk)
    where = ("--storage", str(made / "budgetnas.db"))
    for command in (("report", "t"), ("export", "t", "--run", "1")):
        done = run(work, *command, "--out", str(disk / "out"), *where)
        assert done.returncode == 2
        assert f"folder {disk} cannot be written; name another" in one_line(done)
        assert "trained again" not in done.stderr


# Full


def test_a_report_on_a_full_disk_leaves_the_older_page(disk: Path, work: Path, made: Path) -> None:
    page = disk / "page.html"
    page.write_text("an older page")
    fill(disk, leave_kib=1024)
    done = run(work, "report", "t", "--out", str(page), "--storage", str(made / "budgetnas.db"))
    assert done.returncode == 1
    assert "no space is left" in one_line(done)
    assert page.read_text() == "an older page"
    assert names(disk) == ["ballast", "budgetnas.db", "page.html"]


def test_an_export_to_a_full_disk_leaves_the_older_bundle(disk: Path, work: Path, made: Path) -> None:
    export = ("export", "t", "--run", "1", "--out", str(disk / "bundle"), "--storage", str(made / "budgetnas.db"))
    assert run(work, *export).returncode == 0
    before = {one.name: one.read_bytes() for one in (disk / "bundle").iterdir()}
    ballast = fill(disk, leave_kib=16)
    done = run(work, *export, "--force")
    assert done.returncode == 1
    assert "no space is left" in one_line(done)
    assert {one.name: one.read_bytes() for one in (disk / "bundle").iterdir()} == before
    assert names(disk) == ["ballast", "budgetnas.db", "bundle"]
    ballast.unlink()
    assert run(work, *export, "--force").returncode == 0


@pytest.mark.parametrize("command", [("show", "t", "--json"), ("show", "t"), ("studies",), ("count", "v2")])
def test_output_to_a_full_disk_is_reported_in_one_line(
    disk: Path, work: Path, made: Path, command: tuple[str, ...]
) -> None:
    fill(disk)
    where = () if command[0] == "count" else ("--storage", str(made / "budgetnas.db"))
    with (disk / "out.txt").open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "budgetnas", *command, *where],
            cwd=work,
            env=environment(),
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "budgetnas: no space is left for the output; free some, and run it again\n"


def recorded_epochs(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as reader:
        try:
            return int(reader.execute("SELECT count(*) FROM epochs").fetchone()[0])
        except sqlite3.OperationalError:  # not made yet
            return 0


def test_a_search_without_space_for_its_database_stops_and_resumes_later(tmp_path: Path, work: Path) -> None:
    with small_disk(tmp_path / "disk", 8 * 1024) as disk:
        database = disk / "budgetnas.db"
        search = ("search", study_file(work, trials="6", epochs="6"), "--study", NAME)
        with closing_process(start(work, *search, "--storage", str(database), BUDGETNAS_CHECKPOINT_EVERY="0")) as first:
            while not database.exists() or recorded_epochs(database) < 8:
                assert first.poll() is None
                time.sleep(0.02)
            ballast = fill(disk)
            _, told = first.communicate(timeout=120)
        assert first.returncode == 1, told
        (line,) = [one for one in told.splitlines() if "the storage cannot be used any more" in one]
        assert "database or disk is full" in line
        assert "Traceback" not in told
        ballast.unlink()
        second = run(work, *search, "--storage", str(database))
        assert second.returncode == 0, second.stderr
        check_ended(f"sqlite:///{database}", trained=6)


def test_a_search_without_space_for_checkpoints_continues_without_them(tmp_path: Path, work: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        fill(disk)
        kept = {"BUDGETNAS_CHECKPOINT_EVERY": "0", "BUDGETNAS_CHECKPOINT_DIR": str(disk)}
        done = run(work, "search", study_file(work, trials="2", epochs="3"), "--study", NAME, **kept)
        assert done.returncode == 0, done.stderr
        assert "no checkpoint can be written" in done.stderr and "No space left on device" in done.stderr
        assert [one for one in disk.rglob("*") if one.is_file()] == [disk / "ballast"]
    check_ended(f"sqlite:///{work / 'budgetnas.db'}", trained=2)


# The doctor


def found(result: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The state of each check that was printed."""
    lines = (one.partition(": ")[0].split(None, 1) for one in result.stdout.splitlines() if ": " in one)
    return {check: state for state, check in (one for one in lines if len(one) == 2)}


def test_the_doctor_on_a_read_only_disk(disk: Path, work: Path, tmp_path: Path) -> None:
    make_read_only(disk)
    old = run(work, "doctor", "--data", "digits", "--study", "t", "--storage", str(disk / "budgetnas.db"))
    assert old.returncode == 0, old.stdout
    assert (found(old)["storage"], found(old)["studies"], found(old)["study's data"]) == ("warning", "ok", "ok")
    new = run(work, "doctor", "--data", "digits", "--storage", str(disk / "new.db"))
    assert (new.returncode, found(new)["storage"]) == (1, "problem")
    assert names(disk) == ["budgetnas.db"]


@pytest.mark.parametrize(("mib", "state", "code"), [(8, "problem", 1), (300, "warning", 0), (2048, "ok", 0)])
def test_the_doctor_on_small_disks(tmp_path: Path, work: Path, mib: int, state: str, code: int) -> None:
    with small_disk(tmp_path / "small", mib * 1024) as small:
        done = run(work, "doctor", "--data", "digits", "--storage", str(small / "new.db"))
    assert found(done)["disk, storage"] == state
    assert found(done)["disk, here"] == "ok", "the test's own folder has too little space"
    assert done.returncode == code
    assert "file system: tmpfs" in done.stdout
