from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.precisions import measure, summary_lines


def test_the_difference_is_paired_by_seed() -> None:
    lines = summary_lines([0.51, 0.62, 0.73], [0.50, 0.60, 0.70], "fp16")
    assert lines[:2] == ["float32: mean 60.00%", "fp16: mean 62.00%"]
    assert lines[2] == (
        "fp16 minus float32: +2.00 points, 95 % interval -0.48 to +4.48 (paired by seed, Student, n = 3)"
    )


def test_both_precisions_train_the_same_candidates_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def printed() -> list[str]:
        measure("digits", None, 8, 60, 30, 2, 1, 2, "fp16", "cpu", f"sqlite:///{tmp_path}/precisions.db")
        return capsys.readouterr().out.splitlines()

    first = printed()
    assert [line.partition(":")[0] for line in first[:4]] == ["seed 0", "seed 1", "float32", "fp16"]
    assert printed() == first
