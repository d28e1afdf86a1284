"""What must never happen: a password shown, a pickle loaded, a name that becomes markup or a path, an open port."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import pickle
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import PostgresServer
from forked import Forked
from PIL import Image
from reporting import seeded_study
from small import STUDY, run, start, study_file
from sqlalchemy import MetaData, create_engine, insert, select
from sqlalchemy.engine import make_url

import budgetnas
from budgetnas.architecture.budget import Budget
from budgetnas.bundle import contents
from budgetnas.bundle.loading import load
from budgetnas.data import DataRequest, load_data
from budgetnas.data.cache import CacheEntry
from budgetnas.errors import BudgetnasError, InputError, hide_passwords
from budgetnas.report.page import report_name
from budgetnas.samplers.named import SAMPLERS, search_sampler
from budgetnas.search.options import check_study_name
from budgetnas.space.candidates import CandidateSpace
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.storage import tables
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage

PACKAGE = Path(budgetnas.__file__).parent
SECRET = "pa55/w@rd"
SECRETS = (SECRET, "pa55%2Fw%40rd", "pa55%2fw%40rd", "pa55/w%40rd")
NASTY = '../<script>alert("1")</script>\' <img src=x onerror=alert(2)>'


# Passwords


def in_user_part(database: str) -> str:
    return make_url(database).set(password=SECRET).render_as_string(hide_password=False)


def in_options(database: str) -> str:
    return make_url(database).update_query_dict({"password": SECRET}).render_as_string(hide_password=False)


def shown(*texts: str) -> None:
    for text in texts:
        assert not [one for one in SECRETS if one in text], text


def in_files(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and file.name != "study.toml":
            content = file.read_bytes()
            assert not [one for one in SECRETS if one.encode() in content], file


def in_tables(database: str) -> int:
    """Look at every value of every table, Optuna's too; return how many rows there are."""
    engine = create_engine(database)
    found = MetaData()
    found.reflect(engine)
    rows = 0
    with engine.connect() as connection:
        for table in found.sorted_tables:
            for row in connection.execute(select(table)):
                rows += 1
                shown(*map(str, row))
    engine.dispose()
    return rows


@pytest.mark.slow
def test_no_command_shows_or_keeps_the_password_of_a_storage(postgres_database: str, tmp_path: Path) -> None:
    url, options = in_user_part(postgres_database), in_options(postgres_database)
    path = study_file(tmp_path, trials="2", study='"s"')
    commands: list[tuple[int, tuple[str, ...]]] = [
        (0, ("search", path, f"--storage={url}", "--timeout", "0.01s")),
        (0, ("search", path, "--storage", options, "--timeout", "0.01s")),
        (0, ("search", path, "--storage", url)),
        (2, ("search", path, "--storage", options, "--epochs", "3")),
        (0, ("show", "s", "--storage", url)),
        (0, ("show", "s", "--storage", options, "--json")),
        (0, ("studies", "--storage", options)),
        (0, ("report", "s", "--storage", options)),
        (0, ("finish", "s", f"--storage={options}", "--timeout", "0.01s")),
        (0, ("export", "s", "--run", "1", "--storage", url)),
        (0, ("compare", "s", f"--storage={url}", "--timeout", "0.01s")),
        (0, ("doctor", "--study", "s", "--storage", options)),
        (2, ("show", url, "--storage", url)),
        (2, ("search", options)),
    ]
    resumed = 0
    for code, arguments in commands:
        done = run(tmp_path, *arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        shown(done.stdout, done.stderr)
        resumed += "Resume with:" in done.stderr
    assert resumed == 4, "the command to go on with was shown"
    in_files(tmp_path)
    assert in_tables(postgres_database) > 50


@pytest.mark.parametrize(
    ("command", "way", "url"),
    [
        ("search", "option", f"postgresql://me:{SECRETS[1]}@127.0.0.1:1/nas?no_such_option=1"),
        ("search", "environment", f"postgresql://me:{SECRETS[1]}@no-such-host.invalid/nas"),
        ("search", "study file", f"postgresql://127.0.0.1:1/nas?user=me&password={SECRETS[1]}"),
        ("show", "option", f"postgresql://127.0.0.1:1/nas?user=me&password={SECRETS[1]}"),
        ("show", "environment", f"postgresql://me:{SECRET}@127.0.0.1:1/nas"),
        ("doctor", "environment", f"postgresql://me:{SECRETS[1]}@no-such-host.invalid/nas"),
    ],
)
def test_no_failing_command_shows_the_password_of_a_storage(tmp_path: Path, command: str, way: str, url: str) -> None:
    changes = {"storage": json.dumps(url)} if way == "study file" else {}
    option = ("--storage", url) if way == "option" else ()
    extra = {"BUDGETNAS_STORAGE": url} if way == "environment" else {}
    of_command = {"search": (study_file(tmp_path, **changes),), "show": ("s",), "doctor": ("--data", "digits")}
    done = run(tmp_path, command, *of_command[command], *option, **extra)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    shown(done.stdout, done.stderr)
    in_files(tmp_path)


def test_a_server_that_goes_away_is_told_without_the_password(
    postgres_server: PostgresServer, postgres_database: str, tmp_path: Path
) -> None:
    """The lost connection's error is the database's own; it comes in the middle of a search."""
    path = study_file(tmp_path, trials="500", study='"s"')
    where = ("--storage", in_user_part(postgres_database))
    process = start(tmp_path, "search", path, *where, BUDGETNAS_PATIENCE="3s")
    engine = create_engine(postgres_server.url, isolation_level="AUTOCOMMIT")
    name = make_url(postgres_database).database
    try:
        wait_for_a_training(postgres_database, process)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
            others = f"datname = '{name}' AND pid <> pg_backend_pid()"
            connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
        out, err = process.communicate(timeout=120)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
    finally:
        process.kill()
        process.communicate()
        engine.dispose()
    assert process.returncode != 0
    assert "storage" in err.splitlines()[-1] or "Resume with" in err, err
    shown(out, err)


def wait_for_a_training(database: str, process: Forked) -> None:
    engine = create_engine(database)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with engine.connect() as connection:
            if connection.dialect.has_table(connection, "epochs") and connection.execute(select(tables.epochs)).first():
                break
        time.sleep(0.2)
    engine.dispose()
    assert process.poll() is None, process.communicate()


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("STUDY 'postgresql://me:x@y@host/d'", "STUDY 'postgresql://me:***@host/d'"),
        ("at postgresql+psycopg://:x@host/d", "at postgresql+psycopg://:***@host/d"),
        ("d?sslpassword=x&b=1", "d?sslpassword=...&b=1"),
        ("see http://127.0.0.1:8080/ and me@host", "see http://127.0.0.1:8080/ and me@host"),
    ],
)
def test_passwords_in_messages_are_hidden(message: str, told: str) -> None:
    assert hide_passwords(message) == told


