"""The docs hold: their examples run, their tables say what the code says, their links lead somewhere."""

from __future__ import annotations

import inspect
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

import ha_session_mw
from ha_session_mw import Session, SessionManager, SessionMiddleware, Settings, UsageError, get_session
from ha_session_mw._core.decision import CHECKS
from ha_session_mw.config import SETTINGS, variable
from ha_session_mw.exceptions import ProblemError, problem_types

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
CONFIGURATION = (DOCS / "reference" / "configuration.md").read_text("utf-8")
ERRORS = (DOCS / "reference" / "errors.md").read_text("utf-8")
API = (DOCS / "reference" / "api.md").read_text("utf-8")

DASH = "\N{EN DASH}"
"""Stands in a table for what is not set, or does not apply."""

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
    """What stands below a heading, up to the next one of its level or above."""
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
    module = ModuleType("page_of_the_docs")  # frameworks look up the module of a handler
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page, "python"):
        # Moved down to its line, so that a traceback points into the page.
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), vars(module))


def test_a_code_block_says_what_it_is() -> None:
    for page in PAGES:
        for match in _FENCE.finditer(page.read_text("utf-8")):
            assert match[1] in ("python", "json", "console", "text"), f"{name_of(page)}: {match[0]!r}"


def test_the_problem_documents_shown_are_what_the_code_sends() -> None:
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


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_has_its_row(name: str) -> None:
    setting = SETTINGS[name]
    rule = (setting["parse"].__doc__ or "").replace("``", "`")
    assert f"| `{variable(name)}` | {cell(setting['default'])} | {rule} | {setting['help']} |\n" in CONFIGURATION


def test_the_configuration_reference_has_no_other_rows() -> None:
    documented = re.findall(rf"^\| `({_VARIABLE.pattern})` \|", CONFIGURATION, re.MULTILINE)
    assert sorted(documented) == sorted(variable(name) for name in SETTINGS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_names_no_variable_that_does_not_exist(page: Path) -> None:
    known = {variable(name) for name in SETTINGS}
    text = page.read_text("utf-8")
    assert set(_VARIABLE.findall(text)) <= known


def row_of_a_problem(kind: type[ProblemError]) -> str:
    where = DASH if kind.retry_where == "none" else f"`{kind.retry_where}`"
    after_s = kind.default_retry_after_s
    after = DASH if after_s is None else f"{after_s * 1000:g} ms"
    retry = "yes" if kind.retryable else "no"
    link = f"[`{kind.code}`](#{kind.code})"
    return f"| {link} | {kind.status} | {cell(kind.bearer_error)} | {retry} | {where} | {after} | `{kind.action}` |\n"


@pytest.mark.parametrize("kind", problem_types().values(), ids=problem_types())
def test_a_problem_has_its_row_and_its_section(kind: type[ProblemError]) -> None:
    assert row_of_a_problem(kind) in ERRORS
    whole = section(ERRORS, f"### {kind.code}") + section(ERRORS, "## The infrastructure's turn") * (kind.status == 503)
    assert "*Client:*" in whole


def test_the_error_reference_has_no_other_problems() -> None:
    assert sorted(re.findall(r"^\| \[`(\w+)`\]", ERRORS, re.MULTILINE)) == sorted(problem_types())
    assert sorted(re.findall(r"^### (\w+)$", ERRORS, re.MULTILINE)) == sorted(problem_types())


def test_the_errors_for_the_app_have_their_rows() -> None:
    documented = re.findall(r"^\| `(\w+)` \|", section(ERRORS, "## Errors for the app"), re.MULTILINE)
    assert sorted(documented) == sorted(["ConfigurationError", *(kind.__name__ for kind in UsageError.__subclasses__())])


def test_the_accept_rule_is_told_in_its_order() -> None:
    page = (DOCS / "explanation" / "accept-rule.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)` \|", section(page, "## Step by step"), re.MULTILINE) == list(CHECKS)


# API


def test_the_api_reference_names_everything_public_and_nothing_else() -> None:
    named = {word for word in re.findall(r"`([A-Z]\w+|get_session)\b", API) if not word.startswith("HA_")}
    named |= {heading for heading in _HEADING.findall(API) if " " not in heading} - {"API", "Errors"}
    elsewhere = {"LookupError", "None"}
    assert named - elsewhere == set(ha_session_mw.__all__)


def signature(function: Any) -> str:
    text = str(inspect.signature(function)).replace("'", "")
    return re.sub(r"^\((self, |self)", "(", text)


@pytest.mark.parametrize("owner", [Session, SessionManager], ids=lambda owner: owner.__name__)
def test_the_signatures_shown_are_those_of_the_code(owner: type) -> None:
    shown = _SIGNATURE.findall(section(API, f"## {owner.__name__}"))
    assert shown
    for name, text in shown:
        assert signature(get_session if name == "get_session" else getattr(owner, name)) == text, name


def test_the_attributes_of_a_session_are_all_there() -> None:
    text = section(API, "## Session")
    own = {name for name in vars(Session) if not name.startswith("_")} - set(dir(dict)) - {"mark_accessed", "mark_modified"}
    assert {name for name in own if f"`{name}`" not in text and f"{name}(" not in text} == set()


# Links and words


def anchors(page: Path) -> set[str]:
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(prose(page))}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(prose(page)):
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
