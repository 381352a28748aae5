"""The session manager: log-outs of one session, of a subject, of all subjects, and their exceptions.

On two backends, one of which is not of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import msgspec
import pytest
from itsdangerous.encoding import base64_decode
from starlette.types import Message, Receive, Scope, Send

from ha_session_mw import (
    Acknowledgement,
    ClientFault,
    Session,
    SessionManager,
    SessionMiddleware,
    SessionRevoked,
    SessionSuperseded,
    Settings,
    get_session,
)
from ha_session_mw._core.accept_rule import CannotTell
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw.exceptions import SessionExpired, SessionIdleTimeout, TokenInvalid
from ha_session_mw.manager import node_of
from ha_session_mw.models import Claims, Deny
from ha_session_mw.session.session import session_of
from ha_session_mw.session.state import RequestState
from ha_session_mw.testing import ManualClock

from .backends.board import page
from .waiting import LIMIT_S

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

SECRET = "2JxQ8vZ6nT4wLmYp0RkHcVbNsDfGqXeA"


class Device:
    """A browser or a phone: holds one token, and finds out whether it still counts."""

    def __init__(self, manager: SessionManager, claims: Claims) -> None:
        self.manager = manager
        self.claims = claims
        self.token = node_of(manager).sign(claims)

    def refusal(self) -> type[Exception] | None:
        try:
            found = node_of(self.manager).validator.validate(self.token)
        except ClientFault as problem:
            return type(problem)
        assert isinstance(found, Verified)
        return None

    @property
    def is_in(self) -> bool:
        return self.refusal() is None

    def session(self) -> Session:
        """The session as an app sees it that this device's request reaches."""
        state = RequestState(self.manager)
        state.became = self.claims
        return session_of(state)

    def renewed(self) -> Device:
        found = node_of(self.manager).validator.validate(self.token)
        assert isinstance(found, Verified)
        claims = node_of(self.manager).renew(found)
        assert claims is not None
        return Device(self.manager, claims)

    def cycled(self) -> Device:
        return Device(self.manager, node_of(self.manager).issuer.issue_new_id(self.claims))


Managers = Callable[..., SessionManager]


@pytest.fixture(params=["memory", "board"])
def make(request: pytest.FixtureRequest, clock: ManualClock) -> Managers:
    """Makes managers on one backend: by name, or one that others have written."""
    backend = page.BoardAndShelves(page.Board()) if request.param == "board" else None
    return partial(SessionManager, clock=clock, backend=backend)


@pytest.fixture
def manager(make: Managers) -> SessionManager:
    return make(Settings(secret_key=SECRET, node_id="node-a"))


@pytest.fixture
def log_in(manager: SessionManager) -> Any:
    return lambda subject="ada": Device(manager, node_of(manager).issuer.issue(subject))


# One session


async def test_a_session_is_revoked_by_its_id(manager: SessionManager, log_in: Any) -> None:
    phone, laptop = log_in(), log_in()

    acknowledgement = await manager.revoke_session(phone.claims.sid)

    assert acknowledgement == Acknowledgement(mode="fenced", waited_s=0.0)
    assert phone.refusal() is SessionRevoked
    assert laptop.is_in


async def test_a_session_is_revoked_by_its_family_with_all_its_ids(manager: SessionManager, log_in: Any) -> None:
    before = log_in()
    after = before.cycled()

    await manager.revoke_session(before.claims.family)

    assert (before.refusal(), after.refusal()) == (SessionRevoked, SessionRevoked)


async def test_revoking_takes_every_token_of_the_session_renewed_ones_too(manager: SessionManager, log_in: Any, clock: ManualClock) -> None:
    phone = log_in()
    clock.advance(20 * 60)
    renewed = phone.renewed()

    await node_of(manager).revoker.revoke_session(phone.claims)

    assert not phone.is_in
    assert not renewed.is_in


