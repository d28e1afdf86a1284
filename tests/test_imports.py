from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]


def test_the_import_contracts_hold() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        (
            "architecture.budget space.specification space.initial_trials storage storage.leases storage.engine",
            "torch torchvision optuna sklearn",
        ),
        ("architecture.fit", "torch optuna sqlalchemy pydantic numpy scipy typer"),
        ("space.survey space.shape", "torch torchvision optuna sklearn sqlalchemy scipy.stats typer"),
        ("samplers.choice", "torch torchvision optuna sklearn sqlalchemy typer"),
        ("runs.interrupts metrics errors", "torch optuna sqlalchemy pydantic"),
        ("training training.measure", "optuna sqlalchemy typer"),
        ("runs.recording", "optuna typer"),
        ("bundle.loading", "optuna sqlalchemy plotly onnx onnxruntime typer sklearn torchvision"),
        (
            "cli.predict api.progress.lines bundle.loading bundle.image_sources bundle.prediction_csv bundle.scores",
            "optuna sqlalchemy plotly onnx onnxruntime sklearn torchvision",
        ),
        ("searching.session", "optuna_dashboard sklearn plotly typer scipy.stats"),
    ],
)
def test_light_packages_import_no_heavy_library(modules: str, unwanted: str) -> None:
    wanted = ", ".join(f"budgetnas.{module}" for module in modules.split())
    code = f"import sys, {wanted}; print(sorted(set({unwanted.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
