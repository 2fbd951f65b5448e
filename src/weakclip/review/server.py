"""The page's addresses. Images are asked for by their index, layers by their name, and nothing by a path.

/                       the page                    /review.js  /review.css
/api/run                classes, layers, counts     /api/list?mark=&class=&name=&order=   indices
/api/items?i=1,2,3      names, labels, marks        /api/marks (POST)               make a mark
/thumb/7  /image/7  /layer/7/seed  /lines/7/seed   pictures; with ?size=own in the photo's size
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pydantic
from jinja2 import Environment, StrictUndefined

from weakclip.errors import DataError, StorageError
from weakclip.review.answers import as_json
from weakclip.review.folder import FILTERS, Request, ReviewFolder
from weakclip.review.guard import ASGI, MAX_BODY, Guard
from weakclip.review.pictures import Picture, Pictures
from weakclip.store.lock import FolderInUseError
from weakclip.store.marks import VERDICTS

if TYPE_CHECKING:
    from starlette import requests
    from starlette.responses import Response

ORDERS = ("doubt", "split")
"""Of a list of images: the most doubtful first, or as in the data set."""

MAX_ITEMS = 200
"""Images that are told of in one answer."""


class MarkBody(pydantic.BaseModel, extra="forbid", strict=True):
    """A request for a mark; see `Request`. Where `labels` are absent, those of an earlier mark stay."""

    image: int
    mark: str | None
    labels: list[str] | None = None
    after: str | None = None
    truth_seen: bool = False
    undo: bool = False


def build_site(folder: ReviewFolder, *, token: str, host: str = "127.0.0.1") -> ASGI:
    """The guarded application.

    Args:
        folder: the run.
        token: the secret that the page sends with every change.
        host: the address that will be listened on.
    """
    from starlette.applications import Starlette
    from starlette.routing import Route

    site = _Site(folder, token)
    pages: dict[str, Callable[[requests.Request], Any]] = {
        "/": site.page,
        "/review.js": site.script,
        "/review.css": site.style,
        "/favicon.ico": site.icon,
        "/api/run": site.run,
        "/api/list": site.list,
        "/api/items": site.items,
        "/thumb/{index:int}": site.thumb,
        "/image/{index:int}": site.image,
        "/layer/{index:int}/{layer:str}": site.layer,
        "/lines/{index:int}/{layer:str}": site.lines,
    }
    routes = [
        Route(path, endpoint, methods=["GET"]) for path, endpoint in pages.items()
    ]  # and HEAD, which comes with it
    routes.append(Route("/api/marks", site.mark, methods=["POST"]))
    app = Starlette(routes=routes, exception_handlers={DataError: _unreadable})
    return Guard(app, token=token, host=host)


class _Site:
    """One method an address; those that are not `async` run in threads."""

    def __init__(self, folder: ReviewFolder, token: str) -> None:
        self.folder, self.pictures = folder, Pictures(folder)
        page = files("weakclip.review") / "page"
        template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
            (page / "review.html.j2").read_text(encoding="utf-8")
        )
        self._page = template.render(title=folder.run.resolve().name, token=token)
        self._script, self._style = ((page / name).read_text(encoding="utf-8") for name in ("review.js", "review.css"))

    def page(self, request: requests.Request) -> Response:
        return _text(self._page, "text/html")

    def script(self, request: requests.Request) -> Response:
        return _text(self._script, "text/javascript")

    def style(self, request: requests.Request) -> Response:
        return _text(self._style, "text/css")

    def icon(self, request: requests.Request) -> Response:
        from starlette.responses import Response

        return Response(status_code=204)  # browsers ask for one; there is none

    def run(self, request: requests.Request) -> Response:
        return as_json(self.folder.describe() | {"counts": self.folder.counts()})

    def list(self, request: requests.Request) -> Response:
        query = request.query_params
        by_mark, by_class = query.get("mark", "all"), query.get("class", "")
        if by_mark not in FILTERS:
            return _error(400, f"mark: one of {', '.join(FILTERS)} expected")
        order = query.get("order", ORDERS[0])
        if order not in ORDERS:
            return _error(400, f"order: one of {', '.join(ORDERS)} expected")
        names = self.folder.dataset.class_set.names
        if by_class and by_class not in names[1:]:
            return _error(400, "class: no such foreground class")
        number = names.index(by_class) if by_class else None
        found = self.folder.choose(by_mark, number, query.get("name", ""), by_doubt=order == "doubt")
        return as_json({"indices": found})

    def items(self, request: requests.Request) -> Response:
        words = request.query_params.get("i", "").split(",")
        if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words) or len(words) > MAX_ITEMS:
            return _error(400, f"i: up to {MAX_ITEMS} image numbers with commas between expected")
        indices = [int(word) for word in words]
        if not all(map(self._exists, indices)):
            return _error(404, "no such image")
        return as_json({"items": self.folder.items(indices), "counts": self.folder.counts()})

    def thumb(self, request: requests.Request) -> Response:
        return self._picture(request, self.pictures.thumb)

    def image(self, request: requests.Request) -> Response:
        return self._picture(request, lambda index: self.pictures.image(index, own_size=_own_size(request)))

    def layer(self, request: requests.Request) -> Response:
        return self._layer(request, self.pictures.layer)

    def lines(self, request: requests.Request) -> Response:
        return self._layer(request, self.pictures.lines)

    def _layer(self, request: requests.Request, make: Callable[..., Picture]) -> Response:
        layer = request.path_params["layer"]
        if layer not in self.folder.layers:
            return _error(404, "no such layer")
        return self._picture(request, lambda index: make(index, layer, own_size=_own_size(request)))

    async def mark(self, request: requests.Request) -> Response:
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import ClientDisconnect

        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _error(415, "expected application/json")
        content = b""
        try:
            async for chunk in request.stream():
                content += chunk
                if len(content) > MAX_BODY:
                    return _error(413, f"at most {MAX_BODY} bytes expected")
        except ClientDisconnect:
            return _error(400, "the request was cut short")  # which nobody reads any more
        try:
            body = MarkBody.model_validate_json(content)
        except pydantic.ValidationError as error:
            problem = error.errors(include_url=False)[0]
            return _error(400, f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}")
        return await run_in_threadpool(self._mark, body)

    def _mark(self, body: MarkBody) -> Response:
        if not self._exists(body.image):
            return _error(404, "no such image")
        if body.mark is not None and body.mark not in VERDICTS:
            return _error(400, f"mark: {', '.join(VERDICTS)} or null expected")
        request = Request(
            image=body.image,
            mark=body.mark,
            labels=None if body.labels is None else tuple(body.labels),
            keep_labels="labels" not in body.model_fields_set,
            after=body.after,
            truth_seen=body.truth_seen,
            undo=body.undo,
        )
        try:
            item = self.folder.add(request)
        except (DataError, FolderInUseError, OSError) as error:
            return _not_made(error)
        if item is None:
            return _error(409, "the image was marked elsewhere in the meantime")
        return as_json({"item": item, "counts": self.folder.counts()})

    def _exists(self, index: int) -> bool:
        return 0 <= index < len(self.folder.dataset)

    def _picture(self, request: requests.Request, make: Callable[[int], Picture]) -> Response:
        from starlette.responses import Response

        index = request.path_params["index"]
        if not self._exists(index):
            return _error(404, "no such image")
        picture = make(index)
        headers = {"etag": picture.etag, "cache-control": "private, no-cache"}
        if request.headers.get("if-none-match") == picture.etag:
            return Response(status_code=304, headers=headers)
        return Response(picture.content, media_type=picture.media_type, headers=headers)


def _own_size(request: requests.Request) -> bool:
    return request.query_params.get("size") == "own"


def _not_made(error: Exception) -> Response:
    """Why a mark was not made."""
    if isinstance(error, DataError):
        return _error(400, str(error))
    if isinstance(error, FolderInUseError):
        return _error(409, f"verified masks wait: {error}")
    reason = error.strerror if isinstance(error, OSError) and not isinstance(error, StorageError) else None
    return _error(507, f"the mark is not stored: {reason or error}")


def _unreadable(request: requests.Request, error: Exception) -> Response:
    return _error(404, " ".join(str(error).split()))


def _text(content: str, media_type: str) -> Response:
    from starlette.responses import Response

    return Response(content, media_type=media_type)


def _error(status: int, detail: str) -> Response:
    return as_json({"detail": detail}, status)
