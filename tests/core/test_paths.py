"""Paths: which need a session, on which none is looked at, and where the app's own paths begin."""

from __future__ import annotations

import pytest

from ha_session_mw._core.paths import PathRules, below_root


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/private", "open"),
        ("/private/", "protected"),
        ("/private/a/b.c", "protected"),
        ("/private/a\nb", "protected"),
        ("/Private/a", "open"),
        ("/x/private/a", "open"),
        ("/exact", "protected"),
        ("/exact/", "open"),
        ("/exact2", "open"),
        ("/static/app.js", "exempt"),
        ("/static/private/app.js", "protected"),
        ("/x/deep/secret", "protected"),
        ("", "open"),
        ("/", "open"),
    ],
)
def test_paths_are_sorted_by_patterns(path: str, kind: str) -> None:
    rules = PathRules(protect=["/private/*", "/exact", "*/secret", "/static/private/*"], exempt=["/static/*"])

    assert rules.kind_of(path) == kind
    assert rules.kind_of(path) == kind  # remembered


def test_of_two_rules_in_contradiction_the_safe_one_holds() -> None:
    assert PathRules(protect=["/a"], exempt=["*"]).kind_of("/a") == "protected"


def test_a_star_is_every_path() -> None:
    rules = PathRules(protect=["*"], exempt=[])

    assert [rules.kind_of(path) for path in ("/", "", "/a/b", "/" + "x" * 10_000)] == ["protected"] * 4


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/a?c", "/abc", True),
        ("/a?c", "/ac", False),
        ("/[ab]", "/a", True),
        ("/[!ab]", "/a", False),
        ("/a.b", "/axb", False),
        ("/a|b", "b", False),
    ],
)
def test_patterns_are_those_of_fnmatchcase(pattern: str, path: str, matches: bool) -> None:
    assert (PathRules(protect=[pattern], exempt=[]).kind_of(path) == "protected") is matches


def test_without_patterns_there_is_nothing_to_ask() -> None:
    assert not PathRules(protect=[], exempt=[])
    assert PathRules(protect=["/a"], exempt=[])
    assert PathRules(protect=[], exempt=["/a"])


def test_long_paths_are_not_remembered() -> None:
    rules = PathRules(protect=["/long/*"], exempt=[])
    for number in range(50):
        assert rules.kind_of(f"/long/{number}/" + "x" * 300) == "protected"

    assert rules._remembered.cache_info().currsize == 0


@pytest.mark.parametrize(
    ("path", "root_path", "below"),
    [
        ("/a", "", "/a"),
        ("/app/a", "/app", "/a"),
        ("/app", "/app", "/"),
        ("/app/", "/app", "/"),
        ("/apple", "/app", "/apple"),
        ("/a", "/app", "/a"),
        ("/app/app/a", "/app", "/app/a"),
    ],
)
def test_rules_see_the_path_that_the_app_routes_by(path: str, root_path: str, below: str) -> None:
    assert below_root(path, root_path) == below
