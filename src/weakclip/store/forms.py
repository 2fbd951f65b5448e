"""How folders of results are made up, for `mirror`: which file says what counts, and what is made again."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from weakclip.store.layout import CONFIG, ERRORS, LOG, MANIFEST, STAGE_FOLDERS, UNTAGGED
from weakclip.store.manifest import FORMAT, PREVIOUS, are_records
from weakclip.store.untrusted_text import parse_json

_PART = re.compile(r"\.\d+-of-\d+(?=\.[^.]*$)")
_STAGES = frozenset(folder + ending for folder in STAGE_FOLDERS.values() for ending in ("", PREVIOUS))


@dataclass(frozen=True)
class Form:
    """A folder with one key for all that is in it.

    Args:
        what: it holds, for messages.
        manifest: the file with the key, `{"key": …}`.
        results: folders and files that count under that key only.
        others: the rest of what is made again where it is missing.
        last: the folder whose files tell that others are there.
    """

    what: str
    manifest: str
    results: frozenset[str]
    others: frozenset[str]
    last: str = ""
    remade: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "remade", self.results | self.others | {self.manifest})

    def is_readable(self, manifest: bytes) -> bool:
        """Whether it is such a manifest."""
        return isinstance(json_object(manifest).get("key"), str)

    def is_new(self, manifest: bytes) -> bool:
        """Whether this version of the package goes on from it."""
        return True

    def keys(self, manifest: bytes | None, *, done: bool = False) -> dict[str, str]:
        """Folder or file → key of the result in it; all, or those that are finished, as far as that can be told."""
        key = json_object(manifest).get("key")
        return {} if key is None else dict.fromkeys(self.results, str(key))

    def without(self, manifest: bytes, results: Collection[str]) -> bytes | None:
        """A manifest without some results; None for no manifest."""
        return None


class _RunForm(Form):
    """A run folder, with a key for each stage."""

    def is_readable(self, manifest: bytes) -> bool:
        """See `Form`."""
        return are_records(json_object(manifest).get("stages"))

    def is_new(self, manifest: bytes) -> bool:
        """See `Form`."""
        return bool(json_object(manifest).get("format", FORMAT) == FORMAT)

    def keys(self, manifest: bytes | None, *, done: bool = False) -> dict[str, str]:
        """See `Form`."""
        content, found = json_object(manifest), dict[str, str]()
        for part, ending in (("stages", ""), ("previous", PREVIOUS)):
            records = content.get(part)
            for stage, record in records.items() if are_records(records) else ():
                if stage in STAGE_FOLDERS and (record.get("done") or not done):
                    found[STAGE_FOLDERS[stage] + ending] = str(record.get("key"))
        return found

    def without(self, manifest: bytes, results: Collection[str]) -> bytes | None:
        """See `Form`."""
        content = json_object(manifest)
        for part, ending in (("stages", ""), ("previous", PREVIOUS)):
            records = content.get(part, {})
            content[part] = {
                stage: each for stage, each in records.items() if STAGE_FOLDERS[stage] + ending not in results
            }
        return json.dumps(content).encode()


RUN = _RunForm(
    "run of weakclip",
    MANIFEST,
    results=_STAGES,
    others=frozenset({CONFIG, LOG, ERRORS, UNTAGGED, "checked.json", "report.html"}),
)


def top_of(name: str) -> str:
    """The first part of a file's name, without the number of a shard.

    >>> top_of("masks/a.png"), top_of("errors.0-of-2.jsonl")
    ('masks', 'errors.jsonl')
    """
    return _PART.sub("", name.partition("/")[0])


def stem_of(name: str) -> str:
    """The part of a file's name that the files of one image share; empty for a file of the folder itself.

    >>> stem_of("masks/deep/a.b.png"), stem_of("json/deep/a.b.json")
    ('deep/a.b', 'deep/a.b')
    """
    return name.partition("/")[2].rpartition(".")[0]


def json_object(content: bytes | None) -> dict[str, Any]:
    """The entries of a JSON object; none where it is no such thing."""
    try:
        found = parse_json(content or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
