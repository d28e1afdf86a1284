from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import budgetnas
from budgetnas.architecture import Architecture, count
from budgetnas.searching.options import read_study_file
from budgetnas.space.initial_trials import initial_candidate
from budgetnas.space.presets import shipped_studies
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the source archive."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    assert len(list(folder.glob("*.tar.gz"))) == 1
    return wheel


def test_the_wheel_contains_the_studies_the_templates_and_the_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in ("cifar10-5m.toml", "digits-demo.toml", "report-2022.toml", "report-2022-curves.csv"):
        assert f"budgetnas/studies/{name}" in names
    assert "budgetnas/py.typed" in names
    assert any(name.startswith("budgetnas/report/templates/") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)


def test_the_wheel_searches_and_reports_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, which borrows only the dependencies."""
    home, work = tmp_path / "venv", tmp_path / "work"
    work.mkdir()
    venv.create(home, symlinks=True)
    place = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    (place / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and "BUDGETNAS" not in name}

    def python(*arguments: str) -> str:
        command = [str(home / "bin" / "python"), *arguments]
        done = subprocess.run(command, cwd=work, env=kept, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert python("-c", "import budgetnas; print(budgetnas.__file__)").startswith(str(place))
    value = json.loads(python("-m", "budgetnas", "search", "digits-demo", "--trials", "2", "--json"))
    assert value["tallies"]["trained"] == 2
    python("-m", "budgetnas", "report", "digits-demo")
    assert "digits-demo" in (work / "digits-demo-report.html").read_text(encoding="utf-8")


def test_the_citation_names_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert (cited["title"], str(cited["version"]), cited["license"]) == (
        project["name"],
        project["version"],
        project["license"],
    )
    assert project["version"] == budgetnas.__version__
    assert [author["name"] for author in cited["authors"]] == [author["name"] for author in project["authors"]]


def test_every_shipped_study_file_can_be_read() -> None:
    assert set(shipped_studies()) >= {
        "chip-64k",
        "cifar10-5m",
        "digits-demo",
        "era-200k",
        "mlperf-tiny-ic01",
        "mlperf-tiny-ic02",
    }
    for name in shipped_studies():
        assert read_study_file(name).budget is not None


def test_the_shipped_file_of_all_defaults_has_the_default_space() -> None:
    assert read_study_file("cifar10-5m").space == SearchSpace()


@pytest.mark.parametrize(("name", "widths"), [("mlperf-tiny-ic01", (16, 32, 64)), ("mlperf-tiny-ic02", (40, 80, 160))])
def test_the_limits_of_mlperf_tiny_equal_its_reference(name: str, widths: tuple[int, ...]) -> None:
    options = read_study_file(name)
    counts = count(Architecture((1, 1, 1), widths, (1, 2, 2), stem_width=widths[0]))
    assert (options.budget, options.max_macs) == (counts.params, counts.macs)
    assert options.space is None, "the default space"


def test_the_initial_trials_of_the_shipped_files_are_networks_of_their_spaces_within_their_limits() -> None:
    for name in shipped_studies():
        options = read_study_file(name)
        for seed in options.seeds or ():
            candidate = initial_candidate(seed, RecipeSpace(), InputShape(in_channels=3, size=32, classes=10))
            assert options.limits().fits(candidate.architecture), (name, seed)
            assert (options.space or SearchSpace()).params_of(candidate.architecture) is not None, (name, seed)
