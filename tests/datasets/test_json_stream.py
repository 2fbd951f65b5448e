"""What is streamed is what the file says, however it is written and cut into chunks."""

from __future__ import annotations

import io
import json

import pytest

from weakclip.datasets.json_stream import stream_lists

VALUE = {
    "info": {"year": 2014, "description": 'a "list": [1, 2] that is none }'},
    "images": [{"id": 1, "name": "ä€\U0001f600"}, {"id": 2, "nested": [[1.5, -2e-3], []]}],
    "numbers": [12345, 6, -7.25],
    "empty": [],
    "other": [1, 2, 3],
    "version": 1234567,
}


def read(text: str, names: list[str], chunk: int) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    for name, element in stream_lists(io.StringIO(text), names, chunk=chunk):
        if name not in found:
            found[name] = []
        else:
            found[name].append(element)
    return found


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 4096])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("plain", [True, False])
def test_lists_equal_those_of_json_load(chunk: int, indent: int | None, plain: bool) -> None:
    names = ["images", "numbers", "empty", "absent"]
    text = json.dumps(VALUE, indent=indent, ensure_ascii=plain) + "\n"
    assert read(text, names, chunk) == {name: VALUE[name] for name in names[:3]}


@pytest.mark.parametrize("chunk", [1, 5, 4096])
@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": [1, 2', '{"a": [1 2]}', '{"a": {}}', '{"a": [1]', '{"b" 1}', "{]", '{"a": []} x']
)
def test_what_is_no_such_object_is_refused(text: str, chunk: int) -> None:
    with pytest.raises(ValueError, match=r"expected|cut off|Expecting"):
        read(text, ["a"], chunk)


@pytest.mark.parametrize("chunk", [64, 2**22])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("name", ["a", "b"])
def test_deep_nesting_is_refused(chunk: int, opened: str, closed: str, name: str) -> None:
    """Where the lists are asked for, and where they are passed over."""
    text = f'{{"a": [{opened * 100_000}1{closed * 100_000}]}}'
    with pytest.raises(ValueError, match="nested too deeply"):
        read(text, [name], chunk)
