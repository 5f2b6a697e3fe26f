"""What reaches the hub: whole files, a card, and nothing of a run that is not finished. The hub is a server here."""

import base64
import functools
import json
import shutil
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest

from metadistiller import pushing
from metadistiller.cli import main
from metadistiller.errors import CheckpointError, ConfigError, PushError, UnknownName
from metadistiller.report._card import MARK

OTHER = b"# Their own page\n"


class Hub:
    """The few answers of the hub that an upload needs.

    Attributes:
        page: README.md of the repository, or None.
        status: of the answer to whoever wants to make a repository.
        asked: what was asked, in order.
        uploaded: files by name, once they are committed.
    """

    def __init__(self) -> None:
        self.page: bytes | None = None
        self.status = 200
        self.asked: list[tuple[str, str]] = []
        self.made: dict[str, Any] = {}
        self.uploaded: dict[str, bytes] = {}
        self.token: str | None = None

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        self.asked.append((method, path))
        if path.endswith("/resolve/main/README.md") and self.page is not None:
            return 200, {"ETag": '"1"', "X-Repo-Commit": "a" * 40}, self.page
        if path == "/api/repos/create":
            self.made = json.loads(body)
            return self.status, {}, json.dumps({"url": f"{self.url}/me/net", "name": "me/net"}).encode()
        if path == "/api/validate-yaml":
            return 200, {}, b'{"errors": [], "warnings": []}'
        if "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return 200, {}, json.dumps({"files": files}).encode()
        if "/commit/" in path:
            for entry in map(json.loads, body.splitlines()):
                if entry["key"] == "file":
                    self.uploaded[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return 200, {}, json.dumps({"commitUrl": f"{self.url}/me/net/commit/a", "commitOid": "a"}).encode()
        return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"

    url = ""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found.token = self.headers.get("Authorization")
            status, headers, answer = found.answer(self.command, self.path, body)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_HEAD = do_POST = do

        def log_message(self, format: str, *args: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    at(found.url, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", functools.partial(huggingface_hub.HfApi, endpoint=url))


def test_the_network_and_its_card_arrive_whole(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), "hf:me/net", "--private"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == ["10 test images give bitwise the same logits as the trained network", f"{hub.url}/me/net"]
    assert hub.uploaded["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert MARK.encode() in hub.uploaded["README.md"]
    assert b'"model.safetensors"' in hub.uploaded["README.md"]
    assert set(hub.uploaded) == {"README.md", "model.safetensors"}
    assert "private" in json.dumps(hub.made)
    assert hub.token == "Bearer hf_of_a_test"
    assert not list(run.glob("README*"))


def test_an_onnx_graph_goes_with_its_8_bit_form_and_to_the_public(hub: Hub, run: Path) -> None:
    _, done = pushing.push(run, "hf:me/net", format="onnx", int8=True)
    assert set(hub.uploaded) == {"README.md", "model.onnx", "model.int8.onnx"}
    assert "private" not in json.dumps(hub.made)
    assert done.quantised is not None


def test_a_page_of_somebody_s_own_stays_on_the_hub(hub: Hub, run: Path) -> None:
    hub.page = OTHER
    pushing.push(run, "hf:me/net")
    assert hub.uploaded.get("README.md", OTHER) == OTHER
    assert MARK.encode() in hub.uploaded["model.safetensors.README.md"]
    hub.page = f"# An older card\n{MARK}\n".encode()
    pushing.push(run, "hf:me/net")
    assert b"model-index" in hub.uploaded["README.md"]


@pytest.mark.parametrize("where", ["me/net", "hf:", "hf:a/b/c", "hf:me/n t", "hf:../net", "hf:me/net--x", "hf:-a"])
def test_a_name_that_cannot_be_one(where: str, run: Path, hub: Hub) -> None:
    with pytest.raises(ConfigError, match=r"hf:"):
        pushing.push(run, where)
    assert not hub.asked


def test_stages_and_formats_that_are_not_there_are_refused_before_the_hub_is_asked(hub: Hub, run: Path) -> None:
    with pytest.raises(ConfigError, match="push takes safetensors, torch or onnx"):
        pushing.push(run, "hf:me/net", format="onnx-stages")
    with pytest.raises(UnknownName, match="did you mean 'onnx'"):
        pushing.push(run, "hf:me/net", format="onx")
    assert not hub.asked


def test_an_unfinished_run_stays_at_home(hub: Hub, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(CheckpointError, match=r"is not finished.*metadistiller resume"):
        pushing.push(tmp_path / "run", "hf:me/net")
    assert not hub.asked


def test_without_a_token_nothing_is_asked(hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no token of the hub; log in with 'hf auth login', or set HF_TOKEN"):
        pushing.push(run, "hf:me/net")
    assert not hub.asked


@pytest.mark.parametrize(("status", "match"), [(401, "does not know the token"), (403, "may not write"), (500, "500")])
def test_what_the_hub_refuses_is_one_line(
    status: int, match: str, hub: Hub, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.status = status
    # It would ask a server in trouble again, for minutes.
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert main(["push", str(run), "hf:me/net"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: hf:me/net: the hub answers")
    assert match in err
    assert err.count("\n") == 1
    assert not hub.uploaded


def test_without_a_network_it_is_one_line(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    at("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(PushError, match="the hub cannot be reached"):
        pushing.push(run, "hf:me/net")


def test_the_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'metadistiller\[hub\]'"):
        pushing.push(run, "hf:me/net")