async def test_the_id_left_behind_is_dead_and_the_new_one_lives(manager: SessionManager, log_in: Any) -> None:
    before = log_in()
    after = before.cycled()

    replaced = Deny(before.claims.sid, before.claims.absolute_end_ms, before.claims.issued_ms)
    await node_of(manager).revoker.leave_behind([replaced], durable=True, report=False)

    assert before.refusal() is SessionSuperseded
    assert after.is_in
    assert after.claims.family == before.claims.family


async def test_an_unknown_id_may_be_revoked(manager: SessionManager, log_in: Any) -> None:
    phone = log_in()
    await manager.revoke_session("nobodys-nobodys-nobody")

    assert phone.is_in


@pytest.mark.parametrize("form", ["ada", "{}x", "{} ", "/{}", "\N{FULLWIDTH DIGIT ONE}" * 22, "hs1.{}.kid.payload.signature"])
async def test_what_can_be_no_id_is_not_acknowledged_as_logged_out(manager: SessionManager, log_in: Any, form: str) -> None:
    """A typing error, a subject in the place of an id, or a whole token, which the error does not repeat."""
    phone = log_in()
    wrong = form.format(phone.claims.sid)
    for revoked in (manager.revoke_session(wrong), manager.revoke_subject("ada", except_session=wrong)):
        with pytest.raises(ValueError, match="must be the id or the family of a session") as told:
            await revoked
        assert phone.claims.sid not in str(told.value)

    assert phone.is_in
    assert len(node_of(manager).view) == 0


# A subject


async def test_a_subject_is_logged_out_on_every_device_and_may_log_in_again(manager: SessionManager, log_in: Any) -> None:
    phone, laptop, bobs, visitor = log_in(), log_in(), log_in("bob"), log_in(None)

    await manager.revoke_subject("ada")

    assert [phone.refusal(), laptop.refusal()] == [SessionRevoked, SessionRevoked]
    assert bobs.is_in
    assert visitor.is_in
    assert log_in().is_in


async def test_a_log_in_in_the_same_millisecond_as_the_cut_is_accepted(manager: SessionManager, log_in: Any) -> None:
    """Cut-offs by issue time got that wrong elsewhere, one way or the other."""
    before = log_in()
    await manager.revoke_subject("ada")
    after = log_in()

    assert before.claims.issued_ms == after.claims.issued_ms
    assert (before.is_in, after.is_in) == (False, True)


@pytest.mark.parametrize("how", ["session", "id", "family"])
async def test_one_session_may_stay(manager: SessionManager, log_in: Any, how: str) -> None:
    phone, laptop = log_in(), log_in()
    kept = {"session": laptop.session(), "id": laptop.claims.sid, "family": laptop.claims.family}[how]

    await manager.revoke_subject("ada", except_session=kept)

    assert not phone.is_in
    assert laptop.is_in


@pytest.mark.parametrize("nobody", [5, object(), b"family", ("family",)])
async def test_an_exception_that_is_no_session_is_refused_and_logs_no_user_out(manager: SessionManager, log_in: Any, nobody: Any) -> None:
    phone = log_in()

    with pytest.raises(TypeError, match=r"^except_session must be a session, or the id or family of one, got "):
        await manager.revoke_subject("ada", except_session=nobody)

    assert phone.is_in


async def test_the_session_that_stayed_is_renewed_changed_and_cycled_as_before(
    manager: SessionManager, log_in: Any, clock: ManualClock
) -> None:
    laptop = log_in()
    await manager.revoke_subject("ada", except_session=laptop.session())

    clock.advance(20 * 60)
    renewed = laptop.renewed()
    cycled = renewed.cycled()
    changed = Device(manager, node_of(manager).issuer.change(cycled.claims, node_of(manager).issuer.fit(cycled.claims, {"a": 1})))

    assert [device.is_in for device in (renewed, cycled, changed)] == [True] * 3
    await manager.revoke_subject("ada")
    assert [device.is_in for device in (laptop, renewed, cycled, changed)] == [False] * 4


