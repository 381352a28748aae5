"""A token may come as a cookie or a bearer token, and the next one goes back by the same transport."""

from __future__ import annotations

import base64
from itertools import permutations

import pytest

from ha_session_mw import Session
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw.manager import node_of
from ha_session_mw.session.session import state_of

from .driver import OTHER_SECRET, SECRET, Header, Node, Visitor, look, who, why

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]


def both(cookie: str, bearer: str) -> list[Header]:
    return [(b"cookie", f"session={cookie}".encode()), (b"authorization", f"Bearer {bearer}".encode())]


def all_of_it(session: Session) -> tuple[str | None, str | None, str | None]:
    return session.subject, why(session), state_of(session).transport


async def token_of(node: Node, subject: str = "ada") -> str:
    return str((await node.logged_in(subject)).token)


# The matrix


async def test_a_cookie_under_an_earlier_name_is_not_found_in_the_cache_either(node: Node) -> None:
    token = await token_of(node)
    assert (await node.request(who, token=token)).result == "ada"
    node.app.session_cookie = "mine"
    assert (await node.request(who, token=token)).result is None
    node.app.session_cookie = "session"
    assert (await node.request(who, token=token)).result == "ada"


PLACES = pytest.mark.parametrize("form", [b"theme=dark; session=%b", b"session=%b; theme=dark", b"a=b; session=%b; theme=dark"])
"""Where the session's cookie stands among others. A browser sends the older ones first."""


@PLACES
async def test_a_field_with_other_cookies_that_comes_again_is_parsed_no_more(node: Node, form: bytes) -> None:
    token = (await token_of(node)).encode()
    field, entries = form % token, node_of(node.manager).cache.entries
    for kept in (False, True, True):
        assert (await node.request(who, headers=[(b"cookie", field)])).result == "ada"
        assert (field in entries) is kept

    for number in range(10):
        await node.request(who, headers=[(b"cookie", form % token + b"; hits=%d" % number)])
    assert len(entries) == 2, "a field that does not come again is not kept"

    await node.request(lambda session: session.revoke(), headers=[(b"cookie", field)])
    assert (await node.request(why, headers=[(b"cookie", field)])).result == "session_revoked"


@PLACES
async def test_a_field_with_other_cookies_is_known_after_a_log_out_of_somebody_else(node: Node, form: bytes) -> None:
    token, bob = (await token_of(node)).encode(), await token_of(node, "bob")
    field, entries = form % token, node_of(node.manager).cache.entries
    for _ in range(3):
        await node.request(who, headers=[(b"cookie", field)])
    await node.request(lambda session: session.revoke(), token=bob)
    view = node_of(node.manager).view
    assert entries[field].generation is not view.generation
    assert (await node.request(who, headers=[(b"cookie", field)])).result == "ada"
    assert entries[field].generation is view.generation


async def test_a_token_that_was_validated_for_another_node_is_none_in_the_field_of_a_log_outs_index(node: Node) -> None:
    token = await token_of(node)
    assert isinstance(node_of(node.manager).validator.validate(token.encode()), Verified)
    assert (await node.request(who, headers=[(b"session-index", token.encode())])).result is None


@pytest.mark.parametrize("transports", ["cookie", "bearer", "cookie,bearer"])
async def test_a_token_in_the_cache_is_found_where_parsing_finds_it(transports: str) -> None:
    node = Node(transports=transports)
    ada, bob = (await token_of(Node())).encode(), (await token_of(Node(), "bob")).encode()
    named = [(b"cookie", b"session=" + ada), (b"authorization", b"Bearer " + ada), (b"cookie", b"session=" + bob)]
    cookies = (b"Bearer " + ada, ada, b"a=b", b"session=null", b"a=b; session=" + ada, b"session=" + b"a" * 9000)
    credentials = (b"session=" + ada, b"bearer " + ada, b"Basic eA==", ada)
    odd = [(b"cookie", value) for value in cookies] + [(b"authorization", value) for value in credentials]
    odd += [(b"session-index", b"session=" + ada), (b"host", b"session=" + ada)]
    for headers in [*([one] for one in named + odd), *map(list, permutations(named + odd, 2))]:
        for field in [*named, odd[4], odd[4]]:
            await node.request(who, headers=[field])
        warm = await node.request(all_of_it, headers=headers)
        node_of(node.manager).cache.clear()
        parsed = await node.request(all_of_it, headers=headers)
        assert (warm.status, warm.result) == (parsed.status, parsed.result), headers


@pytest.mark.parametrize(
    ("transports", "by_cookie", "by_bearer"),
    [("cookie", "ada", None), ("bearer", None, "ada"), ("cookie,bearer", "ada", "ada"), ("bearer,cookie", "ada", "ada")],
)
async def test_a_token_is_taken_from_the_transports_that_are_set(transports: str, by_cookie: str | None, by_bearer: str | None) -> None:
    node = Node(transports=transports)
    token = node_of(node.manager).sign(node_of(node.manager).issuer.issue("ada")).decode()
    assert (await node.request(who, token=token)).result == by_cookie
    assert (await node.request(who, bearer=token)).result == by_bearer


