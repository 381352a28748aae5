"""The session manager: one per process. It owns the keys, the cache and the view, and drives the rules against the log."""

from __future__ import annotations

import logging
import os
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio
import msgspec

from ._core import data, legacy, renewal, tokens
from ._core.cache import VerifiedCache
from ._core.cookies import MAX_COOKIE_BYTES, CookieWriter
from ._core.decision import ACCEPT, CannotTell, Decision, Refuse, decide
from ._core.tokens import MAX_TOKEN_BYTES, Verified
from ._core.view import View, new_cut_id
from .abc import Clock
from .backends import open_backend
from .config import Settings
from .exceptions import KeyNotReached, ProblemError, SessionTooLarge, StateStale, TokenInvalid
from .key_files import LOOK_EVERY_S, KeySource
from .models import Acknowledgement, Claims, Cut, CutId, Deny, Entry, FamilyId, NodeId, SessionId

if TYPE_CHECKING:
    from .asgi.session import Session

logger = logging.getLogger("ha_session_mw")

UNTIL_MARGIN_MS = 60_000
"""How much longer than any token it could match an entry is kept, for clocks that differ (30 s each way)."""


class SystemClock:
    """The machine's clocks. Where there is no boot-time clock (it counts the time in suspend), the monotonic one."""

    boot_s = staticmethod(partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic)
    wall_s = staticmethod(time.time)


