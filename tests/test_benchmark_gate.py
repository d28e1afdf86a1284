from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from benchmarks import gate
from budgetnas.architecture import count
from budgetnas.architecture.budget import Budget
from budgetnas.space.search_space import InputShape, SearchSpace

pytestmark = pytest.mark.slow


def test_the_filter_is_checked_in_two_other_ways() -> None:
    passed = gate.propose(Budget(5_000_000, 300_000_000, 400_000, 4 << 20, 192 << 10), 3000, 5, seed=1)
    assert passed.accepted > 300
    assert (passed.over, passed.differing, len(passed.sample)) == (0, 0, 5)
    assert all(gate.counts_of_built(one) == count(one) for one in passed.sample)


@pytest.mark.parametrize("size", [49, 96, 97, 224])
def test_stems_that_reduce_images_are_checked_too(size: int) -> None:
    passed = gate.propose(Budget(5_000_000), 300, 5, seed=1, size=size)
    assert passed.accepted > 30
    assert (passed.over, passed.differing, len(passed.sample)) == (0, 0, 5)
    assert all(gate.counts_of_built(one) == count(one) for one in passed.sample)
    assert gate.files_agree(next(one for one in passed.sample if one.se)) == (True, True)


def test_a_filter_that_accepts_too_much_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "fits", lambda self, architecture: True)
    passed = gate.propose(Budget(5_000_000), 200, 5, seed=1)
    assert 0 < passed.over < passed.accepted == 200


def test_a_counter_that_is_wrong_is_noticed() -> None:
    space, inputs = SearchSpace(), InputShape(in_channels=3, size=32, classes=10)
    one = space.architecture({name: one.values[-1] for name, one in space.ranges().items()}, inputs)
    exact = gate.closed_form(one)
    assert one.se and exact == count(one)
    assert gate.closed_form(replace(one, blocks=(*one.blocks[:-1], 1))) != exact


def test_the_command_prints_what_it_found() -> None:
    import typer

    app = typer.Typer()
    app.command()(gate.measure)
    result = CliRunner().invoke(app, ["--proposals", "300", "--built", "2", "--exported", "1", "--max-ram-kb", "200"])
    assert result.exit_code == 0, result.output
    for text in ("over a limit: 0; counted otherwise by the closed form: 0; built: 2, ", "with other counts: 0;"):
        assert text in result.output
    assert "exported: 1, with other logits: 0, with other int8 weights: 0" in result.output
