"""Requests as bytes on a socket: what no browser sends, and what a library would put right before it is sent."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path

import pytest
from review_case import served

from weakclip.store.marks import MARKS, read_marks

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

SECRETS = (b"dataset:", b"root:x", b"def build_site", b"[core]")
"""Of a configuration, a list of users, the program and a repository."""

PATHS = [
    *("/..%2f..%2fetc/passwd", "/../../etc/passwd", "//etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/.git/config"),
    *("/image/..%2f..%2fconfig.yaml", "/layer/0/..%2F..%2F..%2Fconfig.yaml", "/layer/0/..%5c..%5cconfig.yaml"),
    *(
        "/review.js/../../server.py",
        "/image/0/../../marks.jsonl",
        "/image/%D9%A1",
        "/thumb/1e3",
        "/thumb/+1",
        "/static",
    ),
    "/static",
    *("/image/%2e%2e%2f%2e%2e%2fconfig.yaml%00.png", "/layer/0/seed%2f..", "/layer/0/%00", "/a%0d%0aX-Injected:%20yes"),
]
HOSTS = [
    *("", "Host: evil.example\r\n", "Host: evil@127.0.0.1\r\n", "Host: 127.1\r\n", "Host: 0.0.0.0\r\n"),
    *("Host: localhost.\r\n", "Host: localhost.evil.example\r\n", "Host: 127.0.0.1, evil.example\r\n"),
    *("Host: evil.example\r\nHost: 127.0.0.1\r\n", "Host: 127.0.0.1\r\nX-Forwarded-Host: x\r\nHost: evil.example\r\n"),
]


def exchange(address: str, request: str, body: bytes = b"") -> bytes:
    """What comes back."""
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=20) as line:
        with contextlib.suppress(ConnectionError):  # whoever is refused may be sending still
            line.sendall(request.encode("latin-1") + body)
        with contextlib.suppress(ConnectionResetError):
            while part := line.recv(2**16):
                answer += part
    return answer


def head(address: str, method: str = "GET", path: str = "/", own: bool = False) -> str:
    host = address.removeprefix("http://").rstrip("/")
    proof = f"Origin: http://{host}\r\nX-Review-Token: token\r\nContent-Type: application/json\r\n" if own else ""
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{proof}"


@pytest.mark.parametrize("path", PATHS)
def test_no_way_of_writing_a_path_leads_to_a_file(address: str, path: str) -> None:
    answer = exchange(address, head(address, path=path) + "\r\n")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert not any(secret in answer for secret in SECRETS) and b"X-Injected: yes" not in answer


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_that_is_not_this_machine_is_let_in_by_no_spelling(address: str, host: str) -> None:
    version = "1.1" if host else "1.0"
    answer = exchange(address, f"GET / HTTP/{version}\r\n{host}Connection: close\r\n\r\n")
    assert answer.split()[1] in (b"400", b"403") and b"review-token" not in answer


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "CONNECT", "PUT", "DELETE", "PROPFIND", "FOO"])
@pytest.mark.parametrize("path", ["/", "/api/marks"])
def test_no_other_method_is_let_in_from_another_page(address: str, method: str, path: str) -> None:
    asked = "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n"
    answer = exchange(address, head(address, method, path) + asked)
    assert answer.startswith(b"HTTP/1.1 403 ") and b"access-control" not in answer.lower()


GOOD = b'{"image": 0, "mark": "good"}'


def whole(body: bytes) -> tuple[str, bytes]:
    return f"Content-Length: {len(body)}\r\n\r\n", body


BODIES: dict[str, tuple[str, bytes]] = {
    "cut off by its length": ("Content-Length: 10\r\n\r\n", GOOD),
    "a length below 0": ("Content-Length: -1\r\n\r\n", GOOD),
    "two lengths": (f"Content-Length: 3\r\nContent-Length: {len(GOOD)}\r\n\r\n", GOOD),
    "a request within": ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", GOOD),
    "parts without end": ("Transfer-Encoding: chunked\r\n\r\n", (b"8000\r\n" + b"x" * 2**15 + b"\r\n") * 4),
    "nested": whole(b'{"image": 0, "mark": ' + b"[" * 60_000),
    "a number of digits": whole(b'{"image": 1' + b"0" * 5000 + b', "mark": "good"}'),
    "no number": whole(b'{"image": NaN, "mark": "good"}'),
    "half a letter": whole(b'{"image": 0, "mark": "relabel", "labels": ["\\ud800"]}'),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_crafted_mark_is_not_stored(address: str, review_run: Path, name: str) -> None:
    lengths, body = BODIES[name]
    answer = exchange(address, head(address, "POST", "/api/marks", own=True) + lengths, body)
    assert not answer or answer.split()[1] in (b"400", b"413")
    assert not (review_run / MARKS).exists()


def test_a_mark_as_bytes_is_stored_where_nothing_is_wrong_with_it(address: str, review_run: Path) -> None:
    asked = head(address, "POST", "/api/marks", own=True) + f"Content-Length: {len(GOOD)}\r\n\r\n"
    assert json.loads(exchange(address, asked, GOOD).partition(b"\r\n\r\n")[2])["item"]["mark"] == "good"
    assert len(read_marks(review_run / MARKS)[0]) == 1


def test_a_client_that_hangs_up_is_no_error(review_run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with served(review_run) as address:  # until its end the server may not have noticed
        host, port = address.removeprefix("http://").rstrip("/").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as line:
            line.sendall((head(address, "POST", "/api/marks", own=True) + "Content-Length: 1000\r\n\r\n{").encode())
        assert exchange(address, head(address) + "\r\n").startswith(b"HTTP/1.1 200 ")
    assert "Traceback" not in caplog.text and not (review_run / MARKS).exists()
