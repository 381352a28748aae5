"""The docs are right: their examples run, their tables match the code, their links lead somewhere."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import inspect
import json
import os
import re
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, get_args

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

import ha_session_mw
from example_app.ports import reserve_port
from ha_session_mw import Session, SessionManager, SessionMiddleware, Settings, UsageError, events, get_session
from ha_session_mw import client as client_module
from ha_session_mw import fastapi as fastapi_module
from ha_session_mw import testing as testing_module
from ha_session_mw._core.accept_rule import CHECKS
from ha_session_mw._core.cluster.freshness import fence_wait_s
from ha_session_mw._core.quorum.majorities import Majorities
from ha_session_mw._core.quorum.recovery import Memory, Recovery
from ha_session_mw._node.resolving import IN_FLIGHT_S
from ha_session_mw._node.validation import RELAXED_LIMIT_S
from ha_session_mw._settings.setting import variable
from ha_session_mw.backends.etcd.gateway import CALL_S
from ha_session_mw.backends.etcd.locks import LAST_LOOK_S, LEAST_S, LET_GO_S
from ha_session_mw.backends.etcd.log import DURABLE_LIMIT_S
from ha_session_mw.backends.etcd.store import LIMIT_S
from ha_session_mw.config import DEPRECATED, SETTINGS
from ha_session_mw.exceptions import ProblemError, problem_types

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
LARGE_PACKAGES = {"larger-apps-with-sessions.md": ("nicegui", "gradio", "marimo")}
"""Packages that the test group leaves out, by the page that needs them."""
CONFIGURATION = (DOCS / "reference" / "configuration.md").read_text("utf-8")
ERRORS = (DOCS / "reference" / "errors.md").read_text("utf-8")
EVENTS = (DOCS / "reference" / "events.md").read_text("utf-8")
API = (DOCS / "reference" / "api.md").read_text("utf-8")
HEADERS = (DOCS / "reference" / "headers.md").read_text("utf-8")
TESTING = (DOCS / "reference" / "testing.md").read_text("utf-8")
CONSISTENCY = (DOCS / "explanation" / "consistency.md").read_text("utf-8")
TROUBLE = (DOCS / "how-to" / "troubleshoot-a-cluster.md").read_text("utf-8")
THREE_NODES = DOCS / "how-to" / "three-nodes.md"
SOURCES = sorted((ROOT / "ha_session_mw").rglob("*.py"))
WITH_EXAMPLES = [path for path in SOURCES if ">>> " in path.read_text("utf-8")]

DASH = "\N{EN DASH}"
"""Marks a value in a table that is not set, or does not apply."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_VARIABLE = re.compile(r"HA_SESSION_[A-Z][A-Z_]*[A-Z]")
_SIGNATURE = re.compile(r"`(?:await )?(\w+)(\([^`]*\) -> [^`]+)`")


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text("utf-8")
    found = (Block(match[1], match[2], text.count("\n", 0, match.start()) + 2) for match in _FENCE.finditer(text))
    return [block for block in found if block.language == language]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def section(text: str, heading: str) -> str:
    """Return the text below a heading, up to the next one of its level or above."""
    level = heading.index(" ")
    _, _, rest = text.partition(f"\n{heading}\n")
    assert rest, f"no section {heading!r}"
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def cell(value: object) -> str:
    """A value as it stands in a table."""
    if value in ((), None):
        return DASH
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{','.join(value) if isinstance(value, tuple) else value}`"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One that a page may change."""
    monkeypatch.setenv("MY_SECRET_KEY", secrets.token_urlsafe(48))
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


# Examples


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in LARGE_PACKAGES.get(page.name, ()):
        pytest.importorskip(package, reason="make prove runs this page, in an environment of its own")
    module = ModuleType("page_of_the_docs")  # frameworks look up the module of a handler
    monkeypatch.setitem(sys.modules, module.__name__, module)
    try:
        for block in blocks(page, "python"):
            # Moved down to its line, so that a traceback points into the page.
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), vars(module))
    finally:
        for value in vars(module).values():
            if isinstance(value, sqlite3.Connection):
                value.close()


class Command(NamedTuple):
    """A line of a console block, and its output on the page."""

    line: str
    prints: list[str]


def commands_of(text: str) -> list[Command]:
    found: list[Command] = []
    for match in _FENCE.finditer(text):
        for line in match[2].splitlines() if match[1] == "console" else ():
            if line.startswith("$ "):
                found.append(Command(line[2:], []))
            else:
                found[-1].prints.append(line)
    return found


@pytest.mark.real
@pytest.mark.skipif(shutil.which("curl") is None, reason="the page calls curl")
def test_the_commands_on_the_page_on_three_nodes_print_the_output_shown(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(blocks(THREE_NODES, "python")[0].text, "utf-8")
    text, _, _ = THREE_NODES.read_text("utf-8").partition("\n## On three machines\n")
    for shown in (8001, 8002, 8003):
        port = reserve_port()
        text = text.replace(f":{shown}", f":{port}").replace(f"--port {shown}", f"--port {port}")
    commands = commands_of(text)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")}
    environ |= {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", "")]),
        "PYTHONPATH": str(ROOT),
        "HA_SESSION_FRESHNESS_LIMIT": "4s",  # less to wait for when one is dead
    }
    mark = "-- end of this command --"
    script = "".join(f"{command.line}\necho; echo '{mark}'\n" for command in commands)
    shell = subprocess.Popen(
        ["bash"], cwd=tmp_path, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        printed, _ = shell.communicate(script, timeout=240)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)  # nodes that a command has left behind
    outputs = [[line.rstrip() for line in output.splitlines() if line.strip()] for output in printed.split(mark)]
    assert len(outputs) == len(commands) + 1
    for command, output in zip(commands, outputs[:-1], strict=True):
        logs = {log.name: log.read_text("utf-8")[-1000:] for log in tmp_path.glob("*.log")}
        assert output == command.prints, f"{command.line}: {logs}"


def test_a_code_block_says_what_it_is() -> None:
    for page in PAGES:
        for match in _FENCE.finditer(page.read_text("utf-8")):
            assert match[1] in ("python", "json", "console", "text", "yaml"), f"{name_of(page)}: {match[0]!r}"


def test_the_code_sends_the_problem_documents_shown() -> None:
    settings = Settings(secret_key=secrets.token_urlsafe(48), protect="*")
    client = TestClient(Starlette(middleware=[Middleware(SessionMiddleware, settings=settings)]))
    sent = client.get("/").json()
    shown = [json.loads(block.text) for page in PAGES for block in blocks(page, "json")]
    assert shown, "no page shows a problem document"
    for document in shown:
        assert list(document) == list(sent)
        kind = problem_types()[document["code"]]
        assert (document["status"], document["title"], document["detail"]) == (kind.status, kind.title, kind.detail)
        assert (document["retryable"], document["retry_where"], document["action"]) == (kind.retryable, kind.retry_where, kind.action)
        assert document["type"] == f"/-/session/problems/{kind.code}"


def test_the_members_of_a_problem_document_are_explained() -> None:
    shown = json.loads(blocks(DOCS / "reference" / "errors.md", "json")[0].text)
    for member in shown:
        assert re.search(rf"^\|.*`{member}`.*\|", ERRORS, re.MULTILINE), member


# Tables


def row_of_a_setting(name: str) -> str:
    setting = SETTINGS[name]
    rule = (setting.parse.__doc__ or "").replace("``", "`")
    return f"| `{variable(name)}` | {cell(setting.default)} | {rule} | {setting.help} |\n"


