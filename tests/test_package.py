from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from budgetnas.search.options import read_study_file
from budgetnas.space.presets import shipped_studies

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_the_studies_the_templates_and_the_types(tmp_path: Path) -> None:
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
    assert set(shipped_studies()) >= {"cifar10-5m", "digits-demo"}
    for name in shipped_studies():
        assert read_study_file(name).budget is not None
