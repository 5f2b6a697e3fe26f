"""Reports as a person gets to see them: on a desk and on a phone, light and dark, without a network."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from metadistiller import assemble, cli, recipe, report
from metadistiller.config import Choice

LARGEST = 3_000_000  # bytes
LONGEST = 3.0  # seconds; a page opens in a third of one, but the machine may have other things to do
WIDTHS = (1280, 360)
SCHEMES = ("light", "dark")


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a run, of a comparison, and of two runs side by side, trained for a moment."""
    out = tmp_path_factory.mktemp("pages")
    config = replace(
        recipe("digits"),
        data=Choice(name="digits", options={"train_per_class": 4}),
        model=Choice(name="resnet10", options={"width": 4}),
        epochs=2,
        batch_size=16,
        precision="float32",
        memory_format="contiguous",
        threads=1,
    )
    run = assemble.train(config, out / "run", quiet=True, command="metadistiller train digits", profile=True).folder
    words = ["--data", "digits", "--data.train_per_class", "4", "--model.width", "4", "--epochs", "2", "--threads", "1"]
    words += ["--batch_size", "16", "--precision", "float32", "--memory_format", "contiguous"]
    words += ["--methods", "plain,dsn", "--seeds", "2", "--out", str(out / "compared")]
    assert cli.main(["compare", *words]) == 0
    several = report.write_several([run, out / "compared" / "plain" / "s1"], out / "several.html")
    return {"run": run / "report.html", "comparison": out / "compared" / "report.html", "several": several}


@dataclass
class Seen:
    """A page in the browser, and what happened while it opened."""

    page: Any
    told: list[str]
    asked: list[str]

    def measure(self, expression: str) -> Any:
        return self.page.evaluate(expression)


@pytest.fixture(params=[(width, scheme) for width in WIDTHS for scheme in SCHEMES], ids="{0[0]}-{0[1]}".format)
def window(request: pytest.FixtureRequest, browser: Any) -> Any:
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    yield context
    context.close()


def opened(window: Any, path: Path) -> Seen:
    seen = Seen(window.new_page(), [], [])
    seen.page.on("console", lambda message: seen.told.append(f"{message.type}: {message.text}"))
    seen.page.on("pageerror", lambda error: seen.told.append(str(error)))
    seen.page.on("request", lambda request: seen.asked.append(request.url))
    seen.page.goto(path.as_uri(), wait_until="load")
    return seen


@pytest.mark.parametrize("kind", ["run", "comparison", "several"])
def test_a_page_opens_by_itself_and_fits(window: Any, pages: dict[str, Path], kind: str) -> None:
    assert pages[kind].stat().st_size <= LARGEST
    seen = opened(window, pages[kind])
    assert seen.told == []
    assert [url for url in seen.asked if not url.startswith("data:")] == [pages[kind].as_uri()]
    assert seen.measure("performance.getEntriesByType('navigation')[0].loadEventEnd") <= 1000 * LONGEST
    assert seen.measure("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    images = seen.measure("[...document.images].map(image => [image.naturalWidth, image.alt.trim()])")
    assert len(images) > 5
    assert all(width > 0 and alt for width, alt in images)


@pytest.mark.parametrize("kind", ["run", "comparison", "several"])
def test_text_stands_out_from_its_ground(window: Any, pages: dict[str, Path], kind: str) -> None:
    """At least 4.5 to 1 (WCAG 2.2, 1.4.3) for every kind of text that there is."""
    seen = opened(window, pages[kind])
    for found in seen.measure(CONTRASTS):
        assert found["ratio"] >= 4.5, found


# Of each element that has text of its own: its colour against the nearest ground that is not transparent.
CONTRASTS = """() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const light = text => {
    const [r, g, b] = parts(text).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (parts(colour)[3] !== 0) return colour;
    }
  };
  const found = {};
  for (const element of document.querySelectorAll("main *")) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own) continue;
    const [ink, paper] = [getComputedStyle(element).color, ground(element)];
    const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x);
    found[ink + paper] = {ink, paper, ratio: (a + .05) / (b + .05), text: element.textContent.trim().slice(0, 40)};
  }
  return Object.values(found);
}"""


def test_contents_lead_to_their_sections_and_folded_parts_open(window: Any, pages: dict[str, Path]) -> None:
    seen = opened(window, pages["run"])
    for link in seen.page.locator("nav a").all():
        link.click()
        target = seen.page.locator(link.get_attribute("href"))
        target.wait_for()
        assert target.locator("h2").inner_text() == link.inner_text()
    folded = seen.page.locator("details > pre")
    assert not folded.is_visible()
    seen.page.locator("summary", has_text="All settings").click()
    assert folded.is_visible()
    assert seen.told == []


def test_links_of_a_comparison_lead_to_the_pages_of_its_runs(window: Any, pages: dict[str, Path]) -> None:
    seen = opened(window, pages["comparison"])
    seen.page.locator("td, th").get_by_role("link", name="dsn").first.click()
    seen.page.wait_for_load_state()
    assert seen.page.url == (pages["comparison"].parent / "dsn" / "s0" / "report.html").as_uri()
    assert seen.page.locator("h1").inner_text() == "dsn on resnet10, digits"


def test_print_shows_what_is_folded_and_cuts_nothing(browser: Any, pages: dict[str, Path]) -> None:
    """As wide as paper is within its margins: 180 mm."""
    context = browser.new_context(viewport={"width": 680, "height": 1000})
    page = context.new_page()
    page.emulate_media(media="print")
    page.goto(pages["run"].as_uri())
    assert page.evaluate("document.querySelector('details > pre').checkVisibility({contentVisibilityAuto: true})")
    assert page.evaluate("document.querySelector('details > pre').getBoundingClientRect().height") > 100
    wide = "[...document.querySelectorAll('figure, table')].filter(e => e.getBoundingClientRect().right > innerWidth)"
    assert page.evaluate(f"{wide}.map(e => e.textContent.slice(0, 40))") == []
    assert not page.locator("nav").is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('figure')).breakInside") == "avoid"
    context.close()
