"""The keys that a configuration can have, read from the source of its classes: importing those would import torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def setting_keys() -> set[str]:
    """The keys of a configuration of any kind, as `train.steps`."""
    return set(_keys_of("weakclip.config.sections", "RunConfig", ""))


def _keys_of(module: str, name: str, prefix: str) -> Iterator[str]:
    """The keys of a class of settings."""
    for node in _statements(module):
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            yield from _keys_of(str(node.module), name, prefix)
        elif isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):  # `AnyData = ScenesData | …`
            for kind in _names_in(node.value):
                yield from _keys_of(module, kind, prefix)
        elif isinstance(node, ast.ClassDef) and node.name == name:
            for base in node.bases:
                yield from _keys_of(module, ast.unparse(base), prefix)
            for field in node.body:
                if isinstance(field, ast.AnnAssign):
                    key, kinds = prefix + ast.unparse(field.target), _names_in(field.annotation)
                    items = "tuple" in kinds  # a list is one value
                    below = [] if items else [each for kind in kinds for each in _keys_of(module, kind, f"{key}.")]
                    optional = any(isinstance(part, ast.Constant) for part in ast.walk(field.annotation))
                    yield from below
                    if optional or not below:
                        yield key


@cache
def _statements(module: str) -> list[ast.AST]:
    """Imports, assignments and classes of a module of the package, also below `if TYPE_CHECKING`; else none."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    found = [each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()]
    nodes = ast.walk(ast.parse(found[0].read_bytes())) if found and module.startswith("weakclip.") else ()
    return [node for node in nodes if isinstance(node, ast.ImportFrom | ast.Assign | ast.ClassDef)]


def _names_in(annotation: ast.expr) -> list[str]:
    return [part.id for part in ast.walk(annotation) if isinstance(part, ast.Name)]
