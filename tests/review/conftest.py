"""The run folder that the tests of the review page look at, and its page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from review_case import make_review_run, served


@pytest.fixture
def review_run(tmp_path: Path) -> Path:
    """See `make_review_run`."""
    return make_review_run(tmp_path)


@pytest.fixture
def address(review_run: Path) -> Iterator[str]:
    """The page of `review_run`."""
    with served(review_run) as address:
        yield address
