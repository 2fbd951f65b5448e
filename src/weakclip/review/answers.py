"""Answers to the servers of annotation tools: JSON in, JSON out, and one line for what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from weakclip.errors import DataError, RunError, WeakCLIPError, first_line
from weakclip.store.untrusted_text import one_line

if TYPE_CHECKING:
    from starlette import requests
    from starlette.responses import Response

logger = logging.getLogger("weakclip")

MAX_BODY = 64 * 2**20
"""Bytes of a request: an annotation holds its masks as run lengths, and an image comes as base64."""

Handler = Callable[["requests.Request"], Awaitable["Response"]]


def answering(work: Callable[[Any], Any], *, sender: str, status: int = 200) -> Handler:
    """A handler of requests that bring JSON. It takes nothing that a page in a browser sends.

    Args:
        work: from the content of a request to that of its answer, in a thread.
        sender: the tool that sends such requests, for messages.
        status: of the answer.
    """

    async def handle(request: requests.Request) -> Response:
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import ClientDisconnect

        refusal = _refusal(request)
        if refusal is not None:
            return _refused(*refusal)
        content = bytearray()
        try:
            async for chunk in request.stream():
                content += chunk
                if len(content) > MAX_BODY:
                    raise DataError(f"at most {MAX_BODY} bytes expected")
            return as_json(await run_in_threadpool(work, json.loads(content)), status)
        except ClientDisconnect:
            refusal = 400, "the request was cut short"
        except RunError as error:
            refusal = 503, f"{error}; {sender} does not ask again by itself: submit it once more then"
        except WeakCLIPError as error:
            refusal = 400, str(error)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            refusal = 400, f"not what {sender} sends: {one_line(first_line(error))}"
        return _refused(*refusal)

    return handle


def as_json(content: Any, status: int = 200) -> Response:
    """An answer."""
    from starlette.responses import JSONResponse

    return JSONResponse(content, status_code=status)


def _refusal(request: requests.Request) -> tuple[int, str] | None:
    """Status and reason for what no server sends; a page cannot send JSON here without `Origin`."""
    if "origin" in request.headers:
        return 403, "a page in a browser may not ask this"
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return 415, "expected application/json"
    return None


def _refused(status: int, detail: str) -> Response:
    """An answer that annotation tools show to few: the log has it, too."""
    logger.warning("serve: refused (%d): %s", status, detail)
    return as_json({"detail": detail}, status)
