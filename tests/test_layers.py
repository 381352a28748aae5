"""Imports go down only, and the core does no I/O, reads no clock and knows no event loop."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import ha_session_mw

ROOT = Path(ha_session_mw.__file__).parent
PACKAGE = "ha_session_mw"

# The rooms, from the bottom to the top. A module imports from its own room and from rooms of lower rows only, and rooms of one
# row do not know each other. A room is the longest name here that a module's name begins with.
LAYERS = [
    ["exceptions", "models", "version", "clocks"],
    ["_core.request_fields", "_core.tally", "_core.ticks", "_core.event_rates"],
    ["_core.structured_fields"],
    ["events", "_core.names", "_core.paths", "_core.token", "_core.calls"],
    ["_core.cluster", "_core.records"],
    ["_core.accept_rule", "_core.quorum", "_core.ordered"],
    ["_core.problems", "_settings"],
    ["config"],
    ["abc", "_machine"],
    ["_peering", "backends.common"],
    ["_node"],
    ["backends.memory", "backends.sqlite", "backends.peers", "backends.etcd"],
    ["backends"],
    ["manager"],
    ["session"],
    ["ops"],
    ["asgi"],
    ["testing.contracts"],
    ["", "testing", "fastapi", "client", "cli", "metrics", "otel"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

CORE_MAY_IMPORT = {
    *(
        "__future__",
        "abc",
        "array",
        "base64",
        "binascii",
        "bisect",
        "collections",
        "dataclasses",
        "datetime",
        "enum",
        "fnmatch",
        "functools",
        "hashlib",
    ),
    *("heapq", "hmac", "html", "inspect", "itertools", "json", "math", "operator", "re", "statistics", "string", "typing", "urllib"),
    *("itsdangerous", "msgspec"),
}
CLOCKS_AND_DICE = {"now", "utcnow", "today", "time", "monotonic", "perf_counter", "get_event_loop", "urandom", "open", "print", "input"}


@dataclass(frozen=True)
class Import:
    """One import of one module.

    Attributes:
        importer: the dotted name below the package.
        imported: the same of the imported module, or the name of another package.
        ours: whether that is of this package.
        typing_only: whether it stands below ``if TYPE_CHECKING``.
        lazy: whether it stands in a function.
    """

    importer: str
    imported: str
    ours: bool
    typing_only: bool
    lazy: bool


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imports_of(importer: str, path: Path) -> Iterator[Import]:
    package = [PACKAGE, *importer.split(".")] if importer else [PACKAGE]
    if path.name != "__init__.py":
        package.pop()

    def visit(node: ast.AST, *, typing_only: bool, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                base = (
                    ".".join([*package[: len(package) - child.level + 1], *([child.module] if child.module else [])]) if child.level else ""
                )
                base = base or child.module or ""
                names = [f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base for alias in child.names]
            for name in names:
                ours = name == PACKAGE or name.startswith(PACKAGE + ".")
                yield Import(importer, name.removeprefix(PACKAGE).lstrip(".") if ours else name, ours, typing_only, lazy)
            yield from visit(
                child,
                typing_only=typing_only or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)),
                lazy=lazy or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)),
            )

    yield from visit(ast.parse(path.read_text()), typing_only=False, lazy=False)


def is_module(dotted: str) -> bool:
    return dotted.startswith(PACKAGE + ".") and dotted.removeprefix(PACKAGE + ".") in MODULES


@cache
def all_imports() -> list[Import]:
    return [found for name, path in MODULES.items() for found in imports_of(name, path)]


def room(module: str) -> str:
    """Return the room of a module; empty for the package itself, and for modules without a room."""
    while module and module not in RANK:
        module = module.rpartition(".")[0]
    return module


def test_the_imports_are_really_found() -> None:
    found = {(one.importer, one.imported) for one in all_imports() if one.ours}

    assert {("_node.wiring", "_core.cluster.view"), ("_core.token.tokens", "_core.token.keys"), ("asgi.middleware", "manager")} <= found
    assert {("", "asgi.middleware"), ("_node.issuing", "_core.token.data")} <= found
    assert any(one.typing_only for one in all_imports())


def test_each_module_stands_in_a_room() -> None:
    """Give a new one its place in LAYERS."""
    folders = {name[:end] for name in MODULES for end, letter in enumerate(name) if letter == "."}

    assert {module for module in MODULES if module and module not in folders and not room(module)} == set()


def test_the_map_for_contributors_shows_each_room() -> None:
    page = (ROOT.parent / "docs" / "contributing.md").read_text("utf-8")
    shown = set(page.partition("## The map")[2].partition("```text")[2].partition("```")[0].split())

    assert {name for name in RANK if name and any(room(module) == name for module in MODULES)} <= shown


def test_imports_go_down_only() -> None:
    """Those that only a type checker reads, too."""
    up = {
        (one.importer, one.imported)
        for one in all_imports()
        if one.ours and room(one.imported) != room(one.importer) and RANK[room(one.imported)] >= RANK[room(one.importer)]
    }

    assert up == set()


def test_no_modules_import_each_other() -> None:
    """Nor do those that only a type checker reads."""
    below: dict[str, set[str]] = {name: set() for name in MODULES}
    for one in all_imports():
        if one.ours and one.imported != one.importer:
            below[one.importer].add(one.imported)
    while free := [name for name, imported in below.items() if not imported & below.keys()]:
        for name in free:
            del below[name]

    assert sorted(below) == []


def test_nothing_but_the_opener_of_backends_is_imported_and_that_only_where_none_was_given() -> None:
    known = {one for one in all_imports() if one.ours and one.imported.startswith("backends") and not one.importer.startswith("backends")}

    assert {(one.importer, one.imported, one.lazy) for one in known} == {("manager", "backends", True)}


def test_the_core_imports_nothing_that_could_do_io_read_a_clock_or_roll_dice() -> None:
    foreign = {
        (one.importer, one.imported)
        for one in all_imports()
        if one.importer.startswith("_core") and not one.ours and one.imported.partition(".")[0] not in CORE_MAY_IMPORT
    }

    assert foreign == set()


def test_the_core_asks_no_clock_by_the_back_door() -> None:
    found = []
    for name, path in MODULES.items():
        if name.startswith("_core"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, (ast.AsyncFunctionDef, ast.Await, ast.Global)):
                    found.append((name, node.lineno))
                if isinstance(node, ast.Call):
                    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                    if called in CLOCKS_AND_DICE:
                        found.append((name, node.lineno))

    assert found == []


def test_the_vocabulary_imports_no_framework() -> None:
    vocabulary = [one for one in all_imports() if one.importer in ("exceptions", "models", "events")]
    foreign = {one.imported.partition(".")[0] for one in vocabulary if not one.ours}

    assert foreign <= {"__future__", "collections", "dataclasses", "datetime", "typing", "msgspec"}
