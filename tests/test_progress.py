from __future__ import annotations

import sys
from pathlib import Path

import pexpect
import pytest
from small import environment, run, study_file

from budgetnas.cli.console import stdout, table


@pytest.mark.slow
def test_a_terminal_shows_a_single_status_that_updates(tmp_path: Path) -> None:
    arguments = ["-m", "budgetnas", "search", study_file(tmp_path, trials="1", epochs="400"), "--study", "t"]
    child = pexpect.spawn(
        sys.executable,
        arguments,
        cwd=str(tmp_path),
        env=environment(TERM="xterm"),
        dimensions=(40, 200),
        encoding="utf-8",
        timeout=180,
    )
    child.expect(r"estimate: about")
    child.expect(r"trial 0: epoch \d+/400, step \d/4")
    child.expect(r"best none yet; trained 0/1, rejected \d+; about .* left")
    child.expect(r"trial 0: [\d.]+% on validation")
    child.expect("Winner of the search:")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


@pytest.mark.slow
def test_a_dumb_terminal_shows_plain_lines_of_full_width(tmp_path: Path) -> None:
    arguments = ["-m", "budgetnas", "search", study_file(tmp_path, trials="1"), "--study", "t"]
    child = pexpect.spawn(
        sys.executable, arguments, cwd=str(tmp_path), env=environment(TERM="dumb"), encoding="utf-8", timeout=180
    )
    printed = child.read()
    child.close()
    assert child.exitstatus == 0
    assert "\x1b" not in printed
    assert max(map(len, printed.splitlines())) > 100, "the terminal has 80 columns, and wraps lines itself"
    assert "trained 1/1" in printed


def test_ctrl_c_at_a_terminal_ends_cleanly(tmp_path: Path) -> None:
    path = study_file(tmp_path, trials="1", epochs="5000")
    child = pexpect.spawn(
        sys.executable,
        ["-m", "budgetnas", "search", path, "--study", "t"],
        cwd=str(tmp_path),
        env=environment(TERM="xterm"),
        dimensions=(40, 200),
        encoding="utf-8",
        timeout=180,
    )
    child.expect(r"epoch \d+/5000")
    child.sendintr()
    child.expect(r"Stopped\. Every finished epoch is saved")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    shown = run(tmp_path, "show", "t")
    assert "nothing is trained yet" in shown.stdout


def test_control_characters_are_not_printed_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    stdout().print(table("", ("class",), [("cat\x1b[31m\x07",), ("[red]dog",)]))
    _, cat, dog, _ = (line.rstrip() for line in capsys.readouterr().out.split("\n"))
    assert (cat, dog) == ("cat\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}", "[red]dog")
