"""The run folder that the tests of the review page look at, and its page."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from review_case import make_review_run

from weakclip.review.folder import ReviewFolder
from weakclip.review.serving import listening


@pytest.fixture
def review_run(tmp_path: Path) -> Path:
    """See `make_review_run`."""
    return make_review_run(tmp_path)


@pytest.fixture
def address(review_run: Path) -> Iterator[str]:
    """The page, served by a thread; its token is "token"."""
    import uvicorn

    from weakclip.review.server import build_site

    listener = listening("127.0.0.1", 0)
    site = build_site(ReviewFolder(review_run), token="token")
    server = uvicorn.Server(uvicorn.Config(site, log_level="warning", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join()
    listener.close()
