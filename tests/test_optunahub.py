"""The package for OptunaHub: loaded from the registry in `contrib/optunahub` as its users load it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import IntDistribution
from small import ROOT, environment

from budgetnas.samplers.budget_sampler import BudgetSampler

REGISTRY = ROOT / "contrib" / "optunahub" / "package"
PACKAGE = REGISTRY / "samplers" / "budget"


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_names_a_network_within_the_limit() -> None:
    last = python(str(PACKAGE / "example.py")).splitlines()[-1]
    number, params = last.split(": ", maxsplit=1)
    assert number.startswith("trial ")
    assert int(params.split("}, ")[1].split(" ")[0].replace(",", "")) <= 100_000


def test_the_hub_loads_the_sampler_without_pytorch() -> None:
    shown = python(
        "-c",
        "import optunahub, sys; "
        f"module = optunahub.load_local_module('samplers/budget', registry_root={str(REGISTRY)!r}); "
        "print(module.BudgetSampler.__module__, module.__all__, 'torch' in sys.modules)",
    )
    assert shown.split() == ["budgetnas.samplers.budget_sampler.sampler", "['BudgetSampler']", "False"]


def front_matter() -> dict[str, Any]:
    _, written, body = (PACKAGE / "README.md").read_text(encoding="utf-8").split("---\n", maxsplit=2)
    assert "<" not in body.replace("->", ""), "the hub removes HTML"
    found: dict[str, Any] = yaml.safe_load(written)
    return found


def test_the_front_matter_has_what_the_hub_asks_for() -> None:
    found = front_matter()
    assert set(found) == {"author", "title", "description", "tags", "optuna_versions", "license"}
    assert "sampler" in found["tags"]
    assert all(isinstance(text, str) for text in (*found["tags"], *found["optuna_versions"], found["description"]))
    assert optuna.__version__ in found["optuna_versions"], "the version that this test ran with"
    assert found["license"] == "MIT License"


def test_the_package_has_the_files_of_the_layout_and_the_license_of_the_project() -> None:
    assert {file.name for file in PACKAGE.iterdir() if file.is_file()} == {
        "LICENSE",
        "README.md",
        "__init__.py",
        "example.py",
        "requirements.txt",
    }
    assert (PACKAGE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_example_of_the_page_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With the registry of this project instead of the one on GitHub, and a formula for the training."""
    import optunahub

    page = (PACKAGE / "README.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    monkeypatch.setattr(
        optunahub, "load_module", lambda package: optunahub.load_local_module(package, registry_root=str(REGISTRY))
    )

    def train(width: int, depth: int, seed: int) -> float:
        return 20 - width / 20 - depth + seed % 3 / 10

    names: dict[str, Any] = {"train": train}
    exec(code, names)
    assert isinstance(names["sampler"], BudgetSampler)
    assert names["parameters"](names["sampler"].recommend(names["study"]).params) <= 100_000
    assert "width" in capsys.readouterr().out
    assert isinstance(names["study"].trials[0].distributions["width"], IntDistribution)
    assert len(names["study"].trials) == 30


def test_the_requirements_name_this_project() -> None:
    assert (PACKAGE / "requirements.txt").read_text(encoding="utf-8").split() == ["budgetnas", "optunahub"]
