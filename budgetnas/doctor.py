"""What may keep a search from running here: versions, device, storage, data, space. Looks only, and leaves nothing."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

import psutil
from sqlalchemy import Connection, Engine, func, inspect, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError

from budgetnas import __version__
from budgetnas.data.archives import archives_of, is_unpacked
from budgetnas.data.cache import cache_root, only_looking
from budgetnas.data.load import Data, load_data
from budgetnas.data.request import DataRequest, check_request
from budgetnas.errors import InputError, hide_passwords
from budgetnas.specification import StudySpecification, read_specification
from budgetnas.storage import Records, State, tables
from budgetnas.storage.engine import storage_failed
from budgetnas.storage.reading import is_writable, open_to_read
from budgetnas.storage.records import require_tables
from budgetnas.storage.urls import check_place, masked, read_storage_url, sqlite_file

Level = Literal["ok", "warning", "problem"]

DEFAULT_DATA: Final = "cifar10"
MOST_CLOCK_SECONDS: Final = 5.0
WARN_BYTES: Final = 1 << 30
PROBLEM_BYTES: Final = 100 << 20
_SHOWN_STUDIES: Final = 10
_PACKAGES: Final = ("torch", "optuna", "sqlalchemy")
_OPTIONAL: Final = ("psycopg", "ray")
_DEVICES: Final = re.compile(r"auto|cpu|cuda(:[0-9]+)?")
_NETWORK: Final = re.compile(
    r"nfs\d?|cifs|smb\w*|afs|ceph|9p|lustre|beegfs|gpfs|glusterfs|fuse\.(sshfs|gluster|ceph)\w*"
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        check: What.
        state: ``ok``, ``warning`` or ``problem``.
        detail: What was found.
        way_out: What to do about it; empty where it is ok.
    """

    check: str
    state: Level
    detail: str
    way_out: str = ""


@dataclass(frozen=True, slots=True)
class DoctorRequest:
    """What a search would be run with.

    Attributes:
        storage: Its storage.
        study: A study that is there already.
        data: Its data; nothing: the study's, or CIFAR-10.
        data_dir: Where archives lie.
        device: Its device.
    """

    storage: str
    study: str | None = None
    data: str | None = None
    data_dir: Path | None = None
    device: str = "auto"


def examine(request: DoctorRequest) -> Iterator[Check]:
    """Look at everything, one thing after the other, whatever is found.

    Raises:
        InputError: At once, if the request names no storage, data or device that could be.
    """
    url = read_storage_url(request.storage)
    if request.data is not None:
        check_request(DataRequest(request.data))
    if not _DEVICES.fullmatch(request.device):
        raise InputError("--device", request.device, "must be auto, cpu, cuda or cuda:N")
    return _examined(request, url)


def _examined(request: DoctorRequest, url: URL) -> Iterator[Check]:
    yield from _guarded("versions", versions)
    yield from _guarded("device", lambda: devices(request.device))
    opened: list[Records] = []
    yield from _guarded("storage", lambda: storage(url, opened))
    records = opened[0] if opened else None
    known: list[StudySpecification] = []
    try:
        if records is not None:
            yield from _guarded("studies", lambda: studies(records))
        if (study := request.study) is not None:
            yield from _guarded("--study", lambda: named_study(records, study, known))
        yield from _guarded("data", lambda: data(request, known[0] if known else None))
    finally:
        if records is not None:
            records.close()
    yield from _guarded("disk", lambda: disks(url))