async def test_the_last_log_out_everywhere_decides_which_sessions_stay(manager: SessionManager, log_in: Any) -> None:
    phone, laptop = log_in(), log_in()
    await manager.revoke_subject("ada", except_session=phone.session())
    again = log_in()

    await manager.revoke_subject("ada", except_session=again.session())

    assert [device.is_in for device in (phone, laptop, again)] == [False, False, True]


@pytest.mark.parametrize("how", ["session", "id", "family"])
async def test_a_newer_cut_does_not_bring_back_a_session_that_an_older_one_denied(manager: SessionManager, log_in: Any, how: str) -> None:
    phone = log_in()
    await manager.revoke_subject("ada")
    kept = {"session": phone.session(), "id": phone.claims.sid, "family": phone.claims.family}[how]

    await manager.revoke_subject("ada", except_session=kept)

    assert phone.refusal() is SessionRevoked


async def test_nor_does_one_after_another_that_spared_somebody_else(manager: SessionManager, log_in: Any) -> None:
    phone, laptop = log_in(), log_in()
    await manager.revoke_subject("ada", except_session=phone.session())

    await manager.revoke_subject("ada", except_session=laptop.session())

    assert (phone.is_in, laptop.is_in) == (False, False)


async def test_sparing_the_same_session_again_and_again_keeps_lists_short(manager: SessionManager, log_in: Any) -> None:
    laptop = log_in()
    for _ in range(10):
        await manager.revoke_subject("ada", except_session=laptop.session())
        assert laptop.is_in

    assert len(node_of(manager).view.live_cuts("ada")) == 1


async def test_a_session_that_withstood_a_cut_keeps_lists_short_too(manager: SessionManager, log_in: Any) -> None:
    for _ in range(10):
        laptop = log_in()
        await manager.revoke_subject("ada", except_session=laptop.session())
        assert laptop.is_in

    assert len(node_of(manager).view.live_cuts("ada")) == 1


async def test_a_visitors_session_without_an_id_spares_no_session(manager: SessionManager, log_in: Any) -> None:
    phone = log_in()
    await manager.revoke_subject("ada", except_session=Session())

    assert not phone.is_in


@pytest.mark.parametrize("nonsense", [None, 7, b"ada", "", "\ud800", "x" * 513])
async def test_an_invalid_subject_is_refused_and_no_other_log_out_is_affected(manager: SessionManager, log_in: Any, nonsense: Any) -> None:
    phone, laptop = log_in(), log_in("bob")
    kind = ValueError if isinstance(nonsense, str) else TypeError
    with pytest.raises(kind, match="subject must"):
        await manager.revoke_subject(nonsense)
    with pytest.raises(kind, match="id must"):
        await manager.revoke_session(nonsense)
    if isinstance(nonsense, str):
        with pytest.raises(kind, match="except_session must"):
            await manager.revoke_subject("ada", except_session=nonsense)

    assert phone.is_in
    assert len(node_of(manager).view) == 0
    await manager.revoke_subject("bob")
    assert not laptop.is_in


# Everybody


async def test_everybody_is_logged_out_visitors_too_and_may_come_back(manager: SessionManager, log_in: Any) -> None:
    devices = [log_in("ada"), log_in("bob"), log_in(None)]

    await manager.revoke_everybody()

    assert [device.refusal() for device in devices] == [SessionRevoked] * 3
    assert [log_in(subject).is_in for subject in ("ada", "bob", None)] == [True] * 3


async def test_a_cut_of_everybody_takes_the_session_that_a_subjects_cut_spared(manager: SessionManager, log_in: Any) -> None:
    laptop = log_in()
    await manager.revoke_everybody()
    await manager.revoke_subject("ada", except_session=laptop.session())

    assert not laptop.is_in


# Time


