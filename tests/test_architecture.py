"""The house rules, read from the source with `ast`: the order of rooms, sizes, and what is not written anywhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "weakclip"
ROOMS = (
    "errors", "store", "datasets", "crf", "clip", "training", "inference", "modeling", "segmenters", "seeds",
    "annotations", "report", "config", "pipeline", "prediction", "tools", "review", "study", "cli",
)  # fmt: skip
"""All rooms, in one order: a room imports those before it, and no other."""
ENTRANCES = {"__init__", "__main__"}
"""Above all rooms: the lazy public API and `python -m weakclip`."""

STAGE_FILES = (
    "stages", "seed_stage", "mask_stage", "affinity_stage", "region_stage", "upper_bound", "networks", "mask_records",
    "pictures",
)  # fmt: skip
"""In the room `pipeline`: what the stages do."""

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 8

FILES = sorted(SOURCE.rglob("*.py"))
SCRIPTS = sorted(path for folder in ("scripts", "examples") for path in (ROOT / folder).rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(("weakclip", *parts)).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    """`weakclip.datasets.voc` → `datasets`; the package itself → `__init__`."""
    return [*module.split("."), "__init__"][1]


def at(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported_modules(module: str, path: Path) -> Iterator[tuple[str, ast.AST]]:
    """The package's modules that a file imports, at its top or inside functions, type checking aside."""
    pending: list[ast.AST] = [tree_of(path)]
    while pending:
        node = pending.pop()
        pending += [child for child in ast.iter_child_nodes(node) if not is_type_checking(node)]
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names if alias.name.split(".")[0] == "weakclip")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{at(path, node)}: relative import; write the whole path"
            if (node.module or "").split(".")[0] == "weakclip":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    target = whole if whole in MODULES else str(node.module)
                    if target != module and not (target == "weakclip" and alias.name == "__version__"):
                        yield target, node


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, Function))


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))


@cache
def option_names() -> set[str]:
    """Options of the command line that several commands share: `Out = Annotated[…, typer.Option(…)]`."""
    nodes = (node for path in SOURCE.glob("cli/*.py") for node in tree_of(path).body)
    shared = (node for node in nodes if isinstance(node, ast.Assign) and "typer." in ast.unparse(node.value))
    return {ast.unparse(node.targets[0]) for node in shared}


