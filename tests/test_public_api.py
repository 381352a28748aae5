"""The exports of ``ha_session_mw``: importable, documented, complete."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import ha_session_mw
from ha_session_mw import exceptions
from ha_session_mw.exceptions import SessionError, problem_types

EXPORTED = ha_session_mw.__all__


def test_each_export_is_there_and_documented() -> None:
    documentation = {name: inspect.getdoc(getattr(ha_session_mw, name)) or "" for name in EXPORTED}

    assert {name for name, text in documentation.items() if len(text) <= 20 or text == inspect.getdoc(Exception)} == set()


def test_exports_are_sorted_and_each_is_there_once() -> None:
    assert list(EXPORTED) == sorted(set(EXPORTED))


def test_the_names_that_the_design_pins_are_exported() -> None:
    assert {"SessionMiddleware", "Session", "get_session", "Settings", "SessionManager", "Acknowledgement"} <= set(EXPORTED)


def test_the_whole_error_tree_is_exported() -> None:
    tree = {name for name, kind in vars(exceptions).items() if inspect.isclass(kind) and issubclass(kind, SessionError)}

    assert tree <= set(EXPORTED)
    assert {kind.__name__ for kind in problem_types().values() if kind.__module__ == exceptions.__name__} <= set(EXPORTED)


def test_nothing_public_is_there_by_accident() -> None:
    """Modules of the package become names of it when they are imported; all else is listed."""
    public = {name for name, value in vars(ha_session_mw).items() if not name.startswith("_") and not inspect.ismodule(value)}

    assert public - {"annotations"} == set(EXPORTED)


def test_all_can_be_imported_by_a_star() -> None:
    names: dict[str, object] = {}
    exec("from ha_session_mw import *", names)

    assert set(EXPORTED) <= names.keys()


def test_each_method_that_is_public_is_documented() -> None:
    silent = [
        f"{name}.{method}"
        for name in EXPORTED
        if inspect.isclass(kind := getattr(ha_session_mw, name))
        for method, function in vars(kind).items()
        if not method.startswith("_") and inspect.isfunction(function) and not inspect.getdoc(function) and method not in dir(dict)
    ]

    assert silent == []


def test_types_are_shipped() -> None:
    assert (inspect.getfile(ha_session_mw).removesuffix("__init__.py") + "py.typed") in _files()


def _files() -> set[str]:
    return {str(path) for path in Path(inspect.getfile(ha_session_mw)).parent.iterdir()}


def test_importing_the_package_imports_no_test_tools_and_no_servers() -> None:
    code = "import sys, ha_session_mw; print(' '.join(sys.modules))"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.split())

    assert not loaded & {"pytest", "hypothesis", "uvicorn", "trio", "fastapi", "litestar", "django", "ha_session_mw.testing"}


NEEDED_BY_ALL = "starlette.applications, starlette.responses, anyio, anyio.lowlevel, cachetools, itsdangerous, msgspec, pathlib"
NOT_NEEDED_TO_IMPORT = {"ha_session_mw._node.node", "ha_session_mw._node.wiring", "ha_session_mw.backends", "ha_session_mw._machine"}
NOT_NEEDED_ALONE = {
    *("httpx2", "sqlite3", "importlib.metadata", "statistics", "difflib", "http.cookiejar", "urllib.request", "zipfile"),
    *("ha_session_mw._node.devices", "ha_session_mw._node.lookups", "ha_session_mw._peering.asking"),
    *("ha_session_mw.session.once", "ha_session_mw.session.locking"),
}


def test_a_node_alone_loads_nothing_that_only_clusters_and_files_need() -> None:
    """Starlette and our own light dependencies are loaded anyway. Beyond them the package brings itself alone, and the node comes with
    the first manager."""
    code = f"""
import sys
import {NEEDED_BY_ALL}
before = set(sys.modules)
from ha_session_mw import SessionMiddleware
imported = set(sys.modules)
SessionMiddleware(None, secret_key="N3vcRw8ZpTq5YhK1sXjG7bLd0FmUe2Ay")
print(" ".join(imported - before))
print(" ".join(set(sys.modules) - before))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    imported, used = (set(line.split()) for line in ran.stdout.splitlines())

    assert {name.partition(".")[0] for name in imported} == {"ha_session_mw"}
    assert not imported & NOT_NEEDED_TO_IMPORT
    assert used >= NOT_NEEDED_TO_IMPORT
    assert not used & NOT_NEEDED_ALONE


API = (Path(__file__).parents[1] / "docs" / "reference" / "api.md").read_text("utf-8")


def test_the_manager_has_the_public_names_of_its_page_and_no_others() -> None:
    page = API.partition("## SessionManager")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\* `(?:await )?(\w+)\(", page, re.MULTILINE))
    documented |= {name for line in re.findall(r"^\* (`\w+`(?:, `\w+`)*):", page, re.MULTILINE) for name in re.findall(r"\w+", line)}
    public = {name for name in vars(ha_session_mw.SessionManager) if not name.startswith("_")}

    assert public == documented
    assert len(public) <= 18


def test_the_managers_file_holds_the_public_face_alone() -> None:
    """The wiring is the node's."""
    source = Path(inspect.getfile(ha_session_mw.SessionManager)).read_text("utf-8")

    assert len(source.splitlines()) <= 250


def test_a_manager_carries_no_public_names_of_its_own() -> None:
    manager = ha_session_mw.SessionManager(ha_session_mw.Settings(secret_key="N3vcRw8ZpTq5YhK1sXjG7bLd0FmUe2Ay"))

    assert [name for name in vars(manager) if not name.startswith("_")] == []