# Pickles


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def given(call: ast.Call, name: str) -> object:
    return next(
        (one.value.value for one in call.keywords if one.arg == name and isinstance(one.value, ast.Constant)), None
    )


def dangers(source: str) -> list[str]:
    """What in a module could run code that a file or a storage holds."""
    found = []
    modules = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
    names = {"CmaEsSampler", "JournalStorage", "JournalFileBackend", "PickleType", "read_pickle"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [one.name for one in node.names if one.name.partition(".")[0] in modules]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module or ""] if (node.module or "").partition(".")[0] in modules else []
            found += [one.name for one in node.names if one.name in names]
        elif isinstance(node, ast.Attribute) and node.attr in names:
            found.append(node.attr)
        elif isinstance(node, ast.Call):
            called = dotted(node.func)
            if called in ("eval", "exec", "torch.jit.load", "torch.hub.load"):
                found.append(called)
            if called in ("np.load", "numpy.load") or called.endswith("format.read_array"):
                found += [] if given(node, "allow_pickle") is False else [called]
            if called == "torch.load":
                found += [] if given(node, "weights_only") is True else [called]
    return found


def test_no_module_can_load_a_pickle() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 100
    assert {str(one): found for one in modules if (found := dangers(one.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import numpy as np\nnp.load('x')",
        "np.load('x', allow_pickle=True)",
        "np.lib.format.read_array(file)",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "from optuna.samplers import CmaEsSampler",
        "optuna.samplers.CmaEsSampler()",
        "eval('1')",
    ],
)
def test_a_pickle_would_be_noticed(source: str) -> None:
    assert dangers(source)


def test_what_may_be_written_is_not_noticed() -> None:
    assert dangers("torch.load('x', weights_only=True); np.load('x', allow_pickle=False); network.eval()") == []


def test_no_sampler_keeps_its_state_as_a_pickle_in_the_storage() -> None:
    """Optuna's CMA-ES does: whoever can write into a shared storage could run code in every worker."""
    optuna = importlib.import_module("optuna.samplers")
    assert "pickle" in inspect.getsource(inspect.getmodule(optuna.CmaEsSampler) or optuna), "the test would notice"
    candidates = CandidateSpace(SearchSpace(), RecipeSpace(), InputShape(in_channels=3, size=32, classes=10))
    for name in SAMPLERS:
        sampler = search_sampler(name, 0, candidates, Budget(5_000_000), 50)
        for kind in type(sampler).__mro__:
            if kind.__module__.startswith(("optuna", "budgetnas")):
                assert "pickle" not in inspect.getsource(importlib.import_module(kind.__module__)), (name, kind)


class Trap:
    """A pickle of it makes a folder where it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (Path(self.folder),)


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """The folder that is there once somebody loads a trap."""
    folder = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(folder)))
    assert folder.is_dir(), "the trap works"
    folder.rmdir()
    return folder


def test_the_cache_of_images_loads_no_pickle(tmp_path: Path, sprung: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(tmp_path))
    entry = CacheEntry("0" * 64)
    entry.write_images("train", np.zeros((1, 3, 8, 8), np.uint8))
    (file,) = (tmp_path / "data").rglob("train.npy")
    with file.open("wb") as opened:
        np.save(opened, np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    assert entry.read_images("train", (1, 3, 8, 8)) is None
    file.write_bytes(pickle.dumps(Trap(sprung)))
    assert entry.read_images("train", (1, 3, 8, 8)) is None
    assert not sprung.exists()


def test_unpacked_cifar10_with_other_content_is_not_unpickled(tmp_path: Path, sprung: Path) -> None:
    """The one pickle there is: torchvision's, read only where the checksum is that of the original."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(InputError, match="damaged"):
        load_data(DataRequest("cifar10", tmp_path))
    assert not sprung.exists()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a search of one run and its bundle."""
    folder = tmp_path_factory.mktemp("searched")
    assert run(folder, "search", study_file(folder, study='"s"', trials="1")).returncode == 0
    assert run(folder, "export", "s", "--run", "1", "--out", "bundle").returncode == 0
    return folder


@pytest.mark.slow
def test_weights_in_a_storage_are_no_pickle(searched: Path, sprung: Path) -> None:
    evil = pickle.dumps(Trap(sprung))
    records = open_records(parse_storage(str(searched / "budgetnas.db")), must_exist=True)
    with records.engine.begin() as connection:
        row = {"run": 1, "sha256": hashlib.sha256(evil).hexdigest(), "tensors": evil}
        connection.execute(insert(tables.weights).values(row))
    records.close()
    done = run(searched, "export", "s", "--run", "1", "--out", "other")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert not (searched / "other").exists()
    assert not sprung.exists()


def test_weights_in_a_bundle_are_no_pickle(searched: Path, sprung: Path) -> None:
    bundle, evil = searched / "bundle", pickle.dumps(Trap(sprung))
    (bundle / contents.WEIGHTS).write_bytes(evil)
    manifest = json.loads((bundle / contents.MANIFEST).read_text())
    manifest["files"][contents.WEIGHTS] = hashlib.sha256(evil).hexdigest()
    (bundle / contents.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BudgetnasError):
        load(bundle)
    assert not sprung.exists()


# Names


class Tags(HTMLParser):
    """Notes the elements of a page, and attributes that would run something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.running: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.running += [name for name, value in attributes if name.startswith("on") or "javascript:" in (value or "")]


@pytest.mark.slow
def test_nasty_names_stay_text_and_make_no_path(tmp_path: Path) -> None:
    """A study and a folder of images named to be markup, or a path, through the real program."""
    work = tmp_path / "in" / "work"
    work.mkdir(parents=True)
    images = tmp_path / "<img src=x onerror=alert(3)>"
    for name in ("<script>alert(4)<", 'it\'s "it"'):
        (images / "train" / name).mkdir(parents=True)
        for index in range(20):
            Image.new("RGB", (8, 8), (index, len(name), 0)).save(images / "train" / name / f"{index}.png")
    before = {one for one in tmp_path.rglob("*") if images not in one.parents}
    size = ("--budget", "20k", "--epochs", "1", "--trials", "2", "--data", f"folder:{images}")
    made = run(work, "search", *size, "--study", NASTY)
    assert made.returncode == 0, made.stderr
    assert run(work, "report", NASTY).returncode == 0
    exported = run(work, "export", NASTY, "--run", "1", "--data", f"folder:{images}")
    assert exported.returncode == 0, exported.stderr
    new = {one for one in tmp_path.rglob("*") if images not in one.parents} - before
    assert {one.parent for one in new} <= {work, *(one for one in new if one.is_dir())}, "nothing outside"
    (page,) = work.glob("*-report.html")
    (bundle,) = (one for one in work.iterdir() if one.is_dir())
    for name in (page.name, bundle.name):
        assert re.fullmatch(r"[\w.-]+", name), name
    html = page.read_text(encoding="utf-8")
    seen = Tags(html)
    assert seen.tags["script"] == 4
    assert "img" not in seen.tags
    assert seen.running == []
    assert "&lt;img src=x onerror=alert(2)&gt;" in html
    for file in re.findall(r'"file": "([^"]*)"', html):
        assert re.fullmatch(r"[\w.-]+\.csv", file), file
    card = Tags((bundle / contents.CARD).read_text(encoding="utf-8").replace("\\<", "&lt;"))
    assert {"script", "img"} & set(card.tags) == set()


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/x",
        "/etc/passwd",
        "..",
        ".",
        "a\nb",
        "a\0b",
        "C:\\x",
        "..\\x",
        " ",
        "~/x",
        "a/../../b",
        "\N{SNOWMAN}é" * 100,
        "é" * 200,
    ],
)
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    made = report_name(name)
    assert made not in ("", ".", "..")
    assert not made.startswith(".")
    assert len(f".{made}-report.html.{2**22}.tmp".encode()) <= 255
    assert not re.search(r"[/\\\0\n:~ ]", made)


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x1b[31mb", "a\0b", "", " ", "x" * 201])
def test_names_that_are_not_printed_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="must be 1 to 200 printable characters"):
        check_study_name(name)


