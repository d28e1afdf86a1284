"""A name becomes neither markup nor a path."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from reporting import seeded_study
from secrets_and_names import NASTY
from small import run, study_file

from budgetnas.bundle import contents
from budgetnas.errors import InputError
from budgetnas.report.page import report_name
from budgetnas.searching.options import check_study_name
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage


class Tags(HTMLParser):
    """Notes the elements of a page, and attributes that would run something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.running: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.running += [name for name, value in attributes if name.startswith("on") or "javascript:" in (value or "")]


@pytest.mark.slow
def test_hostile_names_stay_text_and_do_not_become_paths(tmp_path: Path) -> None:
    """A study and a folder of images named to be markup, or a path, through the real program."""
    work = tmp_path / "in" / "work"
    work.mkdir(parents=True)
    images = tmp_path / "<img src=x onerror=alert(3)>"
    for name in ("<script>alert(4)<", 'it\'s "it"'):
        (images / "train" / name).mkdir(parents=True)
        for index in range(20):
            Image.new("RGB", (8, 8), (index, len(name), 0)).save(images / "train" / name / f"{index}.png")
    before = {path for path in tmp_path.rglob("*") if images not in path.parents}
    size = ("--budget", "20k", "--epochs", "1", "--trials", "2", "--data", f"folder:{images}")
    made = run(work, "search", *size, "--study", NASTY)
    assert made.returncode == 0, made.stderr
    assert run(work, "report", NASTY).returncode == 0
    exported = run(work, "export", NASTY, "--run", "1", "--data", f"folder:{images}")
    assert exported.returncode == 0, exported.stderr
    new = {path for path in tmp_path.rglob("*") if images not in path.parents} - before
    assert {path.parent for path in new} <= {work, *(path for path in new if path.is_dir())}, "nothing outside"
    (page,) = work.glob("*-report.html")
    (bundle,) = (path for path in work.iterdir() if path.is_dir())
    for name in (page.name, bundle.name):
        assert re.fullmatch(r"[\w.-]+", name), name
    html = page.read_text(encoding="utf-8")
    seen = Tags(html)
    assert seen.tags["script"] == 4
    assert "img" not in seen.tags
    assert seen.running == []
    assert "&lt;img src=x onerror=alert(2)&gt;" in html
    for file in re.findall(r'"file": "([^"]*)"', html):
        assert re.fullmatch(r"[\w.-]+\.csv", file), file
    card = Tags((bundle / contents.CARD).read_text(encoding="utf-8").replace("\\<", "&lt;"))
    assert {"script", "img"} & set(card.tags) == set()


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/x",
        "/etc/passwd",
        "..",
        ".",
        "a\nb",
        "a\0b",
        "C:\\x",
        "..\\x",
        " ",
        "~/x",
        "a/../../b",
        "\N{SNOWMAN}é" * 100,
        "é" * 200,
    ],
)
def test_no_name_escapes_the_folder(name: str) -> None:
    made = report_name(name)
    assert made not in ("", ".", "..")
    assert not made.startswith(".")
    assert len(f".{made}-report.html.{2**22}.tmp".encode()) <= 255
    assert not re.search(r"[/\\\0\n:~ ]", made)


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x1b[31mb", "a\0b", "", " ", "x" * 201])
def test_names_that_are_not_printed_are_rejected(name: str) -> None:
    with pytest.raises(InputError, match="must be 1 to 200 printable characters"):
        check_study_name(name)


def test_a_name_that_is_not_printed_makes_no_study(tmp_path: Path) -> None:
    done = run(tmp_path, "search", study_file(tmp_path), "--study", "a\nb")
    assert done.returncode == 2
    assert "--study" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "budgetnas.db").exists()


def test_a_stored_name_with_line_ends_and_markup_is_reported_as_text(tmp_path: Path) -> None:
    """Somebody else's storage may hold what no search of ours would make."""
    name = f"a\n</script>{NASTY}"
    records = open_records(parse_storage(str(tmp_path / "budgetnas.db")))
    seeded_study(records, study=name, label=NASTY)
    records.close()
    done = run(tmp_path, "report", name)
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("*.html")
    assert re.fullmatch(r"[\w.-]+", page.name)
    seen = Tags(page.read_text(encoding="utf-8"))
    assert (seen.tags["script"], "img" in seen.tags, seen.running) == (4, False, [])