def test_a_setting_has_its_row() -> None:
    assert [row for row in map(row_of_a_setting, SETTINGS) if row not in CONFIGURATION] == []


def test_the_configuration_reference_has_no_other_rows() -> None:
    documented = re.findall(rf"^\| `({_VARIABLE.pattern})` \|", CONFIGURATION, re.MULTILINE)
    assert sorted(documented) == sorted(variable(name) for name in SETTINGS)


def test_a_page_names_no_variable_that_does_not_exist() -> None:
    known = {variable(name) for name in (*SETTINGS, *DEPRECATED)}
    assert {(name_of(page), name) for page in PAGES for name in _VARIABLE.findall(page.read_text("utf-8")) if name not in known} == set()


def row_of_a_problem(kind: type[ProblemError]) -> str:
    where = DASH if kind.retry_where == "none" else f"`{kind.retry_where}`"
    after_s = kind.default_retry_after_s
    after = DASH if after_s is None else f"{after_s * 1000:g} ms"
    retry = "yes" if kind.retryable else "no"
    link = f"[`{kind.code}`](#{kind.code})"
    return f"| {link} | {kind.status} | {cell(kind.bearer_error)} | {retry} | {where} | {after} | `{kind.action}` |\n"


def test_a_problem_has_its_row_and_its_section() -> None:
    assert [row for row in map(row_of_a_problem, problem_types().values()) if row not in ERRORS] == []
    for kind in problem_types().values():
        whole = section(ERRORS, f"### {kind.code}") + section(ERRORS, "## The infrastructure's turn") * (kind.status == 503)
        assert "*Client:*" in whole, kind.code


