"""YAML, JSON, XML and messages that somebody else may have written: no objects, bombs or control characters. No torch.

What such text can do beside being wrong: name Python objects (`!!python/object/apply`), grow without bounds where
aliases or entities are written out ("billion laughs"), nest so deeply that Python gives up, or steer a terminal. Each
of these is a `ValueError` of one line here.
"""

from __future__ import annotations

import contextlib
import json
import reprlib
import unicodedata
from collections.abc import Sequence
from typing import IO, Any
from xml.parsers import expat

import yaml

MOST_NODES = 100_000
"""Values in a YAML text, each alias counted as often as it is used; a configuration has some hundreds."""

_XML_CHUNK = 4096

_CONTROLS = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, line and paragraph separators
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # make text read backwards

_shortener = reprlib.Repr()
_shortener.maxlevel, _shortener.maxstring, _shortener.maxother = 2, 200, 200


def parse_yaml(text: str) -> Any:
    """Plain values from YAML.

    Raises:
        ValueError: not YAML, a tag that names an object, a key twice, or more than `MOST_NODES` values.

    >>> parse_yaml("a: [1, two]")
    {'a': [1, 'two']}
    >>> parse_yaml("a: 1\\nb: 2\\na: 3")
    Traceback (most recent call last):
    ValueError: line 3: the key 'a' is there already; keep one of the two
    >>> parse_yaml("!!python/object/apply:os.system [date]")
    Traceback (most recent call last):
    ValueError: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system' ...
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _size(node, {}) > MOST_NODES:
                raise ValueError(f"more than {MOST_NODES:,} values, aliases written out; write fewer")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except Exception as error:  # the constructors of dates, numbers and sets raise many kinds
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node and itself; one that contains itself has no end."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MOST_NODES + 1  # while it is being counted
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            parts = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _check_keys(mapping: yaml.MappingNode) -> None:
    """Of a key that is there twice, PyYAML drops the first value without a word."""
    seen: set[tuple[str, str]] = set()
    for key, _ in mapping.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                line = key.start_mark.line + 1
                raise ValueError(f"line {line}: the key {short(key.value)} is there already; keep one of the two")
            seen.add((key.tag, key.value))


def refuse_doctype(file: IO[bytes]) -> None:
    """Refuse XML with a document type declaration, which can define entities and name other files.

    Args:
        file: read from its beginning, as far as the root element, which such a declaration must precede. What
            else is wrong there is left to the reader.

    Raises:
        ValueError: there is one.

    >>> import io
    >>> refuse_doctype(io.BytesIO(b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"))
    Traceback (most recent call last):
    ValueError: it has a document type declaration; refused, write it without
    """
    found: list[str] = []
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = lambda *_: found.append("document type")
    parser.StartElementHandler = lambda *_: found.append("root")
    with contextlib.suppress(expat.ExpatError, LookupError, ValueError):  # the last two: of its encoding
        while not found and (chunk := file.read(_XML_CHUNK)):
            parser.Parse(chunk)
    if found[:1] == ["document type"]:
        raise ValueError("it has a document type declaration; refused, write it without")


def parse_json(text: str | bytes) -> Any:
    """Values from JSON, as `json.loads`.

    Raises:
        ValueError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def short(value: Any) -> str:
    """The `repr` of a value for a message, whatever its size.

    >>> short([[["deep"]]]), len(short("long" * 100)) <= 200
    ('[[[...]]]', True)
    """
    return _shortener.repr(value)


def is_plain(text: str) -> bool:
    """Whether text has no character that ends a line, steers a terminal or cannot be written as UTF-8.

    >>> is_plain("chat noir"), is_plain("\\x1b[2J"), is_plain("two\\nlines")
    (True, False, False)
    """
    return (text.isascii() and text.isprintable()) or not any(map(_is_control, text))


def one_line(text: str) -> str:
    """Text with single spaces, and with what would steer a terminal spelled out.

    >>> one_line("two\\n  lines, \\x1b[2J")
    'two lines, \\\\x1b[2J'
    """
    joined = " ".join(text.split())
    if is_plain(joined):
        return joined
    return "".join(letter.encode("unicode_escape").decode() if _is_control(letter) else letter for letter in joined)


SHOWN = 20
"""Classes, and images to look at, that a command names one by one."""


def some(names: Sequence[str], most: int = 3, *, more: str = ", …") -> str:
    """The first of some names in one line, and a sign where there are others.

    >>> some(["a", "b", "c"], 2), some(["a", "b"], 2)
    ('a, b, …', 'a, b')
    """
    return ", ".join(map(one_line, names[:most])) + (more if len(names) > most else "")


def _is_control(letter: str) -> bool:
    return letter in _TURNING or unicodedata.category(letter) in _CONTROLS
