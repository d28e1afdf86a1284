"""The notebook for Colab and Kaggle, run from its file on digits."""

from __future__ import annotations

import html
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from budgetnas.storage import Records, Role, Run, State
from budgetnas.storage.opening import open_records_read_only
from budgetnas.storage.urls import parse_storage

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebooks" / "budgetnas-colab.ipynb"


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def text_of(notebook: Any) -> str:
    """What the cells printed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pages_in(notebook: Any) -> Iterator[str]:
    """The pages shown inside the notebook."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            shown = output.get("data", {}).get("text/html", "")
            if match := re.match(r'<div><iframe srcdoc="([^"]*)"', shown):
                yield html.unescape(match[1])


def run_all(notebook: Any, folder: Path, trials: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run all cells in `folder`, on digits with few epochs; return what they printed."""
    for name in [name for name in os.environ if name.startswith("BUDGETNAS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BUDGETNAS_NOTEBOOK", "digits")
    monkeypatch.setenv("BUDGETNAS_EPOCHS", "2")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    for cell in notebook.cells:
        cell.source = cell.source.replace("digits-demo --trials 4", f"digits-demo --trials {trials}")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return text_of(notebook)


def runs_of(records: Records) -> list[Run]:
    return [run for run in records.runs(study="notebook") if run.role is not Role.FINAL]


def test_the_notebook_is_kept_without_outputs(notebook: Any) -> None:
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.slow
def test_a_search_resumes_on_another_machine(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    printed = run_all(nbformat.read(NOTEBOOK, as_version=4), first, 2, monkeypatch)
    assert "problems: 0" in printed
    assert "trained 2/2" in printed
    with closing(open_records_read_only(parse_storage(str(first / "budgetnas.db")))) as records:
        before = runs_of(records)
    assert [run.state for run in before] == [State.COMPLETE] * 2
    assert (first / "kept" / "bundle" / "model.pt").exists()

    shutil.copytree(first / "kept", second / "kept")
    shutil.rmtree(first)  # the machine is gone, and the folder that survives is mounted on the next
    printed = run_all(notebook, second, 4, monkeypatch)
    assert "trained 4/4" in printed
    with closing(open_records_read_only(parse_storage(str(second / "kept" / "copy-of-budgetnas.db")))) as records:
        after = runs_of(records)
    assert after[:2] == before, "the trainings of the first machine are kept as they were"
    assert [run.state for run in after] == [State.COMPLETE] * 4
    (page,) = pages_in(notebook)
    assert page == (second / "kept" / "report.html").read_text(encoding="utf-8")
    assert "notebook" in page and "plotly" in page.lower()
