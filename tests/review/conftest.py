"""The run folder that the tests of the review page look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from review_case import make_review_run


@pytest.fixture
def review_run(tmp_path: Path) -> Path:
    """See `make_review_run`."""
    return make_review_run(tmp_path)
