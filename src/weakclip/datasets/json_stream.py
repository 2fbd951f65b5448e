"""The lists of a large JSON file, one element at a time: an instances file of 300 MB never stands in memory whole."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import IO, Any

CHUNK = 2**22
"""Characters read at a time."""

_SPACE = " \t\r\n"
_FOLLOWERS = (*_SPACE, ",", ":", "]", "}")


def stream_lists(file: IO[str], names: Collection[str], *, chunk: int = CHUNK) -> Iterator[tuple[str, Any]]:
    """The elements of some lists of a JSON object, in the order of the file.

    Args:
        file: a text file that holds one JSON object.
        names: keys of the object whose values are lists; other keys are passed over.
        chunk: characters to read at a time.

    Yields:
        `(key, element)`, and `(key, None)` once where a list begins, so that an empty one is seen too.

    Raises:
        ValueError: not JSON, cut off, nested too deeply, or a value of those keys that is no list.
        OSError: the file cannot be read.

    >>> import io
    >>> list(stream_lists(io.StringIO('{"a": [1, {"b": 2}], "c": {"a": 3}}'), ["a"]))
    [('a', None), ('a', 1), ('a', {'b': 2})]
    """
    source = _Source(file, chunk)
    source.take("{")
    while source.peek() != "}":
        key = source.value()
        source.take(":")
        if key in names:
            if source.peek() not in ("[", ""):
                raise ValueError(f"{key} begins with {source.peek()!r}; expected a list")
            yield key, None
            yield from ((key, element) for element in source.elements())
        else:
            source.value()
        if source.peek() != "}":
            source.take(",")
    source.take("}")
    if source.peek():
        raise ValueError(f"expected the end of the file, found {source.peek()!r}")


def stream_list(file: IO[str]) -> Iterator[Any]:
    """The elements of a JSON file that holds one list.

    Raises:
        ValueError: not JSON, cut off, or no list.

    >>> import io
    >>> list(stream_list(io.StringIO('[1, {"b": [2]}]')))
    [1, {'b': [2]}]
    """
    source = _Source(file, CHUNK)
    yield from source.elements()
    if source.peek():
        raise ValueError(f"expected the end of the file, found {source.peek()!r}")


class _Source:
    """The part of the file that is being read."""

    def __init__(self, file: IO[str], chunk: int) -> None:
        self._file, self._chunk = file, chunk
        self._text, self._at, self._ended = "", 0, False
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no space; it is not passed. At the end of the file, nothing."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._read_on(self._chunk)

    def take(self, mark: str) -> None:
        """Pass the next character, which must be `mark`."""
        found = self.peek()
        if found != mark:
            raise ValueError(f"expected {mark!r}, found {found!r}" if found else "the file is cut off")
        self._at += 1

    def value(self) -> Any:
        """The next value, however long."""
        self.peek()
        wanted = self._chunk
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                if self._ended or self._text[end : end + 1] in _FOLLOWERS:  # else a number may go on, as 1 in 1.5
                    self._at = end
                    return value
            except RecursionError:
                raise ValueError("a value is nested too deeply") from None
            except json.JSONDecodeError as error:
                if self._ended:  # its position counts from the middle of the file
                    raise ValueError(f"{error.msg}, or the file is cut off") from None
            self._read_on(wanted)
            wanted *= 2

    def elements(self) -> Iterator[Any]:
        """The elements of the list that is next."""
        self.take("[")
        while self.peek() != "]":
            yield self.value()
            if self.peek() != "]":
                self.take(",")
        self.take("]")

    def _read_on(self, characters: int) -> None:
        more = self._file.read(characters)
        self._ended = not more
        self._text, self._at = self._text[self._at :] + more, 0
