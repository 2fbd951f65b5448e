"""Laws of `weakclip review`: what stands in the way is one clear line; the page is announced when it can be opened."""

from __future__ import annotations

import importlib.util
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from weakclip.errors import RunError
from weakclip.review.guard import is_loopback
from weakclip.review.serving import listening


def test_what_is_no_run_folder(call: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    assert call("review", tmp_path) == 2
    assert "not a run folder (no config.yaml)" in capsys.readouterr().err


def test_missing_extra_is_named(
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    review_run: Path,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "starlette" else find(name))
    assert call("review", review_run, "--json") == 2
    out, err = capsys.readouterr()
    assert "pip install weakclip[serve]" in json.loads(out)["error"]["message"] and "weakclip[serve]" in err


def test_port_in_use(call: Callable[..., int], capsys: pytest.CaptureFixture[str], review_run: Path) -> None:
    pytest.importorskip("starlette")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert call("review", review_run, "--port", port) == 2
    assert f"127.0.0.1:{port}: cannot listen there" in capsys.readouterr().err


def test_address_of_another_machine() -> None:
    with pytest.raises(RunError, match="cannot listen there"):
        listening("192.0.2.1", 0)


@pytest.mark.parametrize("arguments", [(), ("--host", "0.0.0.0"), ("--json",)])
def test_page_is_announced_and_an_open_host_is_warned_of(
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    review_run: Path,
    arguments: tuple[str, ...],
) -> None:
    uvicorn = pytest.importorskip("uvicorn")

    def run(self: object, sockets: list[socket.socket]) -> None:
        with socket.create_connection(("127.0.0.1", sockets[0].getsockname()[1]), timeout=5):
            raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", run)
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", opened.append)
    assert call("review", review_run, "--port", "0", "--open", *arguments) == 0
    out, err = capsys.readouterr()
    address = json.loads(out)["address"] if "--json" in arguments else out.removeprefix("review: ").split()[0]
    assert address.startswith("http://127.0.0.1:") and opened == [address]
    assert ("can see the images" in err) == ("--host" in arguments)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.9.9.9", True), ("0.0.0.0", False), ("lab", False)],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
