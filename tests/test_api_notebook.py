"""Python in a notebook: cells that a kernel of Jupyter runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from budgetnas.api.progress.notebook import NotebookLines, in_notebook

SEARCH = """
import budgetnas

study = budgetnas.search(
    data="digits", budget="6k", subset=200, subset_eval=100, epochs={epochs}, batch_size=50, trials=2, device="cpu",
    space={{"blocks": [[1, 2], [1, 1]], "widths": [4, 6, 8, 10, 12]}}, study="{study}",
)
study
"""
INTERRUPT = """
import os, signal, threading, time
import budgetnas

def press():
    while True:
        time.sleep(0.1)
        try:
            if any(trial.epochs for trial in budgetnas.open_study("stopped").trials):
                return os.kill(os.getpid(), signal.SIGINT)
        except budgetnas.InputError:
            pass

threading.Thread(target=press).start()
"""
LOOP = """
import asyncio
await asyncio.to_thread(budgetnas.search, study="short", trials=3)
"""


def executed(folder: Path, *cells: str, allow_errors: bool = False) -> list[Any]:
    """Run the cells in a fresh kernel; return them with their outputs."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, resources=resources, allow_errors=allow_errors).execute()
    nbformat.write(notebook, folder / "executed.ipynb")
    return list(notebook.cells)


def html_of(cell: Any) -> list[str]:
    return [output.data["text/html"] for output in cell.outputs if "text/html" in output.get("data", {})]


def test_a_test_does_not_count_as_a_notebook() -> None:
    assert not in_notebook()


def test_lines_are_escaped() -> None:
    lines = NotebookLines()
    lines._output = type("Output", (), {"update": lambda self, shown: None})()
    lines.advance(0.256)
    lines.say("a class of the name <b>")
    assert "26%" in lines.html() and 'value="0.256"' in lines.html()
    assert "&lt;b&gt;" in lines.html() and "<b>" not in lines.html()


@pytest.mark.slow
def test_a_search_shows_a_bar_a_summary_and_figures(tmp_path: Path) -> None:
    cells = SEARCH.format(epochs=2, study="short"), "study.trials", 'study.figures()["history"]', LOOP
    search, trials, figure, loop = executed(tmp_path, *cells)
    bar, summary = html_of(search)
    assert 'value="1.000"' in bar and "trained 2/2" in bar
    assert "<b>short</b>: 2 trials trained, the winner has" in summary
    streams = [output.text for output in search.outputs if output.output_type == "stream"]
    assert all("tqdm" in text for text in streams), "tqdm, which Optuna imports, wants ipywidgets"
    assert html_of(trials)[0].count("<tr>") == 3
    assert "application/vnd.plotly.v1+json" in figure.outputs[-1].data
    assert "trained 3/3" in html_of(loop)[0]


@pytest.mark.slow
def test_the_interrupt_button_stops_a_search_and_the_cell_resumes_it(tmp_path: Path) -> None:
    search = SEARCH.format(epochs=60, study="stopped")
    look = "[(trial.state.value, trial.epochs) for trial in budgetnas.open_study('stopped').trials]"
    _, stopped, looked, resumed, end = executed(tmp_path, INTERRUPT, search, look, search, look, allow_errors=True)
    assert stopped.outputs[-1].ename == "KeyboardInterrupt"
    assert "Stopped. Every finished epoch is saved." in html_of(stopped)[0]
    assert "interrupted" in looked.outputs[0].data["text/plain"]
    assert "trained 2/2" in html_of(resumed)[0]
    assert end.outputs[0].data["text/plain"] == "[('complete', 60), ('complete', 60)]"
