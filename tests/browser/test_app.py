"""`metadistiller app RUN` from its start to an answer, in a browser."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import metadistiller
from metadistiller import assemble, recipe
from metadistiller.config import Choice

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SECONDS = 60  # from the start of the process to an answer; about 10 on two free cores


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, tiny, with a name that needs escaping."""
    tiny = replace(recipe("digits"), epochs=3, model=Choice(name="resnet10", options={"width": 8}))
    return assemble.train(tiny, tmp_path_factory.mktemp("runs") / "a & b", quiet=True).folder


# Run by Python at its start: keeps what the server asks of other hosts, and refuses it.
OVERHEARD = """
import os, socket
def asks(host):
    if str(host) not in ("127.0.0.1", "localhost", "::1", "None"):
        with open(os.environ["OVERHEARD"], "a") as file:
            file.write(f"{host}\\n")
        raise OSError("no other host")
connect, look_up = socket.socket.connect, socket.getaddrinfo
def connecting(self, address):
    asks(address[0] if isinstance(address, tuple) else None)
    return connect(self, address)
def looking_up(host, *given, **more):
    asks(host.decode() if isinstance(host, bytes) else host)
    return look_up(host, *given, **more)
socket.socket.connect, socket.getaddrinfo = connecting, looking_up
"""


@dataclass
class Served:
    """A page that is served.

    Attributes:
        began: when its process was started, as time.monotonic() has it.
    """

    url: str
    began: float
    process: "subprocess.Popen[str]"


@pytest.fixture(scope="module")
def served(run: Path, browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    kept, overheard = tmp_path_factory.mktemp("kept"), tmp_path_factory.mktemp("overheard")
    (overheard / "sitecustomize.py").write_text(OVERHEARD)
    (overheard / "hosts").touch()
    environment = {**os.environ, "TMPDIR": str(kept), "OVERHEARD": str(overheard / "hosts")}
    environment["PYTHONPATH"] = os.pathsep.join([str(overheard), *filter(None, [os.environ.get("PYTHONPATH")])])
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "metadistiller", "app", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whatever the shell of somebody says.
        env={
            **environment,
            "GRADIO_ALLOWED_PATHS": "/",
            "GRADIO_SERVER_NAME": "0.0.0.0",
            "GRADIO_SHARE": "True",
        },
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:"), process.communicate(timeout=10)[1]
    yield Served(line.split()[0], began, process)
    assert list(kept.glob("metadistiller-app-*/*"))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "ended\n")
    assert (overheard / "hosts").read_text() == ""
    # What was dropped on the page is gone with it.
    assert not list(kept.glob("metadistiller-app-*"))


class Watched:
    """A tab whose errors and requests are kept."""

    def __init__(self, browser: "Browser", url: str, width: int = 1280) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900})
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("response", lambda answer: self.errors.append(answer.url) if answer.status >= 400 else None)
        self.page.goto(url)
        self.page.wait_for_selector("#picture input[type=file]", state="attached")

    def give(self, place: Path) -> None:
        self.page.set_input_files("#picture input[type=file]", place)

    def text(self, selector: str) -> str:
        self.page.wait_for_selector(selector)
        return self.page.inner_text(selector)

    def check(self, served: Served) -> None:
        hosts = {host for host in self.hosts if host}
        assert hosts == {served.url.split("/")[2]}
        assert self.errors == []


@pytest.fixture
def tab(served: Served, browser: "Browser") -> Iterator[Watched]:
    watched = Watched(browser, served.url)
    yield watched
    watched.page.close()


@pytest.fixture(scope="module")
def picture(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = json.loads((run / "soft_targets.json").read_text())
    place = tmp_path_factory.mktemp("pictures") / "digit.png"
    place.write_bytes(base64.b64decode(values["images"][1]["png"]))
    return place


def test_from_the_start_to_an_answer(served: Served, tab: Watched, run: Path, picture: Path) -> None:
    """First in this file: it has the time."""
    tab.give(picture)
    shown = tab.text("#answer .md-class")
    took = time.monotonic() - served.began
    print(f"from the start of the process to an answer: {took:.1f} s")
    (said,) = metadistiller.predict(run, picture).answers
    assert shown == said.name
    assert f"final answer, {100 * said.probability:.1f} %" in tab.text("#answer .md-answer")
    assert tab.page.locator("#answer .md-card").count() == 4
    assert tab.page.locator("#answer .md-bar.taught").count() >= 3
    assert "a & b" in tab.text(".md-head h1")
    tab.check(served)
    assert took <= SECONDS


def test_a_test_image_is_picked_and_the_threshold_moved(served: Served, tab: Watched) -> None:
    tab.page.locator("#examples button").nth(7).click()
    tab.text("#answer .md-class")
    number = tab.page.locator("input[type=number]")
    for threshold, chosen in (("0", "Exit 1 would have answered"), ("1", "No exit is sure enough")):
        number.fill(threshold)
        number.press("Enter")
        tab.page.wait_for_function("said => document.querySelector('#answer').innerText.includes(said)", arg=chosen)
    tab.page.get_by_role("tab", name="Threshold").click()
    assert "more than without exits" in tab.text("#threshold")
    assert tab.page.locator("#threshold svg polyline").count() == 1
    tab.page.get_by_role("tab", name="Mistakes").click()
    assert tab.page.locator("#mistakes figure").count() > 0
    tab.check(served)


def test_what_is_no_picture_is_said_on_the_page(served: Served, tab: Watched, picture: Path, tmp_path: Path) -> None:
    text = tmp_path / "letter.jpg"
    text.write_text("Dear all,")
    tab.give(text)
    assert "cannot be read as a picture" in tab.text("#answer .md-problem")
    tab.page.get_by_role("button", name=re.compile("clear|remove", re.IGNORECASE)).first.click()
    tab.page.wait_for_selector("#answer .md-hint")
    tab.give(picture)
    tab.text("#answer .md-class")
    tab.check(served)


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_no_wider_than_the_screen(width: int, served: Served, browser: "Browser", picture: Path) -> None:
    watched = Watched(browser, served.url, width)
    watched.give(picture)
    watched.text("#answer .md-class")
    for name in ("Picture", "Threshold", "Mistakes"):
        watched.page.get_by_role("tab", name=name).click()
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= width, name
    watched.check(served)
    watched.page.close()


def test_nothing_else_of_this_machine_is_given_out(served: Served, run: Path) -> None:
    for path in ("/etc/hostname", run / "config.yaml", run / "result.json"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{served.url}/gradio_api/file={str(path).replace(' ', '%20').replace('&', '%26')}")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux tells who listens")
def test_only_this_machine_is_listened_to(served: Served) -> None:
    port = int(served.url.rsplit(":", 1)[1])
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    listening = [line[1] for line in lines if line[3] == "0A" and int(line[1].rsplit(":", 1)[1], 16) == port]
    assert listening == [f"0100007F:{port:04X}"]


def test_a_request_by_another_name_is_refused(served: Served) -> None:
    """A page of the open web may have had its own name point to this machine."""
    request = urllib.request.Request(f"{served.url}/config", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=10)
    with urllib.request.urlopen(f"{served.url}/config", timeout=10) as answer:
        assert answer.status == 200
