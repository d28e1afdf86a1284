"""The selection benchmark on a small table made by hand."""

from __future__ import annotations

import dataclasses
import itertools
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from benchmarks import selection
from budgetnas.architecture.budget import Budget
from budgetnas.errors import InputError

pytestmark = pytest.mark.slow

WIDTHS = ("stem_w", "b1_mid", "b2_mid", "b3_mid", "s2_out", "b4_mid", "b5_mid")


def table(folder: Path) -> Path:
    """128 networks of two widths each; wider is better, and one in a hundred thousand parameters is over 5M."""
    path = folder / "table.csv"
    lines = [",".join((*WIDTHS, "params", "flops", "test_err_mean"))]
    for widths in itertools.product((64, 128), repeat=7):
        params = 4_000_000 + 1000 * sum(widths) + (10**7 if sum(widths) == 7 * 128 else 0)
        lines.append(",".join(map(str, (*widths, params, 10**5 * sum(widths), 10 - sum(widths) / 500))))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_networks_over_the_budget_are_left_out(tmp_path: Path) -> None:
    networks = selection.read(table(tmp_path), Budget(5_000_000))
    assert len(networks.widths) == 127
    assert networks.accuracies.max() == pytest.approx(90 + (6 * 128 + 64) / 500)


def test_the_table_runs_through(tmp_path: Path) -> None:
    app = Typer()
    app.command()(selection.measure)
    arguments = ["--studies", "5", "--trainings", "12", "--trainings", "20", "--final", "2x2", "--final", "3x1"]
    done = CliRunner().invoke(app, arguments, env={"BUDGETNAS_BENCH_TABLE": str(table(tmp_path))})
    assert done.exit_code == 0, done.output
    rows = [line.split(" | ") for line in done.output.splitlines() if re.search(r"\+- \d", line) and line[0] == "|"]
    assert [row[1] for row in rows] == ["12", "12", *["16"] * 3, *["15"] * 3, "20", "20", *["24"] * 3, *["23"] * 3]
    assert "127 networks within 5e6, 5 studies" in done.output
    assert "after 20, smoothed, final 3x1: regret less" in done.output


@pytest.mark.parametrize("text", ["3", "3x", "0x3", "3*3", "-1x2"])
def test_a_final_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--final"):
        selection.parse_final(text)


def test_the_bias_is_that_of_the_rule(tmp_path: Path) -> None:
    """The best of n equal networks is chosen by the mean of the highest of n draws; a fresh look has no bias."""
    networks = selection.read(table(tmp_path), Budget(5_000_000))
    equal = dataclasses.replace(networks, accuracies=np.full(127, 90.0))
    found = [selection.study(equal, 20, [selection.Round(3, 4)], seed) for seed in range(300)]
    highest_of_20, highest_of_3 = 1.867, 0.846
    for rule, expected in (("best single", highest_of_20 * 0.163), ("raw, final 3x4", highest_of_3 * 0.163 / 2)):
        biases = [one[rule].chose - one[rule].worth for one in found]
        assert statistics.fmean(biases) == pytest.approx(expected, abs=4 * statistics.stdev(biases) / 300**0.5)
        fresh = [one[rule].fresh - one[rule].worth for one in found]
        assert statistics.fmean(fresh) == pytest.approx(0, abs=4 * statistics.stdev(fresh) / 300**0.5)
    assert all(one.regret == 0 for study in found for one in study.values())


def test_a_finalist_is_not_automatically_the_winner(tmp_path: Path) -> None:
    """With very many seeds the final names the best of its finalists."""
    networks = selection.read(table(tmp_path), Budget(5_000_000))
    for seed in range(10):
        found = selection.study(networks, 12, [selection.Round(3, 30)], seed)
        assert found["raw, final 3x30"].regret <= found["best single"].regret


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot be read"),
        ("params,flops\n1,2\n", "it needs columns"),
        ("", "it needs columns"),
        (",".join((*WIDTHS, "params,flops,test_err_mean")), "no network"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str | None, told: str) -> None:
    path = tmp_path / "other.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=told):
        selection.read(path, Budget(5_000_000))


def test_without_a_table_there_is_nothing_to_measure() -> None:
    with pytest.raises(InputError, match="BUDGETNAS_BENCH_TABLE"):
        selection.measure()


def test_more_trainings_than_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--trainings 120"):
        selection.measure(table(tmp_path), studies=2, trainings=[120])
