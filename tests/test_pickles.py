"""No pickle is loaded from a file or a storage."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import run, study_file
from sqlalchemy import insert

import budgetnas
from budgetnas.architecture.budget import Budget
from budgetnas.bundle import contents, plain_pickles
from budgetnas.bundle.loading import load
from budgetnas.data import DataRequest, load_data
from budgetnas.data.cache import CacheEntry
from budgetnas.errors import BudgetnasError, InputError
from budgetnas.samplers.named import SAMPLERS, search_sampler
from budgetnas.space.candidates import CandidateSpace
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.storage import tables
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage

PACKAGE = Path(budgetnas.__file__).parent
READS_NUMBERS = "bundle/plain_pickles.py"
"""The module that reads a user's pickles of numbers; tests/test_predict.py has what it refuses."""


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def given(call: ast.Call, name: str) -> object:
    return next(
        (
            keyword.value.value
            for keyword in call.keywords
            if keyword.arg == name and isinstance(keyword.value, ast.Constant)
        ),
        None,
    )


def dangers(source: str) -> list[str]:
    """What in a module could run code from a file or a storage."""
    found = []
    modules = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
    names = {"CmaEsSampler", "JournalStorage", "JournalFileBackend", "PickleType", "read_pickle"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in modules]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module or ""] if (node.module or "").partition(".")[0] in modules else []
            found += [alias.name for alias in node.names if alias.name in names]
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
    found = {path.relative_to(PACKAGE).as_posix(): dangers(path.read_text(encoding="utf-8")) for path in modules}
    runs_its_own_text = "bundle/plain_module.py"  # to check a module that it wrote itself
    expected = {READS_NUMBERS: ["pickle"], runs_its_own_text: ["exec"]}
    assert {name: dangerous for name, dangerous in found.items() if dangerous} == expected


def test_the_module_that_reads_pickles_has_its_own_names_only() -> None:
    source = (PACKAGE / READS_NUMBERS).read_text(encoding="utf-8")
    assert re.findall(r"^from pickle import (.*)$", source, flags=re.MULTILINE) == ["Unpickler, UnpicklingError"]
    assert source.count("Unpickler(") == 2, "the class with its own find_class, and its only use"
    for value in plain_pickles._NAMES.values():
        assert isinstance(value, str) or getattr(value, "__module__", "") == plain_pickles.__name__


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


def test_safe_calls_are_not_reported() -> None:
    assert dangers("torch.load('x', weights_only=True); np.load('x', allow_pickle=False); network.eval()") == []


def test_no_sampler_keeps_its_state_as_a_pickle_in_the_storage() -> None:
    """Optuna's CMA-ES does: anybody who can write into a shared storage could run code in every worker."""
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
def test_weights_in_a_storage_are_not_a_pickle(searched: Path, sprung: Path) -> None:
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


def test_weights_in_a_bundle_are_not_a_pickle(searched: Path, sprung: Path) -> None:
    bundle, evil = searched / "bundle", pickle.dumps(Trap(sprung))
    (bundle / contents.WEIGHTS).write_bytes(evil)
    manifest = json.loads((bundle / contents.MANIFEST).read_text())
    manifest["files"][contents.WEIGHTS] = hashlib.sha256(evil).hexdigest()
    (bundle / contents.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BudgetnasError):
        load(bundle)
    assert not sprung.exists()
