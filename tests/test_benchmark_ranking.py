"""The ranking benchmark: its correlations by hand, and a whole call that resumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import ranking, trainings
from budgetnas.architecture.budget import Budget
from budgetnas.errors import InputError
from budgetnas.space.search_space import InputShape, SearchSpace

pytestmark = pytest.mark.slow


def test_the_cost_of_choosing_early_is_by_hand() -> None:
    """Ranks 1 2 3 4 and 1 2 4 3: Spearman's is 1 - 6 x 2 / (4 x 15) = 0.8."""
    (line,) = ranking.comparison({5: [0.1, 0.2, 0.3, 0.4], 60: [0.5, 0.6, 0.9, 0.85]})
    assert "5 and 60 epochs: rank correlation 0.80" in line
    assert "the best after 5 is number 2 of 4 after 60, 5.00 points below the best there" in line


@pytest.mark.parametrize("text", ["5", "5,5", "5,x", "0,5", ""])
def test_lengths_are_at_least_two_different_numbers(text: str) -> None:
    with pytest.raises(InputError):
        ranking.parse_lengths(text)


def test_networks_are_different_within_the_limit_and_the_same_for_a_seed() -> None:
    inputs, budget = InputShape(in_channels=3, size=32, classes=10), Budget(50_000)
    found = ranking.drawn(SearchSpace(), inputs, budget, 12, 0)
    assert len(set(found)) == 12 and all(budget.fits(one) for one in found)
    assert found == ranking.drawn(SearchSpace(), inputs, budget, 12, 0)
    with pytest.raises(InputError, match="--networks 40: must be at most"):
        ranking.drawn(SearchSpace(widths=(8, 10), blocks=((1, 1),) * 3, se=(False,)), inputs, budget, 40, 0)


def test_a_call_resumes_from_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ranking.csv"
    call = {"data": "digits", "subset": 300, "budget": "9e3", "networks": 3, "out": out}
    ranking.measure(**call, epochs="1,2", seeds=1, seed=0, threads=1)
    rows = trainings.read(out)
    assert [(row["epochs"], row["seed"]) for row in rows] == [("1", "0")] * 3 + [("2", "0")] * 3
    lines = out.read_text(encoding="utf-8").splitlines(keepends=True)
    out.write_text("".join(lines[:-1]), encoding="utf-8")
    ranking.measure(**call, epochs="1,2", seeds=1, seed=0, threads=1)
    assert trainings.read(out) == rows
    assert "1 and 2 epochs: rank correlation" in capsys.readouterr().out