async def test_a_denial_holds_until_the_last_token_it_could_match_has_ended(
    manager: SessionManager, log_in: Any, clock: ManualClock
) -> None:
    phone, laptop, bobs = log_in(), log_in(), log_in("bob")
    await node_of(manager).revoker.revoke_session(phone.claims)
    await manager.revoke_session(laptop.claims.sid)
    await manager.revoke_subject("bob")

    for _ in range(24):
        clock.advance(30 * 60)
        node_of(manager).refresh()
        for device in (phone, laptop, bobs):
            assert not device.is_in
    clock.advance(15 * 60)
    node_of(manager).refresh()
    assert len(node_of(manager).view) == 0


async def test_a_clock_that_is_set_back_does_not_revive_a_denied_session(manager: SessionManager, log_in: Any, clock: ManualClock) -> None:
    phone, laptop = log_in(), log_in()
    await node_of(manager).revoker.revoke_session(phone.claims)
    clock.advance(13 * 3600)
    node_of(manager).refresh()
    assert len(node_of(manager).view) == 0

    clock.step_wall(-13 * 3600)

    assert phone.refusal() is SessionExpired
    assert laptop.refusal() is SessionExpired


async def test_a_session_ends_by_idling_and_at_its_absolute_end(manager: SessionManager, log_in: Any, clock: ManualClock) -> None:
    phone = log_in()
    clock.advance(30 * 60 - 0.001)
    assert phone.is_in
    clock.advance(0.001)
    assert phone.refusal() is SessionIdleTimeout
    clock.advance(12 * 3600)
    assert phone.refusal() is SessionExpired


async def test_a_cached_verification_is_no_cached_decision(manager: SessionManager, log_in: Any) -> None:
    phone = log_in()
    assert phone.is_in
    assert (await manager.status())["cached_tokens"] == 1

    await node_of(manager).revoker.revoke_session(phone.claims)

    assert not phone.is_in


async def test_a_token_under_an_impossible_key_is_invalid(manager: SessionManager, make: Managers) -> None:
    stranger = make(Settings(secret_key="7hTz3-KqWm9_xPvB1nYcRd5LsGjF8uEo"))

    with pytest.raises(TokenInvalid):
        node_of(manager).validator.validate(node_of(stranger).sign(node_of(stranger).issuer.issue("ada")))


async def test_a_payload_of_a_later_release_cannot_be_decided(manager: SessionManager, log_in: Any) -> None:
    text = log_in().token.rsplit(b".", 1)[0].rsplit(b".", 1)[0] + b".kgI"  # MessagePack of [2, …]
    key = node_of(manager).keys.ring.signing_key()

    assert isinstance(node_of(manager).validator.validate(text + b"." + key.signature(text)), CannotTell)


# Through the middleware


class Visitor:
    """Sends a request with one cookie to an app behind the middleware, and reads the answer."""

    def __init__(self, manager: SessionManager, act: Any) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            result = act(get_session(scope))
            if result is not None:
                await result
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        self.middleware = SessionMiddleware(app, manager=manager)

    async def ask(self, token: bytes | None) -> bytes | None:
        """The token that the answer sets, if any."""
        messages: list[Message] = []

        async def send(message: Message) -> None:
            messages.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        headers = [] if token is None else [(b"cookie", b"session=" + token)]
        scope = {"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": headers, "scheme": "http"}
        await self.middleware(scope, receive, send)
        found = [value for name, value in messages[0]["headers"] if name == b"set-cookie"]
        return found[0].partition(b"session=")[2].partition(b";")[0] if found else None


def in_or_out(manager: SessionManager, token: bytes) -> bool:
    try:
        return isinstance(node_of(manager).validator.validate(token), Verified)
    except ClientFault:
        return False


async def test_a_log_in_denies_the_visitors_id_and_takes_a_new_family(manager: SessionManager, log_in: Any) -> None:
    visitor = log_in(None)

    token = await Visitor(manager, lambda session: session.login("ada")).ask(visitor.token)

    assert token is not None
    after = node_of(manager).validator.validate(token)
    assert isinstance(after, Verified)
    assert after.claims.subject == "ada"
    assert {after.claims.sid, after.claims.family}.isdisjoint({visitor.claims.sid, visitor.claims.family})
    assert not visitor.is_in