@pytest.mark.parametrize(
    ("transports", "cookie", "header"), [("cookie", True, False), ("bearer", False, True), ("cookie,bearer", True, False)]
)
async def test_a_log_in_without_a_token_is_handed_back(transports: str, *, cookie: bool, header: bool) -> None:
    answer = await Node(transports=transports).request(lambda s: s.login("ada"))
    assert (bool(answer.cookies()), bool(answer.all("session-token"))) == (cookie, header)


async def test_a_bearer_client_gets_its_next_token_in_a_header_and_no_cookie(node: Node) -> None:
    token = await token_of(node)
    answer = await node.request(lambda s: s.update(a=1), bearer=token)
    assert answer.all("set-cookie") == []
    assert (await node.request(look, bearer=answer.header("session-token"))).result == {"a": 1}


async def test_a_client_with_a_cookie_and_the_same_bearer_gets_both(node: Node) -> None:
    token = await token_of(node)
    answer = await node.request(lambda s: s.update(a=1), headers=both(token, token))
    assert answer.token == answer.header("session-token") != token


async def test_a_bearer_client_logs_in_again_with_its_dead_token_and_gets_a_header(node: Node) -> None:
    token = await token_of(node)
    await node.request(lambda s: s.revoke(), bearer=token)
    answer = await node.request(lambda s: s.login("ada"), bearer=token)
    assert answer.all("set-cookie") == []
    assert answer.header("session-token")


async def test_a_bearer_client_whose_visitors_session_is_emptied_gets_a_token_without_the_data(node: Node) -> None:
    """Nothing can remove its token. The one with the data would show a flash message again and again."""
    visit = await node.request(lambda s: s.update(flash="hello"), headers=[(b"session-transport", b"bearer")])
    before = visit.header("session-token")
    for headers, cookies in (([], []), (both(str(before), str(before)), [True])):
        answer = await node.request(lambda s: s.pop("flash"), bearer=None if headers else before, headers=headers)
        assert (await node.request(look, bearer=answer.header("session-token"))).result == {}
        assert [bool(answer.token)] * len(cookies) == cookies
        assert answer.header("session-revocation") is None


async def test_a_bearer_client_that_logs_out_gets_the_headers_and_no_cookie(node: Node) -> None:
    answer = await node.request(lambda s: s.clear(), bearer=await token_of(node))
    assert answer.header("session-revocation") == "fenced"
    assert answer.all("set-cookie") == answer.all("session-token") == []


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_read_in_upper_and_lower_case(node: Node, scheme: str) -> None:
    header = (b"authorization", f"{scheme} {await token_of(node)}".encode())
    assert (await node.request(who, headers=[header])).result == "ada"
    answer = await node.request(lambda s: s.update(a=1), headers=[header])
    assert (answer.all("set-cookie"), len(answer.all("session-token"))) == ([], 1)


# Somebody else's


