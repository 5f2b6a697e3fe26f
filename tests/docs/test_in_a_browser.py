"""The site opened from its files in headless Chromium: nothing is wide, nothing is fetched, and the search answers."""

from pathlib import Path
from typing import Any

import pytest

from .test_site import site  # noqa: F401


def opened(browser: Any, *, width: int) -> tuple[Any, list[str]]:
    """A page, and what it complains about or asks another host for."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    found: list[str] = []
    page.on("console", lambda said: found.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("request", lambda asked: found.append(asked.url) if asked.url.startswith(("http", "ws")) else None)
    return page, found


@pytest.mark.parametrize("width", [360, 1280])
def test_no_page_is_wider_than_the_screen_or_asks_anybody(site: Path, browser: Any, width: int) -> None:  # noqa: F811
    page, found = opened(browser, width=width)
    for path in sorted(site.rglob("*.html")):
        if path.name != "404.html":
            page.goto(path.as_uri())
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{path.relative_to(site)} is {wide} pixels wide at {width}"
            assert found == [], path.relative_to(site)
    page.close()


def test_the_search_answers_without_a_server(site: Path, browser: Any) -> None:  # noqa: F811
    page, found = opened(browser, width=1280)
    page.goto((site / "notes" / "speed.html").as_uri())
    page.click("input.md-search__input")
    page.keyboard.type("mixup")
    # It answers while one types: the first answers are to the first letters.
    page.wait_for_selector('.md-search-result__link[href*="/augmentation.html"]', state="attached", timeout=10_000)
    assert found == []
    page.close()