class SessionManager:
    """Checks, begins, changes and ends sessions on this node.

    The middleware makes one by itself; make one by hand to share it, or to give it clocks.

    Args:
        settings: by default what the environment says.
        clock: the two clocks.
        random: makes n random bytes.

    Raises:
        ConfigurationError: the settings cannot be used.
    """

    def __init__(
        self, settings: Settings | None = None, *, clock: Clock | None = None, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self.settings = settings or Settings.from_environ()
        self.clock: Clock = clock or SystemClock()
        self.node_id = NodeId(self.settings.node_id or "node-" + random(4).hex())
        self.view = View()
        self.cookie = CookieWriter(
            self.settings.cookie_name,
            path=self.settings.cookie_path,
            domain=self.settings.cookie_domain,
            same_site=self.settings.cookie_same_site,
            partitioned=bool(self.settings.cookie_partitioned),
            max_age=self.settings.cookie_max_age,
        )
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        self._random = random
        self._boot_s, self._wall_s = self.clock.boot_s, self.clock.wall_s
        self._idle_ms = int(self.settings.idle_s * 1000)
        self._absolute_ms = int(self.settings.absolute_s * 1000)
        self._freshness_limit_s = float(self.settings.freshness_limit)
        self._keys = KeySource(self.settings, self._boot_s())
        self._cache = VerifiedCache(int(self.settings.cache_size), float(self.settings.cache_ttl))
        self._cached = self._cache.entries
        self._log = open_backend(self.settings.cluster, self.view, self.clock)
        in_cookie = "cookie" in self.settings.transports
        self._room = MAX_COOKIE_BYTES - self.cookie.overhead() if in_cookie else MAX_TOKEN_BYTES

    # The way of every request

    def check(self, token: bytes) -> Verified | CannotTell:
        """What a token says, if its session stands; a :class:`CannotTell` where that cannot be told at this moment.

        Raises:
            ClientFault: the session does not stand, or this is no token of ours.
        """
        fresh_at = self.view.fresh_at  # first of all, see ``decide``
        wall_ms = self._wall_s() * 1000
        try:
            cached_until_ms, verified = self._cached[token]
        except KeyError:
            cached_until_ms = 0.0
        if wall_ms >= cached_until_ms:
            try:
                verified = self._verify(token, wall_ms)
            except KeyNotReached as problem:
                return CannotTell(problem)
        decision = decide(verified, self.view, fresh_at, self._boot_s(), wall_ms, self._freshness_limit_s)
        if decision is ACCEPT:
            self.accepted += 1
            return verified
        if isinstance(decision, Refuse):
            raise decision.problem
        assert isinstance(decision, CannotTell)  # noqa: S101 - ACCEPT is the only Accept
        return decision

    def verified(self, token: bytes) -> Verified | None:
        """What a token says, if its signature is good; says nothing about whether its session stands."""
        try:
            return self._verify(token, self._wall_s() * 1000)
        except ProblemError:
            return None

    async def resolve(self, undecided: CannotTell) -> Verified:
        """Find out what could not be told at first.

        Raises:
            ProblemError: it still cannot be told, or the session does not stand.
        """
        raise undecided.problem

    def _verify(self, token: bytes, wall_ms: float) -> Verified:
        self._refresh()
        try:
            verified = self._take_over(token, wall_ms) if self._is_legacy(token) else tokens.verify(token, self._keys.ring)
        except KeyNotReached as problem:
            if problem.check == "key" and not self._log.announced_kids():
                # There is nobody else who could have such a key.
                raise TokenInvalid(problem.reason, check=problem.check) from problem
            raise
        self._cache.put(token, verified, wall_ms)
        return verified

    def _is_legacy(self, token: bytes) -> bool:
        return self.settings.legacy_cookies == "starlette" and not token.startswith(tokens.PREFIX)

    def _take_over(self, cookie: bytes, wall_ms: float) -> Verified:
        return legacy.take_over(
            cookie, self._keys.ring, now_ms=wall_ms, idle_ms=self._idle_ms, absolute_ms=self._absolute_ms, issuer=self.node_id
        )

    def _refresh(self) -> None:
        if self._keys.refresh(self._boot_s()):
            self._cache.clear()
        self._log.refresh()

    # Making tokens

    def require_fresh(self) -> None:
        """Raise :class:`StateStale` where a token made now might list too few cuts, and so be refused once the node hears of them."""
        if self._boot_s() - self.view.fresh_at > self._freshness_limit_s:
            raise StateStale("out of contact for longer than the freshness limit", check="fresh")

    def require_standing(self, verified: Verified, *, new_id: bool) -> None:
        """Run the accept rule again: a session that was revoked meanwhile must not escape into a new token.

        Raises:
            ProblemError: the session does not stand; or it is to take a new id, and that cannot be told.
        """
        decision = self._judge_again(verified)
        if isinstance(decision, Refuse) or (new_id and isinstance(decision, CannotTell)):
            raise decision.problem

    def may_stand(self, verified: Verified) -> bool:
        """Whether a session may stand: False only where it is certain that it does not."""
        return not isinstance(self._judge_again(verified), Refuse)

    def _judge_again(self, verified: Verified) -> Decision:
        fresh_at = self.view.fresh_at
        return decide(verified, self.view, fresh_at, self._boot_s(), self._wall_s() * 1000, self._freshness_limit_s)

    def begin(self, subject: str | None) -> Claims:
        """The claims of a new session: new id, new family."""
        return renewal.begin(
            self.new_id(),
            FamilyId(self.new_id()),
            subject,
            cuts=self.view.live_cuts(subject),
            now_ms=int(self._wall_s() * 1000),
            idle_ms=self._idle_ms,
            absolute_ms=self._absolute_ms,
            issuer=self.node_id,
        )

    def new_id(self) -> SessionId:
        """128 random bits. Never comes from a client."""
        return SessionId(urlsafe_b64encode(self._random(16)).rstrip(b"=").decode())

    def cycle(self, claims: Claims) -> Claims:
        """The same session under a new id. It lists the cuts known now, which it has withstood."""
        return msgspec.structs.replace(claims, sid=self.new_id(), cuts=self.view.live_cuts(claims.subject))

    def change(self, claims: Claims, content: bytes) -> Claims:
        """The same session with other data, used just now."""
        return renewal.change(claims, content, now_ms=int(self._wall_s() * 1000), idle_ms=self._idle_ms, issuer=self.node_id)

    def renew(self, verified: Verified) -> Claims | None:
        """The successor of a token that is due for renewal; None where it is not, or cannot be made now and is made later."""
        wall_ms = self._wall_s() * 1000
        if wall_ms < verified.renew_at_ms or self._judge_again(verified) is not ACCEPT:
            return None
        claims = renewal.successor(verified.claims, wall_ms, self._idle_ms)
        # A cookie of Starlette's middleware has less around its data, so what fits there need not fit here.
        return claims if tokens.length(claims) <= self._room else None

    def fit(self, claims: Claims | None, content: Mapping[str, object]) -> bytes:
        """Session data as it travels, in a token that a browser keeps.

        Args:
            claims: of the session; None for one that has not begun.

        Raises:
            SessionNotSerializable: a value cannot travel.
            SessionTooLarge: the token would be dropped by browsers.
        """
        raw = data.encode(content)
        size = tokens.length(msgspec.structs.replace(claims or self.begin(None), data=raw))
        if size > self._room:
            raise SessionTooLarge(
                f"this change would make the session's token {size} bytes long, and {self._room} is the most that browsers keep of this "
                "cookie; keep large data in a database and its key in the session"
            )
        return raw

    def sign(self, claims: Claims) -> bytes:
        """The token for these claims, signed with the newest key that all live members have."""
        self._refresh()
        return tokens.sign(claims, self._keys.ring.signing_key(self._log.announced_kids()))

    # Log-outs

    async def revoke(self, claims: Claims) -> Acknowledgement:
        """Log a session out, with all its ids, and tell how far that has got."""
        return await self._append_fenced(Deny(claims.family, claims.absolute_end_ms))

    async def leave_behind(self, claims: Claims) -> None:
        """Deny the id that a session had before ``login`` or ``cycle``. Durable on return, but not fenced."""
        await self._log.append([Deny(claims.sid, claims.absolute_end_ms)])

    async def revoke_session(self, id: str) -> Acknowledgement:
        """Log out the session that has this id now, or the family of this id with all its ids.

        Raises:
            QuorumLost: the log-out could not be made durable; this node enforces it all the same.
        """
        return await self._append_fenced(Deny(id, self._until_ms()))

    async def revoke_subject(self, subject: str, *, except_session: Session | str | None = None) -> Acknowledgement:
        """Log out all sessions of a subject, on every device.

        Args:
            subject: as given to ``login``.
            except_session: one that may stay: a session, or the ``id`` or ``family`` of one.

        Raises:
            QuorumLost: the log-out could not be made durable; this node enforces it all the same.
        """
        if not isinstance(subject, str):
            raise TypeError(f"subject must be a str, got {type(subject).__name__}")
        return await self._cut(subject, except_session)

    async def revoke_everybody(self) -> Acknowledgement:
        """Log out all sessions of all subjects, visitors' too: after a leak, say."""
        return await self._cut(None, None)

    async def _cut(self, subject: str | None, except_session: Session | str | None) -> Acknowledgement:
        kept = except_session if isinstance(except_session, str) or except_session is None else except_session.family
        withstood = getattr(except_session, "cuts", ())
        until_ms = self._until_ms()
        cut = Cut(
            id=new_cut_id(urlsafe_b64encode(self._random(9)).decode(), until_ms),
            subject=subject,
            until_ms=until_ms,
            except_family=FamilyId(kept) if kept is not None else None,
            replaces=self._replaceable(subject, kept, withstood),
        )
        return await self._append_fenced(cut)

    def _replaceable(self, subject: str | None, kept: str | None, withstood: tuple[CutId, ...]) -> tuple[CutId, ...]:
        """The known cuts that the new one may replace: all that do not deny the session which it excepts."""
        known = self.view.everybody if subject is None else self.view.by_subject.get(subject, {})
        return tuple(id for id, cut in sorted(known.items()) if kept is None or id in withstood or cut.except_family == kept)

    def _until_ms(self) -> int:
        """When every token that may be out there now has ended."""
        return int(self._wall_s() * 1000) + self._absolute_ms + UNTIL_MARGIN_MS

    async def _append_fenced(self, entry: Entry) -> Acknowledgement:
        begun_s = self._boot_s()
        receipt = await self._log.append([entry])
        await self._log.fence(receipt)
        return Acknowledgement(mode="fenced", waited_s=self._boot_s() - begun_s)

    # Operation

    def why_not_ready(self) -> str | None:
        """What keeps this node from judging sessions; None when it is ready."""
        return self._log.why_not_ready()

    async def status(self) -> dict[str, object]:
        """What an operator wants to see at a glance. Holds no ids, subjects or keys."""
        age_s = max(0.0, self._boot_s() - self.view.fresh_at)
        return {
            "node": self.node_id,
            "cluster": self.settings.cluster.partition("://")[0],
            "ready": self.why_not_ready() is None,
            "not_ready_because": self.why_not_ready(),
            "freshness_age_s": age_s,
            "revocation_entries": len(self.view),
            "cached_tokens": len(self._cache),
            "accepted": self.accepted,
            "refused": dict(self.refused),
            "kids": list(self._keys.ring.kids),
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs what the node does besides answering requests. Entering never waits for anything outside this process."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_up)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    async def _keep_up(self) -> None:
        while True:
            self._refresh()
            await anyio.sleep(LOOK_EVERY_S)
