"""Guards the page: decides which requests are let in, and adds headers to every answer. Plain ASGI, no library."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN_HEADER = "x-review-token"
MAX_BODY = 64 * 1024
"""Bytes of a request."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?")


class Guard:
    """Lets a request in if it names this machine, and one that changes something if our own page sent it.

    A foreign page can point its own name at 127.0.0.1 (DNS rebinding); its requests then carry that name in `Host`. The
    port is not compared, so that a forwarded one (`ssh -L`) works.

    Args:
        app: what is guarded.
        token: the secret of this process, which the page sends with every change.
        host: the address that is listened on; away from loopback the machine's names and plain addresses are let in.
    """

    def __init__(self, app: ASGI, *, token: str, host: str = "127.0.0.1") -> None:
        self.app, self._token = app, token.encode()
        self._any_address = not is_loopback(host)
        self._names = _LOOPBACK | ({host.lower(), *_own_names()} if self._any_address else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        elif refusal := self._refusal(scope):
            await _refuse(_with_headers(send), *refusal)
        else:
            await self.app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return 403, "the Host of this request is not this machine"
        if scope["method"] in ("GET", "HEAD"):
            return None
        if origins != [f"http://{hosts[0]}"]:
            return 403, "the Origin of this request is another page"
        tokens = _values(scope, TOKEN_HEADER.encode())
        if len(tokens) != 1 or not hmac.compare_digest(tokens[0].encode(), self._token):
            return 403, "the review was started anew since this page was loaded; load it again"
        return None

    def _is_own(self, header: str) -> bool:
        match = _HOST.fullmatch(header.lower())
        if match is None:
            return False
        name = match[1]
        return name in self._names or (self._any_address and _is_address(name))


def is_loopback(host: str) -> bool:
    """Whether an address is reached only from this machine."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name.strip("[]")))
    return False


def _own_names() -> set[str]:
    return {socket.gethostname().lower(), socket.getfqdn().lower()}


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _with_headers(send: Send) -> Send:
    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message.get("headers", ())}
            added = HEADERS if b"cache-control" in present else HEADERS | {"cache-control": "no-store"}
            own = [(name.encode(), value.encode()) for name, value in added.items()]
            message = {**message, "headers": [*message.get("headers", ()), *own]}
        await send(message)

    return sent


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
