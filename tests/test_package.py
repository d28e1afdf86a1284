from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from budgetnas.architecture import Architecture, count
from budgetnas.searching.options import read_study_file
from budgetnas.space.initial_trials import initial_candidate
from budgetnas.space.presets import shipped_studies
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def test_the_wheel_contains_the_studies_the_templates_and_the_types(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in ("cifar10-5m.toml", "digits-demo.toml", "report-2022.toml", "report-2022-curves.csv"):
        assert f"budgetnas/studies/{name}" in names
    assert "budgetnas/py.typed" in names
    assert any(name.startswith("budgetnas/report/templates/") for name in names)
    assert not any(name.startswith("tests/") for name in names)


def test_every_shipped_study_file_can_be_read() -> None:
    assert set(shipped_studies()) >= {"cifar10-5m", "digits-demo", "era-200k", "mlperf-tiny-ic01", "mlperf-tiny-ic02"}
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
