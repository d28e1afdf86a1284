"""The documentation as a site, built and opened in a browser on a desk and on a phone."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from test_report_browser import CHROMIUM, FLAGS, PHONE, WIDE

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("index", "hand-in", "how-good", "commands", "samplers", "decisions/0046-a-database-that-goes-back")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium")]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


def opened(browser: Browser, site: str, path: str, size: tuple[int, int], wrong: list[str]) -> Page:
    """A page of the site; notes requests to other hosts and errors in `wrong`."""

    def note(route: Route) -> None:
        if route.request.url.startswith((site, "data:", "blob:")):
            route.continue_()
        else:
            wrong.append(route.request.url)
            route.abort()

    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.route("**/*", note)
    page.goto(f"{site}/{path}.html", wait_until="networkidle")
    return page


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("path", PAGES)
def test_pages_fit_and_need_no_other_host(browser: Browser, site: str, path: str, size: tuple[int, int]) -> None:
    wrong: list[str] = []
    page = opened(browser, site, path, size, wrong)
    assert page.locator("article h1").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    for picture in page.locator("article img").all():
        assert picture.evaluate("(image) => image.naturalWidth") > 0
    assert wrong == []
    page.close()


def test_the_search_finds_a_command(browser: Browser, site: str) -> None:
    wrong: list[str] = []
    page = opened(browser, site, "index", WIDE, wrong)
    page.locator("input[name=query]").press_sequentially("squeeze-and-excitation")  # the page listens to keys
    expect(page.locator(".md-search-result__item").first).to_contain_text("queeze", timeout=30_000)
    assert wrong == []
    page.close()
