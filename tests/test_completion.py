"""The Tab key, in a real bash with the script that the program prints."""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from small import environment

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")


def completed(folder: Path, line: str, **extra: str) -> list[str]:
    """What Tab offers at the end of a command line in `folder`."""
    program = folder / "bin" / "budgetnas"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m budgetnas "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    words = line.split(" ")
    script = (
        f'eval "$(budgetnas --show-completion)"; COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; '
        '_budgetnas_completion budgetnas; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    command = [BASH or "bash", "--norc", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment(**path, **extra), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def add_studies(file: Path, *names: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE specifications (study VARCHAR(200))")
        connection.executemany("INSERT INTO specifications VALUES (?)", [(name,) for name in names])
        connection.commit()


def test_commands_options_and_names_are_completed(tmp_path: Path) -> None:
    assert completed(tmp_path, "budgetnas s") == ["space", "search", "studies", "show"]
    assert completed(tmp_path, "budgetnas search --max-a") == ["--max-activations"]
    assert completed(tmp_path, "budgetnas search digits") == ["digits-demo"]
    assert completed(tmp_path, "budgetnas replay v2-sgd v2") == ["v2-sgd", "v2-adam"]
    assert completed(tmp_path, "budgetnas count resnet1") == ["resnet18", "resnet101", "resnet152"]


@pytest.mark.slow
def test_studies_are_completed_from_the_storage(tmp_path: Path) -> None:
    assert completed(tmp_path, "budgetnas show ") == [], "without a database"
    assert not (tmp_path / "budgetnas.db").exists(), "nothing is created"
    add_studies(tmp_path / "budgetnas.db", "photos", "digits-60k", "digits-demo")
    assert completed(tmp_path, "budgetnas show d") == ["digits-60k", "digits-demo"]
    assert completed(tmp_path, "budgetnas search --study p") == ["photos"]
    add_studies(tmp_path / "other.db", "elsewhere")
    assert completed(tmp_path, "budgetnas finish --storage other.db ") == ["elsewhere"]
    assert completed(tmp_path, "budgetnas report ", BUDGETNAS_STORAGE="sqlite:///other.db") == ["elsewhere"]
    (tmp_path / "broken.db").write_bytes(b"no database" * 100)
    assert completed(tmp_path, "budgetnas show --storage broken.db ") == []
    assert completed(tmp_path, "budgetnas show --storage postgresql://nobody@127.0.0.1:1/nas ") == []