async def test_a_cycle_denies_the_old_id_and_keeps_the_family(manager: SessionManager, log_in: Any) -> None:
    before = log_in()

    token = await Visitor(manager, lambda session: session.cycle()).ask(before.token)

    assert token is not None
    after = node_of(manager).validator.validate(token)
    assert isinstance(after, Verified)
    assert after.claims.family == before.claims.family
    assert after.claims.sid != before.claims.sid
    assert not before.is_in
    await manager.revoke_session(before.claims.family)
    assert not in_or_out(manager, token)


async def test_a_session_revoked_while_it_takes_a_new_id_does_not_escape(manager: SessionManager, log_in: Any) -> None:
    phone = log_in()

    async def cycle_and_be_revoked(session: Session) -> None:
        session.cycle()
        await manager.revoke_subject("ada")

    token = await Visitor(manager, cycle_and_be_revoked).ask(phone.token)

    assert token is None
    assert not phone.is_in


async def test_a_change_made_while_the_session_was_revoked_does_not_bring_it_back(manager: SessionManager, log_in: Any) -> None:
    phone = log_in()

    async def change_and_be_revoked(session: Session) -> None:
        session["a"] = 1
        await manager.revoke_session(phone.claims.sid)

    token = await Visitor(manager, change_and_be_revoked).ask(phone.token)

    assert token is None or not in_or_out(manager, token)


# Operation


async def test_the_status_tells_how_the_node_does(manager: SessionManager, log_in: Any, request: pytest.FixtureRequest) -> None:
    assert log_in().is_in
    await manager.revoke_subject("ada")
    status = await manager.status()

    assert status["node"] == "node-a"
    assert status["cluster"] == request.node.callspec.params["make"]
    assert status["ready"] is True
    assert status["accepted"] == 1
    assert status["revocation_entries"] == 1
    msgspec.json.encode(status)


async def test_a_node_without_a_name_makes_one_up(make: Managers) -> None:
    names = {make(Settings(secret_key=SECRET)).node_id for _ in range(50)}

    assert len(names) == 50


async def test_ids_are_128_random_bits_and_url_safe(make: Managers) -> None:
    manager = make(Settings(secret_key=SECRET), random=lambda size: b"\xfb\xff" * (size // 2))

    assert base64_decode(node_of(manager).issuer.new_id()) == b"\xfb\xff" * 8
    assert len(node_of(manager).issuer.new_id()) == 22


async def test_a_start_waits_for_no_other_node(manager: SessionManager) -> None:
    with anyio.fail_after(LIMIT_S):
        async with manager.running():
            assert manager.why_not_ready() is None


async def test_no_token_of_a_denied_key_is_accepted_and_the_next_key_signs(make: Managers) -> None:
    manager = make(Settings(secret_key=["n" + SECRET, "o" + SECRET]))
    newest, other = node_of(manager).keys.ring.kids
    token = node_of(manager).sign(node_of(manager).issuer.issue("ada"))
    assert isinstance(node_of(manager).validator.validate(token), Verified)

    acknowledged = await manager.revoke_key(newest)

    assert acknowledged.mode == "fenced"
    with pytest.raises(TokenInvalid):
        node_of(manager).validator.validate(token)
    later = node_of(manager).sign(node_of(manager).issuer.issue("ada"))
    assert later.split(b".")[2].decode() == other
    assert isinstance(node_of(manager).validator.validate(later), Verified)


async def test_an_impossible_key_cannot_be_denied(make: Managers) -> None:
    manager = make(Settings(secret_key=SECRET))
    with pytest.raises(ValueError, match="no live member has a key 'typo'"):
        await manager.revoke_key("typo")