def test_a_name_that_is_not_printed_makes_no_study(tmp_path: Path) -> None:
    done = run(tmp_path, "search", study_file(tmp_path), "--study", "a\nb")
    assert done.returncode == 2
    assert "--study" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "budgetnas.db").exists()


def test_a_stored_name_with_line_ends_and_markup_is_reported_as_text(tmp_path: Path) -> None:
    """Somebody else's storage may hold what no search of ours would make."""
    name = f"a\n</script>{NASTY}"
    records = open_records(parse_storage(str(tmp_path / "budgetnas.db")))
    seeded_study(records, study=name, label=NASTY)
    records.close()
    done = run(tmp_path, "report", name)
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("*.html")
    assert re.fullmatch(r"[\w.-]+", page.name)
    seen = Tags(page.read_text(encoding="utf-8"))
    assert (seen.tags["script"], "img" in seen.tags, seen.running) == (4, False, [])


# Servers


@contextmanager
def dashboard(folder: Path, *arguments: str) -> Iterator[tuple[int, list[str], list[str]]]:
    """The real dashboard: its port, the addresses it listens on, and what it told when it has ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process, told = start(folder, "dashboard", "--port", str(port), *arguments), []
    listening: list[str] = []
    deadline = time.monotonic() + 60
    while not listening and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        found = psutil.Process(process.pid).net_connections()
        listening = [one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN]
        time.sleep(0.2)
    try:
        yield port, listening, told
    finally:
        process.send_signal(signal.SIGINT)
        try:
            told += process.communicate(timeout=30)
        finally:
            process.kill()


def asked(port: int, host: str, path: str = "/api/studies") -> tuple[int, str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_the_dashboard_listens_and_answers_here_only(searched: Path) -> None:
    with dashboard(searched) as (port, listening, told):
        assert listening == ["127.0.0.1"]
        for name in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST", f"[::1]:{port}"):
            assert asked(port, name)[0] == 200, name
        for name in (f"evil.example:{port}", "127.0.0.1.evil.example", "", "localhost@evil.example"):
            code, _, body = asked(port, name)
            assert (code, "--host" in body) == (403, True), name
    assert "no password" not in told[1]


def test_a_dashboard_for_others_warns(searched: Path) -> None:
    with dashboard(searched, "--host", "0.0.0.0") as (port, listening, told):
        assert listening == ["0.0.0.0"]
        assert asked(port, f"my-server.example:{port}")[0] == 200
    assert "other machines may reach 0.0.0.0, and the dashboard has no password" in told[1]


@pytest.mark.slow
def test_the_dashboard_shows_no_password_and_sends_names_as_json(postgres_database: str, tmp_path: Path) -> None:
    records = open_records(parse_storage(postgres_database))
    records.close()
    url = in_user_part(postgres_database)
    named = (study_file(tmp_path, STUDY, trials="1"), "--study", NASTY, "--storage", url)
    assert run(tmp_path, "search", *named).returncode == 0
    with dashboard(tmp_path, "--storage", url) as (port, _, told):
        code, kind, body = asked(port, "localhost")
        assert (code, kind.partition(";")[0]) == (200, "application/json")
        (study,) = json.loads(body)["study_summaries"]
        assert study["study_name"] == NASTY
        code, kind, detail = asked(port, "localhost", f"/api/studies/{study['study_id']}?after=0")
        assert (code, kind.partition(";")[0]) == (200, "application/json")
        assert "budgetnas-history" in detail
        assert "<script" not in json.dumps(json.loads(detail)["plotly_graph_objects"])
        shown(body, detail)
    shown(*told)
    in_files(tmp_path)
