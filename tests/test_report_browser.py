from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from reporting import (
    NASTY,
    STUDY,
    add_pruned,
    data,
    open_records,
    replay,
    save,
    seeded_study,
    specification,
    with_final,
)

from budgetnas.report import StudyTables, study_tables
from budgetnas.report.figures import study_figures
from budgetnas.report.figures.figure import Figure
from budgetnas.report.page import study_page, write_replay_report, write_study_report

CHROMIUM = os.environ.get("BUDGETNAS_CHROMIUM") or shutil.which("chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDE = (1280, 900)
PHONE = (390, 844)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="needs the chromium package of the system, or BUDGETNAS_CHROMIUM naming a browser"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def finished(folder: Path) -> StudyTables:
    """A study with markup for a name, pruned runs and a final that has read the test split twice."""
    records = open_records(folder)
    spec = seeded_study(records, study=NASTY, label=NASTY)
    add_pruned(records, spec, NASTY)
    return with_final(study_tables(records, NASTY), readings=2)


@pytest.fixture(scope="module")
def pages(folder: Path, finished: StudyTables) -> dict[str, Path]:
    records = open_records(folder)
    seeded_study(records, runs=16)
    (folder / "final.html").write_text(study_page(finished), encoding="utf-8")
    save(records, "empty", specification(data()))
    why = ("2 of 60 epochs", f"data folder-{NASTY}, not CIFAR-10")
    results = [replay(records, "v2-sgd", 60, 0.93), replay(records, "v1-adam", 2, 0.5, why)]
    return {
        "study": write_study_report(records, STUDY, folder / "study.html"),
        "nasty": write_study_report(records, NASTY, folder / "nasty.html"),
        "final": folder / "final.html",
        "empty": write_study_report(records, "empty", folder / "empty.html"),
        "replay": write_replay_report([*results, replay(records, "resnet50", 40, 0.9)], folder / "replay.html"),
    }


class Visit:
    """An open page, and all that went wrong or out of it."""

    def __init__(self, browser: Browser, path: Path, size: tuple[int, int], scheme: str = "light") -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if scheme == "dark" else "light"
        )
        self.page: Page = context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.route("**/*", lambda route: self._note(route, path.as_uri()))
        self.page.goto(path.as_uri())
        # No wait_for_function: the page's own policy forbids the evaluation of strings.
        self.figures = self.page.locator(".plot").count()
        expect(self.page.locator(".plot:has(svg.main-svg)")).to_have_count(self.figures)

    def _note(self, route: Route, own: str) -> None:
        if route.request.url == own:
            route.continue_()
        else:
            self.requests.append(route.request.url)
            route.abort()

    def close(self) -> None:
        self.page.context.close()


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize(("name", "figures"), [("study", 7), ("nasty", 7), ("final", 9), ("empty", 0), ("replay", 3)])
def test_page_draws_all_figures_without_requests(
    browser: Browser, pages: dict[str, Path], name: str, figures: int, size: tuple[int, int]
) -> None:
    visit = Visit(browser, pages[name], size)
    assert visit.figures == figures
    visit.page.wait_for_timeout(300)
    assert (visit.complaints, visit.requests) == ([], [])
    visit.close()


@pytest.mark.parametrize("name", ["study", "nasty", "final", "empty", "replay"])
def test_phone_scrolls_tables_but_not_the_page(browser: Browser, pages: dict[str, Path], name: str) -> None:
    visit = Visit(browser, pages[name], PHONE)
    assert visit.page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
    for box in visit.page.locator(".plot svg.main-svg").all():
        bounds = box.bounding_box()
        assert bounds is not None
        assert bounds["x"] + bounds["width"] <= PHONE[0] + 1
    visit.close()


def test_phone_text_is_legible_and_the_winner_is_complete(browser: Browser, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["final"], PHONE)
    sizes = visit.page.evaluate(
        "[...document.querySelectorAll('.plot text')].map((one) => parseFloat(getComputedStyle(one).fontSize))"
    )
    assert min(sizes) >= 11
    frame = visit.page.locator("#figure-winner").bounding_box()
    assert frame is not None
    for text in visit.page.locator("#figure-winner text").all():
        box = text.bounding_box()
        assert box is not None
        assert box["x"] >= frame["x"]
        assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 1
    visit.close()


def test_every_figure_downloads_its_table_as_csv(
    browser: Browser, pages: dict[str, Path], finished: StudyTables, tmp_path: Path
) -> None:
    visit = Visit(browser, pages["final"], WIDE)
    figures = study_figures(finished)
    assert visit.page.locator("button.csv:visible").count() == len(figures) == visit.figures
    for figure in figures:
        rows = downloaded(visit.page, figure, tmp_path / f"{figure.key}.csv")
        assert tuple(rows[0]) == figure.data.columns
        assert rows[1:] == [[as_text(cell) for cell in row] for row in figure.data.rows]
    assert (visit.complaints, visit.requests) == ([], [])
    visit.close()


def downloaded(page: Page, figure: Figure, path: Path) -> list[list[str]]:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=f"Data of {figure.title} as CSV").click()
    assert waiting.value.suggested_filename == f"-script-alert-1---script--{figure.key}.csv"
    waiting.value.save_as(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def as_text(cell: object) -> str:
    return "" if cell is None else str(cell)


def test_the_final_shows_winner_reference_and_test_evaluations(browser: Browser, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["final"], WIDE)
    names = visit.page.locator("#figure-finalists .ytick text").all_text_contents()
    assert len(names) == 4
    assert [name.endswith("winner") for name in names] == [False, True, False, False]
    assert [name.endswith("reference") for name in names] == [False, False, False, True]
    bars = visit.page.locator("#figure-finalists .errorbar path.xerror")
    assert bars.count() == 4
    assert "evaluated on the test split 2 times" in visit.page.locator("body").inner_text()
    visit.close()


def test_dark_pages_have_light_text_in_their_figures(browser: Browser, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["study"], WIDE, "dark")
    label = visit.page.locator("#figure-params .xtick text").first
    expect(label).to_have_css("fill", "rgb(230, 233, 237)")
    budget = visit.page.locator("#figure-params .annotation-text", has_text="budget 5M")
    expect(budget).to_have_css("fill", "rgb(213, 94, 0)")
    visit.page.emulate_media(color_scheme="light")
    expect(label).to_have_css("fill", "rgb(27, 31, 36)")
    expect(budget).to_have_css("fill", "rgb(184, 78, 0)")
    visit.close()


def test_hover_shows_the_architecture_and_escapes_markup(browser: Browser, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["nasty"], WIDE)
    show = """async (words) => {
        const plot = document.getElementById('figure-history');
        const curve = plot.data.findIndex((trace) => trace.name === 'initial trial');
        const point = plot.data[curve].hovertext.findIndex((text) => text.includes(words));
        Plotly.Fx.hover(plot, [{ curveNumber: curve, pointNumber: point }]);
        await new Promise((done) => setTimeout(done, 300));
        return plot.querySelector('.hoverlayer').textContent;
    }"""
    assert "2-2-2-2" in visit.page.evaluate(show, "v2-sgd")
    assert NASTY in visit.page.evaluate(show, "script")
    assert visit.page.locator("body script:text('alert(1)')").count() == 0
    assert visit.complaints == []
    visit.close()


def test_page_without_javascript_still_has_its_tables(browser: Browser, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["study"].as_uri())
    assert page.get_by_role("heading", level=1).inner_text() == f"Study {STUDY}"
    assert page.locator("table").count() >= 4
    assert "needs JavaScript" in page.locator(".plot").first.inner_text()
    context.close()
