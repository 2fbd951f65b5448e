"""The key of a result: settings, inputs, and the version of the code.

A result is used again only under the very same key. Settings are dataclasses; a field's metadata says when it is not
part of the key: `NO_EFFECT` changes how a result is made, `MORE_OUTPUT` what is written beside it; `ADDED` is part of
the key only where it is not at its default.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

NO_EFFECT: Mapping[str, str] = MappingProxyType({"weakclip": "no effect"})
"""Metadata of a setting that changes how a result is made, or whether there is one, but not the result."""
ADDED: Mapping[str, str] = MappingProxyType({"weakclip": "added"})
"""Metadata of a setting that runs of an earlier version lack: at its default it is left out, so that they stay done."""
MORE_OUTPUT: Mapping[str, str] = MappingProxyType({"weakclip": "more output"})
"""Metadata of a setting that asks for more files beside a result that it does not change."""


@dataclass(frozen=True, kw_only=True)
class ResultKey:
    """All that a result depends on.

    Args:
        settings: by their key paths, `{"train.steps": 1500}`; JSON values.
        inputs: fingerprint of every input, by the name of the stage or of the data that it comes from.
        code: version of the code; raised when the same inputs would give another result.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    code: int = 1

    @property
    def digest(self) -> str:
        """Hexadecimal digest of everything above."""
        content = json.dumps(_canonical([self.settings, self.inputs, self.code]), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def record(self) -> dict[str, Any]:
        """The key as JSON values."""
        parts = {"key": self.digest, "settings": self.settings, "inputs": self.inputs, "code": self.code}
        return json.loads(json.dumps(parts))

    def differences(self, record: Mapping[str, Any], *, made_here: frozenset[str] = frozenset()) -> list[str]:
        """How the key differs from an earlier one, in words: settings with old and new value, inputs, code.

        Args:
            record: what `record()` gave for the earlier one.
            made_here: inputs that the same folder makes; they are new, others have changed.
        """
        new = self.record()
        changed = _changed(record.get("settings", {}), new["settings"])
        words = [f"{name}: {_short(before)} → {_short(after)}" for name, before, after in changed]
        for name, _, after in _changed(record.get("inputs", {}), new["inputs"]):
            told = "is new" if name in made_here else "changed"
            words.append(f"{name} {told if after is not None else 'is not used any more'}")
        if record.get("code") != new["code"]:
            words.append("this version of weakclip computes it differently")
        return words or ["it was made by another version of weakclip"]


def plain(value: Any) -> Any:
    """Dataclasses and tuples as the mappings and lists of YAML and JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def flat(value: Any, prefix: str) -> dict[str, Any]:
    """All settings by their key paths, but for `ADDED` ones at their defaults.

    >>> from weakclip.config import ClipSettings
    >>> flat(ClipSettings(source="demo"), "clip")
    {'clip.source': 'demo', 'clip.vocabulary': None}
    """
    return {path: leaf for path, leaf, _ in _leaves(value, prefix)}


def result_settings(value: Any, prefix: str = "") -> dict[str, Any]:
    """The settings that a result depends on, by their key paths.

    >>> from weakclip.inference import PseudoMaskSettings
    >>> "masks.confidence" in result_settings(PseudoMaskSettings(), "masks")
    False
    """
    return {path: leaf for path, leaf, effect in _leaves(value, prefix) if effect is None}


def output_settings(value: Any) -> dict[str, Any]:
    """The settings that ask for more files beside a result, by their key paths."""
    return {path: leaf for path, leaf, effect in _leaves(value, "") if effect == MORE_OUTPUT["weakclip"]}


def _leaves(value: Any, path: str, effect: str | None = None) -> Iterator[tuple[str, Any, str | None]]:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        yield path, plain(value), effect
        return
    for entry in dataclasses.fields(value):
        part, own = getattr(value, entry.name), effect or entry.metadata.get("weakclip")
        if own == ADDED["weakclip"]:
            if part == entry.default:
                continue
            own = None
        yield from _leaves(part, f"{path}.{entry.name}".removeprefix("."), own)


def _canonical(value: Any) -> Any:
    """3.0 as 3: the same number, whether a person or a program wrote it."""
    if isinstance(value, Mapping):
        return {name: _canonical(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in [*after, *(name for name in before if name not in after)]:
        if before.get(name) != after.get(name):
            yield name, before.get(name), after.get(name)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
