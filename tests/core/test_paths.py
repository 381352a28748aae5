"""Paths: which need a session, on which none is looked at, and where the app's own paths begin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis.strategies import lists, sampled_from, text

from ha_session_mw._core.paths import LONGEST_ODD_PATH, PathRules, below_root, spellings


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
        ("/exact/", "protected"),
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


@pytest.mark.parametrize(
    ("protect", "public", "exempt", "path", "kind"),
    [
        (["*"], ["/login"], [], "/login", "open"),
        (["*"], ["/login"], [], "/login/", "protected"),
        (["*"], ["/login/"], [], "/login/", "open"),
        (["*"], ["/login/"], [], "/login", "protected"),
        (["*"], ["/login"], [], "/logins", "protected"),
        (["*"], ["/login"], [], "//login", "protected"),
        (["*"], ["/login"], [], "/login\n", "protected"),
        (["*"], ["/login/*"], [], "/login/a;b%41", "open"),
        (["*"], ["/login/*"], [], "/login/../account", "protected"),
        (["*"], ["/login/*"], [], "/login/..%2faccount", "protected"),
        (["*"], ["/docs/*"], [], "/docs/", "protected"),  # some routers take it for /docs, which nothing opens
        (["*"], ["/docs", "/docs/*"], [], "/docs/", "open"),
        (["/a/*"], ["/a/b"], [], "/a/b", "open"),
        (["/a/*", "*/b"], ["/a/b"], [], "/a/b", "open"),
        (["*"], [], ["/static/*"], "/static/x.css", "exempt"),
        (["*"], [], ["/static/*"], "/static/../account", "protected"),
        (["*"], [], ["/health/"], "/health/", "exempt"),
        (["/a/*", "*/b"], [], ["/a/b"], "/a/b", "exempt"),
        (["/a/*", "*b"], [], ["/a/*/x*"], "/a/c/xb", "protected"),  # it lies inside one pattern, and not inside the other
        (["/a"], [], ["*"], "/a", "protected"),
        (["*"], [], ["*"], "/a", "protected"),
        (["/[ab]*"], [], ["/a*"], "/a", "protected"),
        (["*"], ["/shop/*"], ["/shop/static/*"], "/shop/static/x", "exempt"),
        (["*"], ["/login"], ["/login"], "/login", "exempt"),
    ],
)
def test_exceptions_from_protection(protect: list[str], public: list[str], exempt: list[str], path: str, kind: str) -> None:
    rules = PathRules(protect=protect, public=public, exempt=exempt)

    assert rules.kind_of(path) == kind


@pytest.mark.parametrize("root_path", ["/shop", "/shop/"])
def test_an_exception_counts_below_the_root_path(root_path: str) -> None:
    rules = PathRules(protect=["*"], public=["/login", "/open/*"], exempt=[])

    assert rules.kind_of("/shop/login", "/shop") == "open"
    assert rules.kind_of("/shop/login", root_path) in ("open", "protected")
    assert rules.kind_of("/open/shop/account", root_path) == "protected"  # Litestar cuts the root path off wherever it stands
    assert rules.kind_of("/shop/account", root_path) == "protected"


PIECES = sampled_from(["/", "a", "b", "/a", "/a/", ".", "..", "%2f", ";x", "\n", "//", "\\", "?"])


@given(lists(PIECES, max_size=6).map("".join), sampled_from(["", "/a", "/b/"]))
def test_an_exception_opens_no_spelling_of_a_path_that_it_does_not_name(tail: str, root_path: str) -> None:
    public = ["/a/*"]
    rules = PathRules(protect=["*"], public=public, exempt=[])
    path = "/" + tail
    if rules.kind_of(path, root_path) == "open":
        read = {below_root(spelling, root_path) for spelling in spellings(path, root_path)}
        assert all(spelling.startswith("/a/") for spelling in read)


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
    ("path", "root_path"),
    [
        ("/account", ""),
        ("/account\n", ""),  # ``$`` at the end of a router's pattern lets it pass
        ("/account\x00", ""),
        ("/acc\tount", ""),
        ("//account", ""),
        ("/account/", ""),
        ("/account//", ""),
        ("account", ""),
        ("/./account", ""),
        ("/x/../account", ""),
        ("/x//../account", ""),
        ("/x/../../account", ""),
        ("/account/.", ""),
        ("/account/y/..", ""),
        ("/account;v=1", ""),
        ("/;/account", ""),
        ("\\account", ""),
        ("/%61ccount", ""),
        ("/%2561ccount", ""),
        ("/account%0a", ""),
        ("/%2faccount", ""),
        ("/x/%2e%2e/account", ""),
        ("/account%3bv=1%0a/", ""),
        (" /account", ""),
        ("http://example.org/account", ""),
        ("http:/account", ""),
        (" /account?x", ""),
        ("/account#x", ""),
        ("/shop/account", "/shop"),
        ("/shop/account", "/shop/"),
        ("/shop//account", "/shop/"),
        ("/shop//account", "/shop"),
        ("/shopaccount", "/shop"),
        ("/x/shop/account", "/shop"),
        ("//shop/account", "/shop"),
        ("/account", "/shop"),
        ("/shop/account\n", "/shop/"),
    ],
)
def test_a_path_is_protected_in_every_spelling(path: str, root_path: str) -> None:
    rules = PathRules(protect=["/account"], exempt=["*"])

    assert rules.kind_of(path, root_path) == "protected"


@pytest.mark.parametrize(
    "path", ["/accounts", "/my/account", "/account.js", "/account/x", "/acc ount", "/Account", "/%41ccount", "/x/./account"]
)
def test_another_path_is_not_treated_as_protected(path: str) -> None:
    assert PathRules(protect=["/account"], exempt=[]).kind_of(path) == "open"


@pytest.mark.parametrize("path", ["/static/app.js\n", "//static/app.js", "/static;/app.js", "/%73tatic/app.js"])
def test_a_path_is_exempt_and_relaxed_in_its_exact_spelling_only(path: str) -> None:
    rules = PathRules(protect=[], exempt=["/static/app.js"], relaxed=["/static/app.js"])

    assert (rules.kind_of(path), rules.is_relaxed(path)) == ("open", False)
    assert (rules.kind_of("/static/app.js"), rules.is_relaxed("/static/app.js")) == ("exempt", True)


def test_a_long_odd_path_is_protected_rather_than_worked_out() -> None:
    rules = PathRules(protect=["/account"], exempt=["*"])

    assert rules.kind_of("/" + "x" * LONGEST_ODD_PATH + ";") == "protected"
    assert rules.kind_of("/" + "x" * LONGEST_ODD_PATH) == "exempt"  # it has one spelling


@given(text(alphabet="/.;%\\ab\n25", max_size=60), sampled_from(["", "/", "/a", "/a/", "/b"]))
def test_a_path_has_few_spellings_and_is_one_of_them(path: str, root_path: str) -> None:
    found = spellings(path, root_path)

    assert path in found
    assert below_root(path, root_path) in found | {"/"}
    assert len(found) < 500


@given(text(alphabet="abcXYZ019-_.~ äé", min_size=1, max_size=40).filter(lambda name: not name.startswith(".") and name == name.strip()))
def test_a_plain_path_has_one_spelling(name: str) -> None:
    assert spellings("/" + name) == {"/" + name}


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
