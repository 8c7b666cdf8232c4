"""The report in a real browser: nothing is missing, nothing is fetched, tables sort and filter, in light and in dark.

Screenshots are kept in build/screenshots.
"""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from test_report import compared

from dsmoe.cli import main

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
Open = Callable[..., "Page"]

__all__ = ["compared"]


@pytest.fixture(scope="module")
def index(compared: Path) -> Path:
    """A report of three cells in two studies."""
    folder = compared.parent / "report"
    assert main(["report", "-m", "study=sweep,chosen", f"paths.results={compared}", f"paths.report={folder}"]) == 0
    return folder / "index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Debian's Chromium; root has to do without its sandbox."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        found = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield found
        found.close()


@pytest.fixture
def opened(browser: "Browser", index: Path) -> Iterator[Open]:
    """Opens the page, with options of a browser's context; in the end there was no complaint and no request."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(**options: Any) -> "Page":
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(index.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [index.as_uri()] * len(contexts)


def keep(page: "Page", name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def column(page: "Page", name: str) -> list[str]:
    """The cells of one column of the overview, those of hidden rows left out."""
    at = page.locator("table.sortable thead th").all_inner_texts().index(name)
    rows = page.locator("table.sortable tbody tr:visible").all()
    return [row.locator("th, td").nth(at).inner_text() for row in rows]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_shows_in_the_ink_of_the_scheme(opened: Open, scheme: str) -> None:
    from PIL import Image

    page = opened(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    images = page.locator("img")
    assert images.count() > 10
    assert all(image.evaluate("image => image.complete && image.naturalWidth > 100") for image in images.all())
    grey = Image.open(io.BytesIO(images.first.screenshot())).convert("L")
    shades = sorted(grey.tobytes())
    darkest, paper, lightest = shades[0], shades[len(shades) // 2], shades[-1]
    assert (paper > 240 and darkest < 80) if scheme == "light" else (paper < 40 and lightest > 200)
    keep(page, scheme)


def test_the_table_sorts_by_keyboard(opened: Open) -> None:
    page = opened()
    button = page.get_by_role("button", name="Δ base", exact=True)
    button.focus()
    before = column(page, "Δ base")
    for direction in ("ascending", "descending"):
        page.keyboard.press("Enter")
        values = [float(text.replace("−", "-")) for text in column(page, "Δ base")]
        assert values == sorted(values, reverse=direction == "descending")
        assert page.locator(f"th[aria-sort={direction}]").inner_text() == "Δ base"
    assert sorted(before) == sorted(column(page, "Δ base"))
    page.get_by_role("button", name="strength", exact=True).click()
    assert column(page, "strength") == ["9", "999", "auto"]


def test_the_table_filters_by_words(opened: Open) -> None:
    page = opened()
    page.get_by_role("searchbox").fill("AUTO alpha")
    assert column(page, "strength") == ["auto"]
    assert page.locator(".filter output").inner_text() == "1 of 3 cells"
    page.get_by_role("searchbox").fill("nothing of this kind")
    assert column(page, "strength") == []
    page.get_by_role("searchbox").fill("")
    assert len(column(page, "strength")) == 3


def test_it_reads_without_scripts(opened: Open) -> None:
    page = opened(java_script_enabled=False)
    assert len(column(page, "strength")) == 3
    assert page.locator("th button").count() == 0
    assert not page.locator(".filter").is_visible()
    page.locator("details summary").first.click()
    assert page.locator("details[open] table.flips, details[open] pre").first.is_visible()


def test_texts_of_questions_stay_texts(opened: Open) -> None:
    page = opened()
    assert page.title() == "sweep, chosen – dsmoe report"
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.get_by_text('<script>document.title="owned"</script>').first.is_visible()
    assert page.locator("img:not([src^='data:'])").count() == 0
    keep(page, "opened")


def test_it_fits_a_telephone_and_prints(opened: Open) -> None:
    page = opened(viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    keep(page, "telephone")
    page.emulate_media(media="print", color_scheme="light")
    assert not page.locator("nav").is_visible()
    assert not page.locator(".filter").is_visible()
    page.pdf(path=SCREENSHOTS / "printed.pdf", format="A4")
    assert (SCREENSHOTS / "printed.pdf").stat().st_size > 10_000
