"""`classes.yaml`: the names of a data set's classes, and what else a person wants to say of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from weakclip.datasets.classes import BACKGROUND, BACKGROUND_PROMPTS, ClassSet, voc_palette
from weakclip.errors import DataError
from weakclip.store.remote import file_at
from weakclip.store.trees import AnyPath
from weakclip.store.untrusted_text import parse_yaml, short

CLASS_FILE = "classes.yaml"
CLASS_KEYS = ("names", "synonyms", "prompts", "background_prompts", "colors")


@dataclass(frozen=True)
class Vocabulary:
    """The classes, and the other spellings under which labels may name them.

    Args:
        class_set: the classes.
        synonyms: spelling → class name.
    """

    class_set: ClassSet
    synonyms: Mapping[str, str] = field(default_factory=dict)

    def foreground_indices(self, labels: Iterable[str]) -> tuple[int, ...]:
        """Ascending, unique indices of labels, each a class name or a synonym of one.

        Raises:
            DataError: an unknown class, or the background.
        """
        return self.class_set.foreground_indices(self.synonyms.get(label, label) for label in labels)


def class_set_of_names(names: Iterable[str]) -> ClassSet:
    """A class set of foreground names: prompts are the names with `_` as a space, and everyday backgrounds."""
    return _class_set(list(names), {}, None, {})


def read_class_file(path: AnyPath) -> Vocabulary:
    """Classes and synonyms from `classes.yaml`.

    Keys: `names`, the foreground classes in the order of their mask indices 1, 2, …; and, each optional, `synonyms`
    (class name: other spellings in the labels), `prompts` (class name: words for zero-shot use), `background_prompts`
    (list of words) and `colors` (class name: [r, g, b]).

    Raises:
        DataError: no such file, not YAML, an unknown key or class, or a value of another kind.
    """
    content = _read_yaml(path)
    prompts, colors = content.get("prompts") or {}, content.get("colors") or {}
    if not isinstance(prompts, dict) or not isinstance(colors, dict) or not _all_text(list(prompts.values())):
        raise DataError(f"{path}: prompts are `class: words` and colors `class: [r, g, b]`")
    background = content.get("background_prompts")
    if background is not None and not _all_text(background):
        raise DataError(f"{path}: background_prompts is a list of words")
    try:
        class_set = _class_set(content["names"], prompts, background, colors)
        return Vocabulary(class_set, _synonyms(content.get("synonyms") or {}, class_set))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def own_vocabulary(root: AnyPath, class_file: AnyPath | str | None) -> Vocabulary | None:
    """The classes of a data set by a class file: the one that is named, or that in its folder; None without any.

    Raises:
        DataError: as `read_class_file`.
    """
    if class_file is not None:
        return read_class_file(file_at(class_file))
    return read_class_file(root / CLASS_FILE) if (root / CLASS_FILE).is_file() else None


def _read_yaml(path: AnyPath) -> dict[str, Any]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a file with the classes") from None
    except ValueError as error:
        raise DataError(f"{path}: not a YAML file ({error})") from None
    if not isinstance(content, dict) or not _all_text(content.get("names")):
        raise DataError(f"{path}: expected `names:` with a list of class names; put quotes round numbers, yes and no")
    for key in content:
        if key not in CLASS_KEYS:
            near = difflib.get_close_matches(str(key), CLASS_KEYS, n=1)
            raise DataError(f"{path}: unknown key {short(key)}; known: {', '.join(near or CLASS_KEYS)}")
    return content


def _all_text(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _synonyms(content: Any, class_set: ClassSet) -> dict[str, str]:
    if not isinstance(content, dict) or not all(_all_text(spellings) for spellings in content.values()):
        raise DataError("synonyms are `class: [other spelling, …]`; put quotes round numbers, yes and no")
    names: dict[str, str] = {}
    for name, spellings in content.items():
        class_set.foreground_indices([name])
        for spelling in spellings:
            if spelling in class_set.names:
                raise DataError(f"synonyms: {spelling!r} of {name!r} is a class itself; take it out of one of the two")
            if names.setdefault(spelling, name) != name:
                raise DataError(f"synonyms: {spelling!r} means both {names[spelling]!r} and {name!r}; keep one")
    return names


def _class_set(
    names: list[str], prompts: Mapping[str, str], background: list[str] | None, colors: Mapping[str, Any]
) -> ClassSet:
    if BACKGROUND in names:
        raise DataError(f"the background is class 0 by itself; leave {BACKGROUND!r} out of the names")
    plain = ClassSet.from_foreground(names)
    for name in (*prompts, *colors):
        plain.index(name)
    triples = []
    for name, default in zip(plain.names, voc_palette(plain.num_classes).tolist(), strict=True):
        color = colors.get(name, default)
        if not isinstance(color, list) or not all(isinstance(value, int) for value in color):
            raise DataError(f"class {name!r}: a colour is [r, g, b], three numbers 0 to 255; found {short(color)}")
        triples.append(tuple(color))
    if background is None:
        background = [word for word in BACKGROUND_PROMPTS if word not in names]
    return ClassSet(
        names=plain.names,
        prompts=(BACKGROUND, *(prompts.get(name, name.replace("_", " ")) for name in names)),
        background_prompts=tuple(background),
        colors=tuple(triples),
    )