def _guarded(name: str, look: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """Yield what `look` finds; what keeps it from looking is a problem, and no reason not to look at the rest."""
    try:
        for check in look():
            yield Check(check.check, check.state, hide_passwords(check.detail), hide_passwords(check.way_out))
    except InputError as error:
        told = error.rule if error.value is None else f"{error.value} {error.rule}"
        yield Check(name, "problem", hide_passwords(told), hide_passwords(error.way_out))
    except DatabaseError as error:
        yield Check(name, "problem", hide_passwords(storage_failed(error)), "check the path, its rights or the server")
    except Exception as error:  # one check that breaks must not hide the others
        told = hide_passwords(" ".join(f"{type(error).__name__}: {error}".split()))
        yield Check(name, "problem", f"could not be looked at ({told})", "see the message")


# Versions


def versions() -> Iterator[Check]:
    """Look at the packages, and whether torch and torchvision fit each other."""
    yield Check("python", "ok", platform.python_version())
    yield Check("budgetnas", "ok", __version__)
    for name in _PACKAGES:
        yield _imported(name)
    yield _torchvision()
    for name in _OPTIONAL:
        if _version(name) is not None:
            yield _imported(name)


def _imported(name: str) -> Check:
    version = _version(name)
    if version is None:
        return Check(name, "problem", "is not installed", f"pip install {name}")
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever a broken installation raises
        return Check(name, "problem", f"{version} cannot be imported ({_one_line(error)})", f"install {name} anew")
    return Check(name, "ok", version)


def _torchvision() -> Check:
    version, torch_version = _version("torchvision"), _version("torch")
    if version is None:
        return Check("torchvision", "problem", "is not installed", "pip install torchvision")
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # one of its compiled functions
    except Exception as error:  # the kinds differ with the versions
        told = f"{version} does not fit torch {torch_version} ({_one_line(error)})"
        way_out = "install torch and torchvision together, from one index: pip install --upgrade torch torchvision"
        return Check("torchvision", "problem", told, way_out)
    return Check("torchvision", "ok", f"{version}, fits torch {torch_version}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# Device


def devices(asked: str) -> Iterator[Check]:
    """Look at processor and GPUs, and whether the one asked for is there."""
    import torch

    from budgetnas.train import choose_setup
    from budgetnas.train.setup import device_name, gains_from_bf16

    cpu = torch.device("cpu")
    memory = psutil.virtual_memory()
    yield Check(
        "cpu",
        "ok",
        f"{device_name(cpu)}, {_many(os.cpu_count() or 1, 'core')}, {_many(torch.get_num_threads(), 'thread')}, "
        f"{_size(memory.total)} memory ({_size(memory.available)} free), {_bfloat16(gains_from_bf16(cpu))}",
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    for index in range(torch.cuda.device_count() if usable else 0):
        one = torch.device("cuda", index)
        size = _size(torch.cuda.get_device_properties(one).total_memory)
        detail = f"{device_name(one)}, {size} memory, {_bfloat16(gains_from_bf16(one))}"
        yield Check(f"cuda:{index}", "ok", detail)
    if not usable and Path("/dev/nvidiactl").exists():
        reason = f" ({_one_line(told[0].message)})" if told else ""
        way_out = "install a torch that is built for this driver's CUDA"
        yield Check("gpu", "warning", f"there is one, but torch {torch.__version__} cannot use it{reason}", way_out)
    try:
        chosen = choose_setup(asked)
    except InputError as error:
        yield Check("--device", "problem", f"{asked} {error.rule}", error.way_out or "use --device auto or cpu")
    else:
        yield Check("--device", "ok", f"{asked}: {chosen.device}, {chosen.precision}")


def _bfloat16(there: bool) -> str:
    return "computes in bfloat16" if there else "no instructions for bfloat16"


# Storage


def storage(url: URL, opened: list[Records]) -> Iterator[Check]:
    """Look at a storage; add its records to `opened` if a search was run with it.

    Args:
        url: Its URL.
        opened: Empty.
    """
    if url.get_backend_name() == "sqlite":
        yield from _sqlite_place(url)
        if not sqlite_file(url).is_file():
            return
    engine = open_to_read(url)
    try:
        yield from _database(engine)
        ours, usable = our_schema(engine)
        yield ours
        yield optuna_schema(engine)
        if usable:
            opened.append(Records(engine))
    finally:
        if not opened:
            engine.dispose()


def _sqlite_place(url: URL) -> Iterator[Check]:
    file = sqlite_file(url)
    check_place(url)
    if is_writable(url):
        yield Check("storage", "ok", f"{file}" if file.exists() else f"{file} is made by the first search")
    elif file.exists():
        told = f"{file}, or its folder, cannot be written: show, studies, report and export work, a search does not"
        yield Check("storage", "warning", told, "copy it to where it can be written, or change the rights")
    else:
        yield Check("storage", "problem", f"folder {file.parent} cannot be written", "name a file in another folder")
    yield file_system_check(file_system_of(file.parent))


def file_system_of(folder: Path) -> str:
    """Return the kind of file system that a folder lies on, as the operating system names it."""
    place = folder.resolve()
    mounts = [one for one in psutil.disk_partitions(all=True) if place.is_relative_to(one.mountpoint)]
    # Of two on the same folder the later one is seen.
    return max(enumerate(mounts), key=lambda one: (len(one[1].mountpoint), one[0]))[1].fstype if mounts else ""


def file_system_check(kind: str) -> Check:
    """Return whether SQLite is safe for several processes on a file system of that kind."""
    if _NETWORK.fullmatch(kind):
        told = f"{kind} is a network's: SQLite's locks and log do not hold between machines"
        way_out = "search from one machine only, or use PostgreSQL: --storage postgresql+psycopg://USER@HOST/DATABASE"
        return Check("file system", "warning", told, way_out)
    return Check("file system", "ok", f"{kind or 'unknown'}, of this machine")


def _database(engine: Engine) -> Iterator[Check]:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            yield _journal(connection)
            return
        version = connection.scalar(text("SHOW server_version"))
        yield Check("storage", "ok", f"{masked(engine.url)}: PostgreSQL {version}")
        before = time.time()
        there = float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0.0)
        yield clock_check(there - (before + time.time()) / 2)


def _journal(connection: Connection) -> Check:
    import sqlite3

    mode = str(connection.scalar(text("PRAGMA journal_mode")))
    told = f"SQLite {sqlite3.sqlite_version}, journal {mode}"
    if not is_writable(connection.engine.url):
        return Check("database", "ok", f"SQLite {sqlite3.sqlite_version}, opened to be read only")
    return Check("database", "ok", told if mode == "wal" else f"{told}; the next search turns on the write-ahead log")


def clock_check(seconds: float) -> Check:
    """Return whether the database's clock is near enough to this machine's; `seconds` is how far it is ahead."""
    if abs(seconds) <= MOST_CLOCK_SECONDS:
        return Check("clock", "ok", f"the database's is {abs(seconds):.1f} s from this machine's")
    told = f"the database's is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} this machine's"
    way_out = "set both by a time server (NTP): what is dead or alive is judged by them"
    return Check("clock", "warning", told, way_out)


def our_schema(engine: Engine) -> tuple[Check, bool]:
    """Return whether our tables are those of this version, and whether there are any that can be read."""
    if not inspect(engine).has_table(tables.schema.name):
        return Check("tables", "ok", "none of budgetnas yet: the first search makes them"), False
    try:
        require_tables(engine)
    except InputError as error:
        return Check("tables", "problem", error.rule, error.way_out), False
    return Check("tables", "ok", f"version {tables.SCHEMA_VERSION}, this program's"), True


def optuna_schema(engine: Engine) -> Check:
    """Return whether Optuna's tables are those of the Optuna that is installed."""
    from optuna import __version__ as installed
    from optuna.storages import RDBStorage

    name = "optuna's tables"
    if not inspect(engine).has_table("alembic_version"):
        return Check(name, "ok", "none yet: the first search makes them")
    with engine.connect() as connection:
        there = connection.scalar(text("SELECT version_num FROM alembic_version"))
    sample = RDBStorage("sqlite://")  # in memory: a place to ask which version Optuna would make
    try:
        wanted, known = sample.get_head_version(), sample.get_all_versions()
    finally:
        sample.remove_session()
        sample.engine.dispose()
    if there == wanted:
        return Check(name, "ok", f"version {there}, that of optuna {installed}")
    told = f"version {there}, but optuna {installed} has {wanted}"
    if there in known:
        return Check(name, "problem", told, "make a copy, then: optuna storage upgrade --storage URL")
    return Check(name, "problem", told, "they are a newer Optuna's, or nobody's: pip install --upgrade optuna")


def studies(records: Records) -> Iterator[Check]:
    """Look at which studies there are, and what is being trained."""
    names = records.study_names()
    shown = ", ".join(names[:_SHOWN_STUDIES]) + (", ..." if len(names) > _SHOWN_STUDIES else "")
    one = tables.runs.c
    with records.engine.connect() as connection:
        running = connection.scalar(select(func.count()).where(one.state == State.RUNNING.value)) or 0
    told = f"{len(names)}: {shown}" if names else "none"
    yield Check("studies", "ok", f"{told}; {_many(running, 'run')} recorded as being trained")


def named_study(records: Records | None, study: str, known: list[StudySpecification]) -> Iterator[Check]:
    """Look whether a study is there; add its specification to `known` if it is.

    Args:
        records: The records of the storage; nothing if they cannot be read.
        study: Name of the study.
        known: Empty.
    """
    if records is None:
        told = f"{study!r} cannot be looked up: there are no studies to be read in this storage"
        yield Check("--study", "problem", told, "name the storage that it was searched in")
        return
    stored = records.specification(study)
    if stored is None:
        there = ", ".join(records.study_names()[:_SHOWN_STUDIES]) or "none yet"
        yield Check("--study", "problem", f"{study!r} is not in this storage; there: {there}", "see budgetnas studies")
        return
    try:
        known.append(read_specification(stored))
    except InputError as error:
        yield Check("--study", "problem", f"{study!r}: {error.rule}", "use the budgetnas that made it")


# Data


def data(request: DoctorRequest, specification: StudySpecification | None) -> Iterator[Check]:
    """Look at the data, read as a search would read them but with nothing downloaded, unpacked or cached."""
    asked = _data_request(request, specification)
    if not asked.is_folder and asked.name != "digits" and not is_unpacked(asked):
        yield _not_unpacked(asked)
        return
    with only_looking():
        loaded = load_data(asked)
    yield Check("data", "ok", _described(loaded))
    if specification is not None:
        yield _same_data(loaded, specification, request.study or "")


def _data_request(request: DoctorRequest, specification: StudySpecification | None) -> DataRequest:
    if specification is None:
        return DataRequest(request.data or DEFAULT_DATA, request.data_dir)
    from budgetnas.reopen import DataPlace, study_data_request

    return study_data_request(specification, request.study or "", DataPlace(request.data, request.data_dir))


def _not_unpacked(request: DataRequest) -> Check:
    folder = request.archive_dir
    absent = [one for one in archives_of(request) if not (folder / one.relative).is_file()]
    if not absent:
        return Check("data", "ok", f"{request.name}: the archive is in {folder}, and is unpacked by the first search")
    told = f"{request.name} is not in {folder}: the first search downloads it from {absent[0].url}"
    way_out = "without a network put it there, or use --data digits or --data folder:DIR"
    return Check("data", "warning", told, way_out)


def _described(loaded: Data) -> str:
    side, identity = loaded.resolution, loaded.identity
    return (
        f"{identity.label()}: {len(loaded.train):,} images to train with, {len(loaded.validation):,} to judge, "
        f"{side} x {side} pixels, {_many(len(loaded.classes), 'class', 'classes')}, identity {identity.digest()}"
    )


def _same_data(loaded: Data, specification: StudySpecification, study: str) -> Check:
    identity = specification.data
    if loaded.identity == identity:
        return Check("study's data", "ok", f"the same as study {study!r} was made on")
    told = f"study {study!r} was made on {identity.label()}, identity {identity.digest()}"
    return Check("study's data", "problem", told, "name those with --data and --data-dir, or begin another study")


# Space on disks


def disks(url: URL) -> Iterator[Check]:
    """Look at how much is free where a search writes."""
    folders = {"cache": cache_root(), "here": Path.cwd()}
    if url.get_backend_name() == "sqlite" and is_writable(url):
        folders = {"storage": sqlite_file(url).parent} | folders
    for name, folder in folders.items():
        there = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
        yield disk_check(f"disk, {name}", there, shutil.disk_usage(there).free)


def disk_check(name: str, folder: Path, free: int) -> Check:
    """Return whether enough bytes are free in a folder."""
    told = f"{_size(free)} free in {folder}"
    if free >= WARN_BYTES:
        return Check(name, "ok", told)
    way_out = "free some, or use another disk"
    return Check(name, "problem" if free < PROBLEM_BYTES else "warning", told, way_out)


def _size(size: float) -> str:
    return f"{size / (1 << 30):,.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):,.0f} MiB"


def _many(number: int, thing: str, things: str = "") -> str:
    return f"{number} {thing if number == 1 else things or f'{thing}s'}"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]
