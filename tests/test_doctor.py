from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from quiet import Quiet
from reporting import STUDY, seeded_study
from small import run, run_fresh, study_file
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import make_url

from budgetnas.cli.checks import Check, DoctorRequest, examine
from budgetnas.cli.checks.machine import disk_check
from budgetnas.cli.checks.storage import clock_check, file_system_check
from budgetnas.errors import InputError
from budgetnas.runs.interrupts import Stopper
from budgetnas.searching.options import SearchOptions, read_study_file
from budgetnas.searching.session import run_search
from budgetnas.storage import Records, tables
from budgetnas.storage.mounts import file_system_of, storage_notice
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage, read_storage_url

SECRET = "s3cret"


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("BUDGETNAS_")]:
        monkeypatch.delenv(name)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def checks(storage: str = "budgetnas.db", **request: Any) -> dict[str, Check]:
    request.setdefault("data", "digits")
    return {check.check: check for check in examine(DoctorRequest(storage, **request))}


def contents(folder: Path) -> Mapping[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def made_with_optuna(folder: Path) -> Path:
    """A database with our tables and Optuna's, after a real search."""
    done = run(folder, "search", study_file(folder, trials="1"), "--study", "t")
    assert done.returncode == 0, done.stderr
    (folder / "study.toml").unlink()
    return folder / "budgetnas.db"


def change(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(statement)
        connection.commit()


def test_a_fresh_folder_has_no_problem_and_stays_empty(in_a_fresh_folder: Path) -> None:
    done = run(in_a_fresh_folder, "doctor", "--data", "digits", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(set(check) == {"check", "state", "detail", "way_out"} for check in found)
    assert {check["state"] for check in found} <= {"ok", "warning"}
    named = {check["check"]: check["detail"] for check in found}
    assert list(named)[:7] == ["python", "budgetnas", "torch", "optuna", "sqlalchemy", "torchvision", "psycopg"]
    assert "is made by the first search" in named["storage"]
    assert "1,294 training and 144 validation images" in named["data"]
    assert list(in_a_fresh_folder.iterdir()) == []


def test_lines_say_the_state_first_and_the_hint_last(in_a_fresh_folder: Path) -> None:
    done = run(in_a_fresh_folder, "doctor", "--storage", "no/folder/nas.db", "--data", "digits", "--device", "cuda:99")
    assert done.returncode == 1
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    wrong = [line for line in lines if line.startswith("problem  ")]
    assert [line.split(": ")[0] for line in wrong] == ["problem  --device", "problem  storage"]
    assert wrong[0].endswith("; use --device auto or cpu")
    assert wrong[1].endswith("does not exist; create it first")
    assert lines[-1].startswith("problems: 2, warnings: ")
    assert any(line.split()[1:3] == ["disk,", "here:"] for line in lines), "checks after a problem run too"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--storage", "nas"], "is not a storage URL"),
        (["--storage", f"mysql://me:{SECRET}@host/nas"], "mysql is not supported"),
        (["--data", "cifar"], "must be one of"),
        (["--device", "tpu"], "must be auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_impossible_values_are_bad_input(in_a_fresh_folder: Path, arguments: list[str], message: str) -> None:
    done = run(in_a_fresh_folder, "doctor", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert SECRET not in done.stderr


def test_the_doctor_leaves_a_database_unchanged_to_the_byte(in_a_fresh_folder: Path) -> None:
    made_with_optuna(in_a_fresh_folder)
    before = contents(in_a_fresh_folder)
    found = checks(study="t", data=None)
    assert {check.check: check for check in found.values() if check.state == "problem"} == {}
    assert found["tables"].detail == f"version {tables.SCHEMA_VERSION}, this program's"
    assert "that of optuna" in found["optuna's tables"].detail
    assert found["studies"].detail == "1: t; 0 runs recorded as running"
    assert found["study's data"].detail == "the same as study 't' was made on"
    assert "journal wal" in found["database"].detail
    assert contents(in_a_fresh_folder) == before


@pytest.mark.parametrize("version", [0, tables.SCHEMA_VERSION + 1])
def test_our_tables_in_another_version(in_a_fresh_folder: Path, version: int) -> None:
    database = made_with_optuna(in_a_fresh_folder)
    change(database, f"UPDATE budgetnas_schema SET version = {version}")
    found = checks(study="t")
    assert found["tables"].state == "problem"
    assert f"its tables have version {version}" in found["tables"].detail
    assert found["tables"].hint
    assert found["--study"].state == "problem"
    assert found["data"].state == "ok"


@pytest.mark.parametrize(
    ("version", "hint"), [("v3.0.0.a", "optuna storage upgrade"), ("v9.0.0.a", "pip install --upgrade optuna")]
)
def test_optunas_tables_in_another_version(in_a_fresh_folder: Path, version: str, hint: str) -> None:
    database = made_with_optuna(in_a_fresh_folder)
    change(database, f"UPDATE alembic_version SET version_num = '{version}'")
    found = checks()["optuna's tables"]
    assert found.state == "problem"
    assert version in found.detail
    assert hint in found.hint
    done = run(in_a_fresh_folder, "search", "--study", "t", "--trials", "3")
    assert done.returncode == 2
    assert "budgetnas doctor says which" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_a_database(in_a_fresh_folder: Path) -> None:
    Path("nas.db").write_text("this is not a database, though long enough for a header " * 50)
    found = checks("nas.db")
    assert found["storage"].state == "problem"
    assert "file is not a database" in found["storage"].detail
    assert found["data"].state == "ok"
    Path("folder.db").mkdir()
    assert "is a folder" in checks("folder.db")["storage"].detail


def test_another_program_s_database_is_accepted_and_left_alone(in_a_fresh_folder: Path) -> None:
    change(in_a_fresh_folder / "other.db", "CREATE TABLE a (b)")
    before = contents(in_a_fresh_folder)
    found = checks("other.db", study="t")
    assert "the first search creates them" in found["tables"].detail
    assert "turns on the write-ahead log" in found["database"].detail
    assert found["--study"].state == "problem"
    assert contents(in_a_fresh_folder) == before


def test_studies_and_what_is_being_trained(records: Records, storage_url: str) -> None:
    seeded_study(records)
    with records.engine.begin() as connection:
        connection.execute(text("UPDATE runs SET state = 'running' WHERE trial IN (4, 5)"))
    found = checks(storage_url)
    assert found["studies"].detail == f"1: {STUDY}; 2 runs recorded as running"
    missing = checks(storage_url, study="other")["--study"]
    assert (missing.state, f"its studies: {STUDY}" in missing.detail) == ("problem", True)


def test_the_doctor_creates_nothing_in_postgresql(postgres_database: str) -> None:
    found = checks(postgres_database)
    assert "PostgreSQL" in found["storage"].detail
    assert found["clock"].state == "ok"
    assert [check for check in found.values() if check.state == "problem"] == []
    assert "disk, storage" not in found
    engine = create_engine(postgres_database)
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_postgresql_in_another_version(postgres_database: str) -> None:
    records = open_records(parse_storage(postgres_database))
    with records.engine.begin() as connection:
        connection.execute(text("UPDATE budgetnas_schema SET version = 99"))
    records.close()
    assert "version 99" in checks(postgres_database)["tables"].detail


def test_the_password_of_a_missing_server_is_hidden(in_a_fresh_folder: Path) -> None:
    for url in (f"postgresql://me:{SECRET}@127.0.0.1:1/nas", f"postgresql://127.0.0.1:1/nas?password={SECRET}"):
        done = run(in_a_fresh_folder, "doctor", "--storage", url, "--data", "digits")
        assert done.returncode == 1
        assert "problem  storage: postgresql+psycopg://" in done.stdout
        assert "cannot be opened" in done.stdout
        assert "disk, here" in done.stdout
        assert SECRET not in done.stdout + done.stderr


def test_a_working_server_and_its_password(in_a_fresh_folder: Path, postgres_database: str) -> None:
    url = make_url(postgres_database).set(password=SECRET).render_as_string(hide_password=False)
    done = run(in_a_fresh_folder, "doctor", "--storage", url, "--data", "digits", "--json")
    assert done.returncode == 0, done.stdout
    assert "***" in done.stdout
    assert SECRET not in done.stdout + done.stderr


# Data


def images_in(folder: Path, shade: int) -> None:
    for name in ("cat", "dog"):
        (folder / "train" / name).mkdir(parents=True)
        for index in range(20):
            Image.new("RGB", (8, 8), (index, shade, 0)).save(folder / "train" / name / f"{index}.png")


def test_data_that_are_not_the_studys(tmp_path: Path, in_a_fresh_folder: Path) -> None:
    for place, shade in (("first", 0), ("second", 9)):
        images_in(tmp_path / place / "pets", shade)
    shape = ("--data", f"folder:{tmp_path}/first/pets", "--budget", "20k", "--epochs", "1", "--trials", "1")
    made = run(in_a_fresh_folder, "search", *shape, "--study", "pets")
    assert made.returncode == 0, made.stderr
    good = checks(study="pets", data=f"folder:{tmp_path}/first/pets")
    assert good["study's data"].state == "ok"
    other = checks(study="pets", data=f"folder:{tmp_path}/second/pets")
    assert other["data"].state == "ok"
    assert other["study's data"].state == "problem"
    assert "was made on folder-pets" in other["study's data"].detail
    unnamed = checks(study="pets", data=None)["data"]
    assert (unnamed.state, "--data folder:DIR" in unnamed.hint) == ("problem", True)


def test_a_folder_is_read_without_a_cache_being_made(
    tmp_path: Path, in_a_fresh_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images_in(tmp_path / "pets", 0)
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(tmp_path / "cache"))
    found = checks(data=f"folder:{tmp_path}/pets")
    assert "29 training and 3 validation images" in found["data"].detail
    assert not (tmp_path / "cache").exists()


def test_data_that_cannot_be_read_are_a_problem(tmp_path: Path) -> None:
    found = checks(data="folder:nowhere")
    assert found["data"].state == "problem"
    assert "nowhere" in found["data"].detail
    assert found["disk, here"].check


def test_an_archive_is_neither_downloaded_nor_unpacked(tmp_path: Path) -> None:
    place = tmp_path / "archives"
    found = checks(data="cifar10", data_dir=place)["data"]
    assert found.state == "warning"
    assert "is not in" in found.detail
    assert "--data digits" in found.hint
    assert not place.exists()
    place.mkdir()
    (place / "cifar-10-python.tar.gz").write_bytes(b"some bytes")
    assert "the first search unpacks it" in checks(data="cifar10", data_dir=place)["data"].detail
    assert [path.name for path in place.iterdir()] == ["cifar-10-python.tar.gz"]


# Versions, and facts of other machines


def test_a_torchvision_that_does_not_fit(tmp_path: Path, in_a_fresh_folder: Path) -> None:
    broken = tmp_path / "broken" / "torchvision"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    path = os.pathsep.join([str(broken.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = run_fresh(in_a_fresh_folder, "doctor", "--data", "digits", PYTHONPATH=path)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("problem ")]
    assert "does not fit torch" in line
    assert "operator torchvision::nms does not exist" in line
    assert "from the same index" in line


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "lustre", "fuse.glusterfs"])
def test_a_network_file_system_has_a_warning(kind: str) -> None:
    check = file_system_check(kind)
    assert (check.state, "network" in check.detail, "PostgreSQL" in check.hint) == ("warning", True, True)


@pytest.mark.parametrize("kind", ["fuse", "fuse.drive", "fuse.gcsfuse", "fuse.s3fs", "fuse.sshfs", "fuse.rclone"])
def test_a_fuse_mount_has_a_warning(kind: str) -> None:
    check = file_system_check(kind)
    assert (check.state, "write-ahead log" in check.detail) == ("warning", True)
    assert "local disk" in check.hint and "PostgreSQL" in check.hint


@pytest.mark.parametrize(
    "kind",
    ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "apfs", "zfs", "fuseblk", "fuse.ext4", "fuse.fuse-overlayfs", ""],
)
def test_a_local_file_system_has_no_warning(kind: str) -> None:
    assert file_system_check(kind).state == "ok"


def test_the_kind_of_a_file_system_is_the_mounted_one() -> None:
    assert file_system_of(Path("/proc")) == "proc"
    assert file_system_of(Path("/proc/self")) == "proc"


MOUNTS = """\
overlay / overlay rw,relatime,lowerdir=/lower,upperdir=/upper,workdir=/work 0 0
tmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0
/dev/sda1 /content/drive ext4 rw,relatime 0 0
drive /content/drive fuse.drive rw,nosuid,nodev,relatime,user_id=0,group_id=0,default_permissions,allow_other 0 0
bucket /content/my\\040bucket fuse.gcsfuse rw,nosuid,nodev,relatime,user_id=0,group_id=0 0 0
server:/export /content/home nfs4 rw,relatime,vers=4.2 0 0
/dev/sdb1 /content/home/disk ext4 rw,relatime 0 0
"""
"""As on a machine of a notebook service: Google Drive hides the disk on whose folder it is mounted."""


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of mounts of another machine, read as the operating system's."""
    table = tmp_path / "proc" / "self" / "mounts"
    table.parent.mkdir(parents=True)
    table.write_text(MOUNTS)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/content/budgetnas.db", "overlay"),
        ("/content/drive/MyDrive/budgetnas.db", "fuse.drive"),
        ("/content/drivers/budgetnas.db", "overlay"),
        ("/content/my bucket/budgetnas.db", "fuse.gcsfuse"),
        ("/content/home/me/budgetnas.db", "nfs4"),
        ("/content/home/disk/budgetnas.db", "ext4"),
    ],
)
def test_the_file_system_of_a_path_on_other_machines(mounts: None, path: str, kind: str) -> None:
    assert file_system_of(Path(path)) == kind


def test_the_notice_about_a_storage_on_google_drive(mounts: None) -> None:
    notice = storage_notice(read_storage_url("/content/drive/MyDrive/nas.db"))
    assert notice is not None
    assert "\n" not in notice
    assert notice.startswith(
        "--storage /content/drive/MyDrive/nas.db: fuse.drive is a FUSE mount, such as Google Drive"
    )
    assert storage_notice(read_storage_url("/content/nas.db")) is None
    assert storage_notice(make_url("postgresql+psycopg://me@host/nas")) is None


def test_a_search_prints_the_notice_once(in_a_fresh_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (disk,) = [mount for mount in psutil.disk_partitions(all=True) if mount.mountpoint == "/proc"]
    drive = disk._replace(mountpoint=str(in_a_fresh_folder), fstype="fuse.drive")
    monkeypatch.setattr(psutil, "disk_partitions", lambda *, all: [disk, drive])
    options = SearchOptions.parse({"study": "t", "trials": "1"}).over(read_study_file(study_file(in_a_fresh_folder)))
    callbacks = Quiet()
    with closing(run_search(options, Stopper(), callbacks).records):
        assert len([notice for notice in callbacks.notices if "fuse.drive is a FUSE mount" in notice]) == 1


@pytest.mark.parametrize(("seconds", "state"), [(0.0, "ok"), (-4.9, "ok"), (5.1, "warning"), (-3600.0, "warning")])
def test_clocks(seconds: float, state: str) -> None:
    found = clock_check(seconds)
    assert found.state == state
    assert state == "ok" or ("behind" in found.detail) == (seconds < 0)


@pytest.mark.parametrize(
    ("free", "state"), [(1 << 30, "ok"), ((1 << 30) - 1, "warning"), (100 << 20, "warning"), (99 << 20, "problem")]
)
def test_free_space(tmp_path: Path, free: int, state: str) -> None:
    assert disk_check("disk", tmp_path, free).state == state


def test_bad_requests_are_rejected_before_anything_is_read() -> None:
    with pytest.raises(InputError):
        examine(DoctorRequest("nas"))