def own_parameters(path: Path, function: Function) -> list[str]:
    """The parameters of a function; of a command, those that it does not share with others."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    shared = option_names() if path.parent.name == "cli" else set()
    kinds = {arg.arg: ast.unparse(arg.annotation or ast.Constant(0)) for arg in named if arg.arg not in ("self", "cls")}
    return [name for name, kind in kinds.items() if kind not in shared]


def code_lines(function: Function) -> int:
    """Lines of a function without its docstring."""
    end = function.end_lineno or function.lineno
    docstring = function.body[0] if ast.get_docstring(function, clean=False) is not None else None
    return end - function.lineno + 1 - ((docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0)


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {room_of(module) for module in MODULES} - ENTRANCES
    assert rooms == set(ROOMS), f"rooms without a place in ROOMS, or places without a room: {rooms ^ set(ROOMS)}"
    assert {path.name for path in SOURCE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}
    assert len([*SOURCE.glob("cli/*.py")]) - 1 <= 5, "the command line is five files beside its `__init__`"


def test_nobody_imports_upwards() -> None:
    for module, path in MODULES.items():
        own = room_of(module)
        for target, node in imported_modules(module, path):
            other = room_of(target)
            if own in ENTRANCES or own == other:
                continue
            place = f"{at(path, node)}: {own} imports {target}"
            assert other not in ENTRANCES, f"{place}, the entrance of the house"
            assert ROOMS.index(other) < ROOMS.index(own), f"{place}, which comes after it"


def test_there_is_no_circle_of_imports() -> None:
    graph = {
        module: {target for target, _ in imported_modules(module, path) if target in MODULES}
        for module, path in MODULES.items()
        if room_of(module) not in ENTRANCES
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"circle of imports: {' → '.join((*trail[trail.index(module) :], module))}"
        if module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_public_api_is_lazy() -> None:
    """`import weakclip` runs no import of a third party and of no part of the package."""
    tops = [node for node in tree_of(SOURCE / "__init__.py").body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in tops if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in tops if isinstance(node, ast.ImportFrom)}
    assert names <= {"__future__", "importlib", "typing"}


def test_the_store_and_the_command_line_start_without_torch() -> None:
    heavy = {"torch", "transformers", "numba"}
    for path in (*SOURCE.glob("store/*.py"), *SOURCE.glob("cli/*.py"), SOURCE / "errors.py", SOURCE / "__main__.py"):
        for node in tree_of(path).body:
            named = [node.module] if isinstance(node, ast.ImportFrom) else []
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in named:
                assert str(name).split(".")[0] not in heavy, f"{at(path, node)}: {name} is heavy; import it where used"


def test_a_stage_sees_its_view_of_the_settings_only() -> None:
    """Its key follows from the view: a setting that is read elsewhere would be in no key."""
    for name in STAGE_FILES:
        path = SOURCE / "pipeline" / f"{name}.py"
        for node in ast.walk(tree_of(path)):
            assert not (isinstance(node, ast.Attribute) and node.attr == "config"), f"{at(path, node)}: .config"


def test_no_device_is_written_into_the_code() -> None:
    for path in FILES + SCRIPTS:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                literal = node.value == "cuda" or node.value.startswith("cuda:")
                assert not literal, f"{at(path, node)}: {node.value!r}; take the device as an argument"


def test_no_file_is_read_in_a_way_that_can_run_its_code() -> None:
    """A pickle is read only by a reader that chooses which names it admits (`find_class`)."""
    for path in FILES + SCRIPTS:
        readers: set[ast.AST] = set()
        for node in ast.walk(tree_of(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [f"{node.module}."] if isinstance(node, ast.ImportFrom) else []
            assert not {"marshal", "shelve", "dill", "pickle."} & set(names), f"{at(path, node)}: {names}"
            if isinstance(node, ast.ClassDef) and "find_class" in {getattr(item, "name", "") for item in node.body}:
                readers |= set(node.bases)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle" and node not in readers:
                assert node.attr == "UnpicklingError", f"{at(path, node)}: pickle.{node.attr} can run code"
        for call in calls(path):
            name = ast.unparse(call.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("allow_pickle", "False") == "False", f"{at(path, call)}: allow_pickle"
            assert name != "torch.load" or given.get("weights_only") == "True", f"{at(path, call)}: weights_only=True"
            assert name not in ("yaml.load", "eval", "exec"), f"{at(path, call)}: {name}"


def test_only_the_command_line_prints() -> None:
    for path in FILES:
        for call in calls(path):
            assert ast.unparse(call.func) != "print", f"{at(path, call)}: print"


def test_the_first_line_of_a_message_is_taken_in_one_place() -> None:
    """An empty message has no first line: `errors.first_line` knows."""
    for path in FILES:
        for node in ast.walk(tree_of(path)) if path.name != "errors.py" else ():
            if isinstance(node, ast.Subscript) and ast.unparse(node.slice) == "0":
                assert not ast.unparse(node.value).endswith(".splitlines()"), f"{at(path, node)}: errors.first_line"


def test_files_and_functions_are_short() -> None:
    for path in FILES:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= MAX_FILE_LINES, f"{path.relative_to(ROOT)}: {lines} lines; {MAX_FILE_LINES} at most"
        for function in functions(path):
            place = f"{at(path, function)}: {function.name}"
            assert code_lines(function) <= MAX_FUNCTION_LINES, f"{place} has {code_lines(function)} lines"
            count, rest = len(own_parameters(path, function)), function.args.kwarg
            assert count <= MAX_PARAMETERS, f"{place} has {count} parameters"
            if rest is not None:
                kind = ast.unparse(rest.annotation or ast.Constant(0))
                assert kind.startswith("Unpack["), f"{place} takes **{rest.arg}: typos vanish in it"


def test_public_names_say_what_they_are() -> None:
    for path in FILES:
        assert ast.get_docstring(tree_of(path)), f"{path.relative_to(ROOT)}: no module docstring"
        for node in tree_of(path).body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{at(path, node)}: {node.name} has no docstring"


def test_the_rules_are_broken_by_what_breaks_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import inside a function, upwards, is seen."""
    wrong = tmp_path / "late.py"
    wrong.write_text("def late():\n    from weakclip.modeling import weakclip\n")
    late = {"weakclip.datasets.late": wrong, "weakclip.modeling.weakclip": wrong}
    monkeypatch.setitem(globals(), "MODULES", late)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    with pytest.raises(AssertionError, match=r"datasets imports weakclip\.modeling\.weakclip, which comes after it"):
        test_nobody_imports_upwards()


def test_a_stage_that_reads_the_configuration_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/stages.py").write_text("def train(context):\n    return context.config.seed\n")
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    monkeypatch.setitem(globals(), "STAGE_FILES", ("stages",))
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    with pytest.raises(AssertionError, match=r"stages\.py:2: \.config"):
        test_a_stage_sees_its_view_of_the_settings_only()
