"""A folder of results beside a run's stages: what lies there under another key is removed."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from weakclip.store.files import read_json_if_any, remove_leftovers, write_json, writing
from weakclip.store.keys import ResultKey

logger = logging.getLogger("weakclip")

KEY = "key.json"
"""In the folder: the key of what it depends on."""


def keyed_folder(folder: Path, key: ResultKey, *, what: str) -> Path:
    """The folder, ready to be filled or continued under a key.

    Args:
        folder: made where it is missing.
        key: of its results.
        what: the results, for the log.

    Raises:
        StorageError: it cannot be written.
    """
    with writing(folder):
        if folder.exists() and read_json_if_any(folder / KEY).get("key") != key.digest:
            logger.info("%s: network, images or settings have changed; predicts anew", what)
            shutil.rmtree(folder)
        remove_leftovers(folder)
        write_json(folder / KEY, key.record())
    return folder
