"""From a run folder to a page in a browser, or a model for annotation tools: a port, a server, an end with Ctrl-C."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from weakclip.errors import ConfigError, RunError
from weakclip.review.folder import ReviewFolder
from weakclip.review.guard import ASGI
from weakclip.store.untrusted_text import is_plain, short

if TYPE_CHECKING:
    from weakclip.review.mask_source import MaskSource

LONGEST_NAME = 100
"""Characters of a reviewer's name at most."""


def serve(
    run: Path | str, *, announce: Callable[[str], None], port: int, host: str = "127.0.0.1", reviewer: str = ""
) -> None:
    """Serve the review page of a run folder until Ctrl-C.

    Args:
        run: the run folder.
        announce: called with the page's address as soon as it can be opened.
        port: 0 takes a free one.
        host: the address to listen on.
        reviewer: the name that marks carry; the login name where it is empty.

    Raises:
        ConfigError: Starlette or uvicorn is not installed, or a name that is none.
        RunError: as `ReviewFolder`, or the port cannot be had.
    """
    _check_installed()
    from weakclip.review.server import build_site

    folder = ReviewFolder(run, reviewer=reviewer_name(reviewer))
    _listen(build_site(folder, token=secrets.token_urlsafe(32), host=host), announce, host, port)


def serve_ml_backend(
    run: Path | str, *, images: Path | None, announce: Callable[[str], None], port: int, host: str = "127.0.0.1"
) -> None:
    """Serve the masks of a run to Label Studio and CVAT until Ctrl-C.

    Args:
        run: the run folder.
        images: a folder of further images; None for none.
        announce: called with the address as soon as it can be asked.
        port: 0 takes a free one.
        host: the address to listen on.

    Raises:
        ConfigError: Starlette or uvicorn is not installed.
        RunError: no run, or the port cannot be had.
    """
    _check_installed()
    from weakclip.review.mask_source import MaskSource

    _listen(build_ml_backend(MaskSource(run, images)), announce, host, port)


def build_ml_backend(source: MaskSource) -> ASGI:
    """The application that annotation tools ask for masks."""
    from starlette.applications import Starlette

    from weakclip.review.cvat import cvat_routes
    from weakclip.review.ml_backend import label_studio_routes

    return Starlette(routes=[*label_studio_routes(source), *cvat_routes(source)])


def _check_installed() -> None:
    if not all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn")):
        raise ConfigError("a server needs Starlette and uvicorn; `pip install weakclip[serve]`")


def _listen(site: ASGI, announce: Callable[[str], None], host: str, port: int) -> None:
    import uvicorn

    with contextlib.closing(listening(host, port)) as listener:
        settings = uvicorn.Config(site, log_level="warning", server_header=False, lifespan="off", ws="none")
        shown = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
        announce(f"http://{shown}:{listener.getsockname()[1]}/")
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(settings).run(sockets=[listener])


def reviewer_name(given: str) -> str:
    """The name that marks carry: the given one, or else the login name.

    Raises:
        ConfigError: an over-long name, or one with control characters.
    """
    name = given.strip()
    if not name:
        try:
            name = getpass.getuser()
        except (OSError, KeyError, ImportError):  # no such account, as in some containers
            name = f"user {os.getuid()}" if hasattr(os, "getuid") else "reviewer"
    if len(name) > LONGEST_NAME or not is_plain(name):
        raise ConfigError(
            f"reviewer: {short(name)}; expected up to {LONGEST_NAME} characters, none a control character"
        )
    return name


def listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections.

    Raises:
        RunError: the port is in use, or the address is not this machine's.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(
            f"{host}:{port}: cannot listen there ({reason}); choose another --port, or 0 for a free one"
        ) from None
    return listener
