from __future__ import annotations

import pytest
from typer.testing import CliRunner

from benchmarks import gate
from budgetnas.architecture import count
from budgetnas.architecture.budget import Budget
from budgetnas.space.search_space import InputShape, SearchSpace

pytestmark = pytest.mark.slow


def test_the_gate_is_checked_in_two_other_ways() -> None:
    passed = gate.propose(Budget(5_000_000, 300_000_000, 400_000), 3000, 5, seed=1)
    assert passed.accepted > 500
    assert (passed.over, passed.differing, len(passed.sample)) == (0, 0, 5)
    assert all(gate.counts_of_built(one) == count(one) for one in passed.sample)


def test_a_gate_that_lets_through_too_much_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "fits", lambda self, architecture: True)
    passed = gate.propose(Budget(5_000_000), 200, 5, seed=1)
    assert 0 < passed.over < passed.accepted == 200


def test_a_counter_that_is_wrong_is_noticed() -> None:
    space, inputs = SearchSpace(), InputShape(in_channels=3, size=32, classes=10)
    one = space.architecture({name: one.high for name, one in space.ranges().items()}, inputs)
    exact = gate.closed_form(one.blocks, one.widths)
    assert exact == count(one)
    assert gate.closed_form((*one.blocks[:-1], 1), one.widths) != exact


def test_the_command_prints_what_it_found() -> None:
    import typer

    app = typer.Typer()
    app.command()(gate.measure)
    result = CliRunner().invoke(app, ["--proposals", "300", "--built", "2", "--max-macs", "600M"])
    assert result.exit_code == 0, result.output
    assert "over a limit: 0; counted otherwise by the closed form: 0; built: 2, with other counts: 0" in result.output
