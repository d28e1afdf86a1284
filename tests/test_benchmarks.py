"""Every benchmark, as it is called from a shell: what it cannot use is told in one line."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import pytest

import benchmarks

NAMES = sorted(
    path.stem
    for path in Path(benchmarks.__path__[0]).glob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)
NOT_THERE = ["--data 'folder:nowhere'", "does not exist"]
NO_BUDGET = ["--budget 'five'", "write it as 5e6"]
BAD_INPUT = [
    ("counting", ["--repeats", "five"], ["--repeats 'five'", "must be a whole number", "see --help"]),
    ("counting", ["--repeats", "0"], ["--repeats 0", "must be at least 1"]),
    ("end_to_end", ["--budget", "five"], NO_BUDGET),
    ("end_to_end", ["--data", "folder:nowhere"], NOT_THERE),
    ("gate", ["--budget", "five"], NO_BUDGET),
    ("gate", ["--max-macs", "x"], ["--max-macs 'x'", "multiply-accumulates"]),
    ("learning", ["--data", "folder:nowhere"], NOT_THERE),
    ("learning", ["--blocks", "1,x"], ["--blocks '1,x'", "whole numbers"]),
    ("learning", ["--learning-rate", "0"], ["learning_rate 0.0", "greater than 0"]),
    ("ladder", ["--data", "folder:nowhere"], NOT_THERE),
    ("long_training", ["--data", "digits", "--recipe", "strng"], ["--recipe 'strng'", "plain, strong, final"]),
    ("long_training", ["--data", "folder:nowhere"], NOT_THERE),
    ("onnx", ["nowhere", "nowhere"], ["DIR 'nowhere'", "budgetnas export"]),
    ("onnx", ["nowhere"], ["IMAGES", "see --help"]),
    ("overhead", ["--budget", "five"], NO_BUDGET),
    ("overhead", ["--seed", "2147483648"], ["--seed 2147483648", "must be at most 2,147,483,647"]),
    ("precisions", ["--data", "folder:nowhere"], NOT_THERE),
    ("precisions", ["--precision", "fp8"], ["--precision 'fp8'", "must be one of bf16, fp16"]),
    ("predictions", ["--images", "0"], ["--images 0", "must be at least 1"]),
    ("proposals", ["--budget", "five"], NO_BUDGET),
    ("quality", ["--budget", "five"], NO_BUDGET),
    ("quality", ["--sampler", "tpee"], ["--sampler 'tpee'", "did you mean tpe"]),
    ("ranking", ["--data", "folder:nowhere"], NOT_THERE),
    ("ranking", ["--budget", "five"], NO_BUDGET),
    ("ranking", ["--epochs", "5"], ["--epochs '5'", "at least two different numbers"]),
    ("recipes", ["--data", "folder:nowhere"], NOT_THERE),
    ("recipes", ["--data", "digits", "--widths", "8"], ["--widths 8", "give a number for each stage in both"]),
    ("rounding", ["--widths", "wide"], ["--widths 'wide'", "whole numbers"]),
    ("samplers", ["--budget", "five"], NO_BUDGET),
    ("samplers", ["--sampler", "budgt"], ["--sampler 'budgt'", "did you mean budget"]),
    ("search", ["--table", "nowhere"], ["--table 'nowhere'", "CSV"]),
    ("selection", ["--table", "nowhere"], ["--table 'nowhere'", "CSV"]),
    ("selection", ["--budgets", "5e6"], ["--budgets", "--budget", "see --help"]),
    ("studies", ["--budget", "five"], NO_BUDGET),
    ("studies", ["--data", "folder:nowhere"], NOT_THERE),
    ("workers", ["--networks", "resnet9"], ["'resnet9'", "did you mean resnet8"]),
]


def test_every_benchmark_is_tried() -> None:
    assert {name for name, _, _ in BAD_INPUT} == set(NAMES)


@pytest.mark.parametrize(
    ("name", "arguments", "told"), BAD_INPUT, ids=[f"{name} {' '.join(arguments)}" for name, arguments, _ in BAD_INPUT]
)
def test_bad_input_is_one_line_and_exit_code_2(
    name: str,
    arguments: list[str],
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable in [one for one in os.environ if one.startswith("BUDGETNAS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    module = f"benchmarks.{name}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1), err
    for text in ("error: ", *told):
        assert text in err