def test_the_error_reference_has_no_other_problems() -> None:
    assert sorted(re.findall(r"^\| \[`(\w+)`\]", ERRORS, re.MULTILINE)) == sorted(problem_types())
    assert sorted(re.findall(r"^### (\w+)$", ERRORS, re.MULTILINE)) == sorted(problem_types())


def test_the_errors_for_the_app_have_their_rows() -> None:
    documented = re.findall(r"^\| `(\w+)` \|", section(ERRORS, "## Errors for the app"), re.MULTILINE)
    assert sorted(documented) == sorted(["ConfigurationError", *(kind.__name__ for kind in UsageError.__subclasses__())])


def test_the_pages_give_the_accept_rule_in_its_order() -> None:
    page = (DOCS / "explanation" / "accept-rule.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)` \|", section(page, "## Step by step"), re.MULTILINE) == list(CHECKS)


# Several nodes


def templates(tree: ast.AST) -> Iterator[str]:
    """Yield each text in a program, as a pattern: values of the runtime match any text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[sd]|\\\{.+?\\\}", ".+", re.escape(node.value))


def room(path: str) -> list[Path]:
    """The modules in a room of the package, in whichever of its files something stands today."""
    found = [source for source in SOURCES if source.is_relative_to(ROOT / "ha_session_mw" / path)]
    assert found, f"there is no room {path}"
    return found


def program_of(*rooms: str) -> str:
    """The text of all modules in some rooms."""
    return "\n".join(source.read_text("utf-8") for path in rooms for source in room(path))


def functions_named(name: str, path: str) -> list[ast.FunctionDef]:
    """The functions of this name in a room."""
    trees = (ast.parse(source.read_text("utf-8")) for source in room(path))
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name]


def messages_shown(text: str) -> set[str]:
    """Return the messages that tables and sentences quote from a node: some words, not just a name."""
    return {quoted for quoted in re.findall(r"`([^`\n]+)`", _FENCE.sub("", text)) if quoted.count(" ") >= 2}


def test_the_code_says_the_messages_on_the_pages() -> None:
    program = "\n".join(path.read_text("utf-8") for path in SOURCES)
    # A message may stand behind the name of whom it is about, and a part of one may be quoted alone.
    patterns = (text for path in SOURCES for text in templates(ast.parse(path.read_text("utf-8"))))
    said = [re.compile(f"(^|: ){text}$") for text in patterns if len(text.replace(".+", "")) >= 12]
    shown = messages_shown(TROUBLE) | messages_shown(section(CONSISTENCY, "## What a fault looks like"))
    assert len(shown) > 20
    unknown = {text for text in shown if not any(pattern.search(text.replace("…", "-")) for pattern in said) and text not in program}
    assert unknown == set()


def test_every_reason_not_to_be_ready_has_its_remedy() -> None:
    functions = functions_named("why_not_ready", "backends/peers")
    reasons = [text for function in functions for text in templates(function) if len(text) > 40]
    assert reasons
    for reason in reasons:
        assert any(re.search(reason, text) for text in messages_shown(TROUBLE)), reason


def test_each_trouble_of_a_file_is_one_that_the_code_tells() -> None:
    page = (DOCS / "how-to" / "several-workers.md").read_text("utf-8")
    rows = re.findall(r"^\| (`.+?`) \| .* \| .* \| .* \|$", section(page, "## When something is wrong with the file"), re.MULTILINE)
    shown = {text for row in rows[1:] for text in re.findall(r"`([^`]+)`", row)}
    program = program_of("_machine", "backends/sqlite")
    assert len(shown) > 7
    assert {text for text in shown if f'"{text}"' not in program} == set()


def test_each_trouble_of_etcd_is_one_that_the_code_tells() -> None:
    page = (DOCS / "how-to" / "etcd.md").read_text("utf-8")
    tables = section(page, "## What each fault looks like") + section(page, "## After a rollback")
    shown = {text for row in re.findall(r"^\| (`.+?`) \| .* \|$", tables, re.MULTILINE) for text in re.findall(r"`([^`]+)`", row)}
    program = program_of("_machine", "backends/etcd", "backends/common")
    assert len(shown) > 12
    assert {text for text in shown if text not in program} == set()


def test_the_page_gives_the_right_wait_of_a_log_out_for_etcd() -> None:
    page = (DOCS / "how-to" / "etcd.md").read_text("utf-8")
    assert f"503 `quorum_lost` after {DURABLE_LIMIT_S:g} s" in page
    assert f"They wait for {DURABLE_LIMIT_S:g} seconds at the most" in page
    assert f"A log-out takes {DURABLE_LIMIT_S:g} s and is `provisional`" in CONSISTENCY


def test_the_page_gives_the_right_time_of_a_lock_on_etcd() -> None:
    page = section((DOCS / "how-to" / "locks.md").read_text("utf-8"), "## How long it takes at the most")
    margin_s = LAST_LOOK_S + LET_GO_S
    assert f"`timeout`, and {margin_s:g} second more where etcd does not answer; but {LEAST_S + margin_s:g} seconds" in page
    assert f"{LET_GO_S:g} seconds. The node goes on trying to release it for {CALL_S:g} seconds more" in page
    assert f"that takes {LIMIT_S:g} seconds more at the most" in page


def test_the_bound_of_a_log_out_is_that_of_the_code() -> None:
    limit_s = SETTINGS["freshness_limit"].parse(SETTINGS["freshness_limit"].default)
    bound = f"{fence_wait_s(limit_s):g}"
    assert fence_wait_s(limit_s) == limit_s * 1.02 + 0.05
    assert f"With the default of {limit_s:g} s that is {bound} s." in CONSISTENCY
    assert "`FRESHNESS_LIMIT` \N{MULTIPLICATION SIGN} 1.02 + 50 ms" in CONSISTENCY
    assert f"{bound} seconds" in (ROOT / "README.md").read_text("utf-8")
    assert f"waits up to {IN_FLIGHT_S * 1000:g} ms" in CONSISTENCY
    assert f"up to {RELAXED_LIMIT_S:g} seconds" in CONSISTENCY


def teachers_needed(nodes: int, memory: Memory) -> int:
    recovery = Recovery(majorities=Majorities("teacher 0", [[f"teacher {number}" for number in range(nodes)]]), memory=memory)
    for number in range(nodes):
        if recovery.is_complete():
            return number
        recovery.learned(f"teacher {number + 1}", "", recovery.begin(), "whole", known_before=True)
    raise AssertionError("never learns enough")


def test_the_pages_give_the_majority_that_the_code_needs() -> None:
    words = ("none", "one", "two", "three", "four")
    rows = re.findall(r"^\| (\d) \| (\d) \| (\w+) \| (.+) \| (.+) \|$", section(CONSISTENCY, "## When nodes die"), re.MULTILINE)
    assert rows
    for nodes, majority, may_be_down, without_file, with_file in rows:
        count = int(nodes)
        assert int(majority) == count // 2 + 1
        assert may_be_down == ("none" if count == 2 else str(count - int(majority)))
        for text, memory in ((without_file, "lost"), (with_file, "unchecked")):
            needed = teachers_needed(count, memory)  # type: ignore[arg-type]
            told = (
                "the other one"
                if count == 2
                else "both others"
                if needed == 2 and count == 3
                else f"{words[needed]} other{'s' * (needed > 1)}"
            )
            assert text == told


def test_each_row_of_what_is_rebuilt_names_a_test_and_each_test_has_its_row() -> None:
    page = (DOCS / "explanation" / "recovery.md").read_text("utf-8")
    rows = re.findall(r"^\| .* \| `(test_\w+)` \|$", section(page, "## What was lost, and what it is rebuilt from"), re.MULTILINE)
    texts = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    of_rows = (ROOT / "tests" / "cluster" / "test_recovery.py").read_text("utf-8")
    for name in rows:
        assert any(f"def {name}(" in text for text in texts), name
    assert set(re.findall(r"^async def (test_\w+)", of_rows, re.MULTILINE)) <= set(rows)
    assert {source for row in page.splitlines() for source in re.findall(r"`(\w+)`", row)} >= set(get_args(events.RecoveredFrom))


def test_the_headers_of_ours_are_documented() -> None:
    sent = {name for path in SOURCES for name in re.findall(r'b"(session-[a-z-]+)"', path.read_text("utf-8"))}
    assert {"session-index", "session-stale", "session-revocation", "session-token"} <= sent
    assert {name for name in sent if f"`{name.title()}" not in HEADERS} == set()


@pytest.mark.parametrize(
    "owner", [testing_module.ManualClock, testing_module.Cluster, testing_module.Node], ids=lambda owner: owner.__name__
)
def test_the_test_helpers_are_documented(owner: type) -> None:
    public = {name for name in vars(owner) if not name.startswith("_")}
    assert {name for name in public if not re.search(rf"`(await )?(\w+\.)?{name}\b|, `?(await )?{name}\(", TESTING)} == set()


def test_every_test_helper_is_on_the_page() -> None:
    assert {name for name in testing_module.__all__ if not re.search(rf"\b{name}\b", TESTING)} == set()


# API

_OF_HTTP_LIBRARIES = {"Client", "AsyncClient", "HTTPAdapter", "NodesAdapter"}
"""Names on the page that the package does not export."""


def test_the_api_reference_names_everything_public_and_nothing_else() -> None:
    named = {word for word in re.findall(r"`([A-Z]\w+|get_session)\b", API) if not word.startswith("HA_")}
    named |= {heading for heading in _HEADING.findall(API) if " " not in heading} - {"API", "Errors"}
    elsewhere = {"LookupError", "None", "TypeError", "ValueError", "Depends"}
    assert named - elsewhere - set(fastapi_module.__all__) - {*client_module.__all__, *_OF_HTTP_LIBRARIES} == set(ha_session_mw.__all__)
    assert all(f"`{name}`" in API or f"fastapi.{name}" in API for name in fastapi_module.__all__)
    assert all(f"`{name}" in API for name in client_module.__all__)


def signature(function: Any) -> str:
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", str(inspect.signature(function)).replace("'", ""))
    return re.sub(r"^\((self, |self)", "(", text)


@pytest.mark.parametrize("owner", [Session, SessionManager], ids=lambda owner: owner.__name__)
def test_the_signatures_shown_are_those_of_the_code(owner: type) -> None:
    shown = _SIGNATURE.findall(section(API, f"## {owner.__name__}"))
    assert shown
    for name, text in shown:
        assert signature(get_session if name == "get_session" else getattr(owner, name)) == text, name


def test_everything_public_of_a_manager_is_there() -> None:
    text = section(API, "## SessionManager")
    public = {name for name in vars(SessionManager) if not name.startswith("_")}
    assert {name for name in public if f"`{name}`" not in text and f"{name}(" not in text} == set()


def test_the_attributes_of_a_session_are_all_there() -> None:
    text = section(API, "## Session")
    own = {name for name in vars(Session) if not name.startswith("_")} - set(dir(dict)) - {"mark_accessed", "mark_modified"}
    assert {name for name in own if f"`{name}`" not in text and f"{name}(" not in text} == set()


def test_each_event_has_its_row_with_its_attributes_and_there_are_no_others() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) ?\| ", EVENTS, re.MULTILINE))
    kinds = {kind.__name__: kind for kind in get_args(events.ClusterEvent)}
    attributes = {name: list(kind.__struct_fields__) for name, kind in kinds.items()}
    assert {name: re.findall(r"`(\w+)`", cell) for name, cell in rows.items()} == attributes


@pytest.mark.parametrize("source", WITH_EXAMPLES, ids=name_of)
def test_the_examples_in_docstrings_work(source: Path) -> None:
    module = importlib.import_module(".".join(source.relative_to(ROOT).with_suffix("").parts))
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0  # doctest prints the expected and the actual output


# Links and words


def anchors(page: Path) -> set[str]:
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(prose(page))}


def test_links_lead_somewhere() -> None:
    for page, link in ((source, found) for source in PAGES for found in _LINK.findall(prose(source))):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)}: {link}"
        assert target.is_relative_to(ROOT), f"{name_of(page)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)}: {link}"


def test_the_map_leads_to_every_page() -> None:
    linked = {(DOCS / link).resolve() for link in _LINK.findall(prose(DOCS / "README.md"))}
    assert {page for page in DOCS.rglob("*.md") if page.name != "README.md"} <= linked


def test_the_glossary_is_in_order_and_says_each_word_once() -> None:
    words = re.findall(r"^### (.+)$", (DOCS / "glossary.md").read_text("utf-8"), re.MULTILINE)
    assert words == sorted(set(words), key=str.lower)
