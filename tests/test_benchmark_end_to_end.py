from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.end_to_end import measure, script_candidate, summary_lines
from budgetnas.space.initial_trials import initial_candidate
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape


def test_the_difference_is_paired_by_seed() -> None:
    assert list(summary_lines([(0.5, 0.48), (0.6, 0.59), (0.7, 0.67)])) == [
        "fresh trainings: budgetnas 60.00%, the script 58.00% (n = 3)",
        "difference: +2.00 points, 95 % interval -0.48 to +4.48 (paired by seed, Student)",
    ]


def test_the_script_s_network_is_the_one_that_its_parameters_describe() -> None:
    like = initial_candidate("v1-sgd", RecipeSpace(epochs=3), InputShape(in_channels=3, size=16, classes=7))
    params = {"stages": 3, "rate": 0.05, "decay": 1e-4}
    params |= {f"blocks_{stage}": stage for stage in (1, 2, 3)} | {f"width_{stage}": 8 * stage for stage in (1, 2, 3)}
    found = script_candidate(params, like)
    assert found.architecture.describe() == "basic 1-2-3 x 8-16-24, stem 8"
    assert (found.architecture.size, found.architecture.classes) == (16, 7)
    assert (found.recipe.learning_rate, found.recipe.weight_decay, found.recipe.nesterov) == (0.05, 1e-4, False)
    assert (found.recipe.epochs, found.recipe.momentum) == (3, 0.9)


@pytest.mark.slow
def test_both_are_searched_once_and_what_they_named_is_trained_afresh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed() -> list[str]:
        measure("digits", None, 8, 60, 30, "200k", 1, 15, 1, 0, 1, tmp_path / "out")
        return capsys.readouterr().out.splitlines()

    first = printed()
    assert first[0].startswith("seed 0: budgetnas ") and "COMPLETE" in first[0]
    assert first[1].endswith("(n = 1)")
    assert printed() == first
