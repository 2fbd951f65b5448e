"""Files that would do harm: each makes, where it gets its way, the file `ran`."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from harm import Harm


@pytest.fixture
def harm(tmp_path: Path) -> Harm:
    """An object whose pickle runs `touch ran`; that it would is checked here."""
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(Harm(marker)))
    assert marker.exists()
    marker.unlink()
    return Harm(marker)