@pytest.mark.parametrize("foreign", ["Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "Basic YWRhOnB3", "Bearer", "Bearer ", "DPoP hs1.a.b.c.d"])
async def test_a_foreign_authorization_is_ignored(node: Node, foreign: str) -> None:
    header = (b"authorization", foreign.encode())
    assert (await node.request(who, token=await token_of(node), headers=[header])).result == "ada"
    answer = await node.request(lambda s: (s.subject, s.problem), headers=[header])
    assert answer.result == (None, None)


async def test_a_foreign_cookie_of_our_name_does_not_stand_beside_a_bearer_token(node: Node) -> None:
    assert (await node.request(who, headers=both("eyJhIjogMX0=.aBcDeF.xyz", await token_of(node)))).result == "ada"


@pytest.mark.parametrize("value", ["null", "", '""'])
async def test_a_removed_cookie_is_no_token(node: Node, value: str) -> None:
    answer = await node.request(lambda s: (s.subject, s.problem), token=value)
    assert answer.result == (None, None)


async def test_cookies_of_similar_names_are_not_ours(node: Node) -> None:
    token = await token_of(node)
    header = (b"cookie", f"xsession={token}; session2={token}; Session={token}; my-session={token}".encode())
    assert (await node.request(lambda s: (s.subject, s.problem), headers=[header])).result == (None, None)


# Several


async def test_a_cookie_and_another_bearer_token_are_ambiguous() -> None:
    node = Node(protect="/private")
    headers = both(await token_of(node, "ada"), await token_of(node, "eve"))
    answer = await node.request(path="/private", headers=headers)
    assert (answer.status, answer.code) == (400, "request_ambiguous")
    assert (await node.request(why, headers=headers)).result == "request_ambiguous"


async def test_two_bearer_tokens_are_ambiguous(node: Node) -> None:
    headers = [(b"authorization", f"Bearer {await token_of(node, name)}".encode()) for name in ("ada", "eve")]
    assert (await node.request(lambda s: (s.subject, why(s)), headers=headers)).result == (None, "request_ambiguous")


@pytest.mark.parametrize("twice", ["{0}", "{0}; {0}", "a=1; {0}; b=2;{0} ", '{0};session="{1}"'])
async def test_a_token_sent_several_times_is_one_token(node: Node, twice: str) -> None:
    token = await token_of(node)
    header = (b"cookie", twice.format(f"session={token}", token).encode())
    assert (await node.request(who, headers=[header, header])).result == "ada"


async def test_two_cookies_of_live_sessions_are_ambiguous(node: Node) -> None:
    header = (b"cookie", f"session={await token_of(node, 'ada')}; session={await token_of(node, 'eve')}".encode())
    assert (await node.request(why, headers=[header])).result == "request_ambiguous"


def doubled(one: str, other: str) -> list[list[Header]]:
    """Two cookies in either order, in one field and in two (as HTTP/2 may have it)."""
    return [
        *([(b"cookie", f"session={a}; session={b}".encode())] for a, b in ((one, other), (other, one))),
        *([(b"cookie", f"session={a}".encode()), (b"cookie", f"session={b}".encode())] for a, b in ((one, other), (other, one))),
    ]


@pytest.mark.parametrize("rubbish", ["rubbish", "hs1.a.b.c.d", "hs1." + "x" * 22 + ".abcdefgh.AAAA." + "s" * 43, "null"])
async def test_the_doubled_cookie_that_verifies_counts(node: Node, rubbish: str) -> None:
    for headers in doubled(await token_of(node), rubbish):
        assert (await node.request(who, headers=headers)).result == "ada"


async def test_a_doubled_cookie_whose_session_has_ended_does_not_count() -> None:
    """A browser may hold a cookie of another path. Log-ins would be impossible if that cookie counted."""
    node = Node(idle_timeout="10m")
    over, revoked = await token_of(node, "eve"), await node.logged_in("mallory")
    stolen = str(revoked.token)
    await revoked.visit(lambda s: s.revoke())
    node.clock.advance(601)
    live = await token_of(node, "ada")
    for ended in (over, stolen):
        for headers in doubled(live, ended):
            assert (await node.request(who, headers=headers)).result == "ada"
    assert (await node.request(why, headers=doubled(over, over + "x")[1])).result == "session_idle_timeout"


async def test_of_two_cookies_of_one_session_the_newer_counts(node: Node) -> None:
    visitor = await node.logged_in("ada", a=1)
    older = str(visitor.token)
    node.clock.advance(1)
    await visitor.visit(lambda s: s.update(a=2))
    for headers in doubled(older, str(visitor.token)):
        assert (await node.request(look, headers=headers)).result == {"a": 2}


async def test_more_tokens_than_anybody_has_are_not_looked_at(node: Node) -> None:
    header = (b"cookie", "; ".join(f"session=hs1.{n}" for n in range(9)).encode())
    assert (await node.request(why, headers=[header])).result == "request_ambiguous"


# Refused tokens


async def test_an_id_that_a_client_chose_is_never_adopted(node: Node) -> None:
    chosen = "A" * 22
    for forged in (chosen, f"hs1.{chosen}", f"hs1.{chosen}.{'k' * 8}.{'p' * 20}.{'s' * 43}"):
        answer = await node.request(lambda s: s.update(a=1), token=forged)
        assert answer.token
        assert chosen not in answer.token


async def test_an_id_that_a_client_put_into_a_good_token_is_never_adopted(node: Node) -> None:
    parts = (await token_of(node)).split(".")
    parts[1] = "A" * 22
    answer = await node.request(lambda s: (s.id, why(s)), token=".".join(parts))
    assert answer.result == (None, "token_invalid")


async def test_a_token_of_another_key_is_not_accepted(node: Node) -> None:
    foreign = await token_of(Node(secret_key=OTHER_SECRET))
    assert (await node.request(why, token=foreign)).result == "token_invalid"


async def test_a_token_of_a_retired_key_is_accepted_and_the_next_is_of_the_new_one() -> None:
    token = await token_of(Node(secret_key=OTHER_SECRET))
    node = Node(secret_key=[SECRET], secret_key_fallbacks=[OTHER_SECRET])
    answer = await node.request(lambda s: s.update(a=1), token=token)
    assert (await Node().request(look, token=answer.token)).result == {"a": 1}


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("rubbish", "token_malformed"),
        ("hs1.a.b.c", "token_malformed"),
        ("hs1.a.b.c.ä", "token_malformed"),
        ("hs1." + "x" * 4093, "token_too_large"),
        (base64.b64encode(b'{"user": "ada"}').decode() + ".aBcDeF.c2lnbmF0dXJl", "token_malformed"),
    ],
)
async def test_a_malformed_token_leaves_an_open_path_anonymous_with_the_reason(node: Node, token: str, code: str) -> None:
    answer = await node.request(lambda s: (s.subject, dict(s), why(s)), token=token)
    assert answer.result == (None, {}, code)
    assert answer.cookies() == []  # a refusal never deletes a cookie


async def test_every_refusal_on_a_protected_path_leaves_the_cookie_alone() -> None:
    node = Node(protect="/private")
    visitor: Visitor = await node.logged_in()
    captured = visitor.token
    await visitor.visit(lambda s: s.revoke())
    for token in (captured, "rubbish", None):
        answer = await node.request(path="/private", token=token)
        assert answer.status in (400, 401)
        assert answer.all("set-cookie") == []
