"""The session manager: one per process. It owns the keys, the cache and the view, and drives the rules against the log."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import httpx2
import msgspec

from . import forks, lookups
from ._core import legacy, tokens
from ._core.cache import VerifiedCache
from ._core.cookies import CookieWriter
from ._core.decision import ACCEPT, Accept, CannotTell, Decision, Refuse, decide, denial
from ._core.members import Heartbeat
from ._core.routing import owners
from ._core.tokens import Verified
from ._core.user_agents import label
from ._core.view import View
from .abc import CLOCK_SLACK_MS, Backend, Clock, Grant, LockService, SessionStore
from .clocks import SystemClock
from .config import Settings, variable
from .devices import NOTE_EVERY_S, Devices
from .exceptions import (
    ClientFault,
    ClockUntrusted,
    ConfigurationError,
    KeyNotReached,
    NodeStarting,
    NotSupported,
    ProblemError,
    SessionRevoked,
    SessionUnknown,
    StateNotReached,
    StateRollback,
    StateStale,
    TokenInvalid,
)
from .key_files import LOOK_EVERY_S, KeySource
from .listeners import ROOM, Callback, EventStream, Listeners
from .locks import LEASE_S, TIMEOUT_S, Locks
from .log_outs import LogOuts
from .lookups import Answer, Asking, LookUps
from .minting import Minting
from .models import Acknowledgement, Claims, Deny, Device, Entry, NodeId, SessionId
from .peering import Peering
from .records import Records, decode_copy
from .revocations import Revocations
from .session_data import SessionData
from .state_file import StateFile
from .supervisor import Supervisor
from .version import __version__

if TYPE_CHECKING:
    from .asgi.session import Session

logger = logging.getLogger("ha_session_mw")

IN_FLIGHT_S = 0.075
"""How long a request waits for news that are on their way before peers are asked: some round trips, and less than a person notices."""
RELAXED_LIMIT_S = 60.0
"""How old the knowledge may be by which a path of ``HA_SESSION_RELAXED`` is served."""


class SessionManager:
    """Checks, begins, changes and ends sessions on this node.

    The middleware makes one by itself; make one by hand to share it, or to give it clocks.

    Args:
        settings: by default what the environment says.
        clock: the two clocks.
        random: makes n random bytes.
        peer_transport: carries the calls to other nodes; by default the network.
        backend: what the nodes share is kept by; by default what ``HA_SESSION_CLUSTER`` names.

    Raises:
        ConfigurationError: the settings cannot be used.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        clock: Clock | None = None,
        random: Callable[[int], bytes] = os.urandom,
        peer_transport: httpx2.AsyncBaseTransport | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.settings = settings or Settings.from_environ()
        self.clock: Clock = clock or SystemClock()
        self._random = random
        self._backend = backend or _backend_of(self.settings)
        self.node_id = self._new_node_id()
        self.view = View(on_news=self._tell_news)
        self.on_news: list[Callable[[Entry], None]] = []
        """Called with each entry of the log that is news to this node."""
        self.supervisor = Supervisor(self.clock)
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
        self._boot_s, self._wall_s = self.clock.boot_s, self.clock.wall_s
        self._idle_ms = int(self.settings.idle_s * 1000)
        self._absolute_ms = int(self.settings.absolute_s * 1000)
        self._refresh_at_s = -math.inf
        self._keys = KeySource(self.settings, self._boot_s())
        self._cache = VerifiedCache(int(self.settings.cache_size), self._cache_ttl_s())
        self._cached = self._cache.entries
        self._transport = peer_transport
        self._records: Records | None = None
        self._listeners = Listeners(self.view, self.clock, every_s=float(self.settings.heartbeat))
        self.on_news.append(self._listeners.on_news)
        self._open()
        forks.watch(self)

    def _new_node_id(self) -> NodeId:
        """Where a node may have several processes they share its settings, so there each adds to the name that it was given."""
        given = self.settings.node_id
        if given is not None and not self._backend.takes_workers:
            return NodeId(given)
        return NodeId(f"{given or 'node'}-{self._random(4).hex()}")

    def before_fork(self) -> None:
        """Called by :mod:`.forks`. There is nothing to let go."""

    def after_fork(self, *, in_child: bool) -> None:
        """Called by :mod:`.forks`: a process is a node, so a forked one is another."""
        if in_child:
            self.node_id = self._new_node_id()
            if not self._backend.outlives_fork:
                others = self.supervisor.known[self._own_tasks :]  # the middleware's, say
                self.supervisor = Supervisor(self.clock)
                self._open()
                for name, task in others:
                    self.supervisor.add(name, task)

    def _open(self) -> None:
        self._open_cluster(self._transport)
        self._open_data()
        self._own_tasks = len(self.supervisor.known)

    def _open_cluster(self, transport: httpx2.AsyncBaseTransport | None) -> None:
        settings, life = self.settings, self._random(16).hex()
        own = Heartbeat(
            member=self.node_id,
            life=life,
            url=str(settings.advertise_url or ""),
            state="starting",
            sequence=0,
            wall_ms=0,
            kids=self._keys.ring.kids,
            freshness_limit_s=float(settings.freshness_limit),
            absolute_ms=self._absolute_ms,
            release=__version__,
        )
        self.peering: Peering | None = None
        self._lookups: LookUps | None = None
        if settings.advertise_url is not None:
            self.peering = Peering(settings, life, lambda: self._keys.ring, self.clock, transport)
            self._lookups = LookUps(self.peering.call, self.clock, self.peering.conduct, timeout_s=float(settings.peer_timeout))
            self.peering.handle("lookup", self._on_look_up)
            self.supervisor.add("peering", self.peering.run)
            self.supervisor.add("lookups", self._lookups.run)
        self._log = self._backend.open_log(self.view, self.clock, own, self.peering)
        self._look = self._log.look
        self._listeners.follow(self._log)
        self.supervisor.add("listeners", self._listeners.run)
        journal = settings.state_dir if settings.no_quorum == "provisional" else None
        self._revocations = Revocations(self._log, self.clock, StateFile(Path(journal) / "provisional.journal") if journal else None)
        self.supervisor.add("log", self._log.run)
        self.supervisor.add("revocations", self._revocations.run)
        self.supervisor.add("keeping up", self._keep_up)

    def _open_data(self) -> None:
        locks = self._backend.open_locks(self.clock)
        self.locks = Locks(locks, self.clock, self._backend.scheme)
        self.supervisor.add("locks", self.locks.run)
        self._records = self._open_records(self._open_store("session", locks, needed_by="data" if self.settings.data == "store" else None))
        self._devices = self._open_devices(self._open_store("device", locks, needed_by="track") if self.settings.track == "on" else None)
        self._minting = minting = Minting(
            self.settings,
            self.cookie,
            self.clock,
            self._log,
            self.view,
            ring=lambda: self._keys.ring,
            node=lambda: self.node_id,
            random=self._random,
            max_stored_bytes=self._records.max_data_bytes if self._records is not None else None,
        )
        self.new_id, self.begin, self.cycle, self.change = minting.new_id, minting.begin, minting.cycle, minting.change
        self.fit, self.has_room, self.as_signed = minting.fit, minting.has_room, minting.as_signed
        self.data = SessionData(
            minting, self._records, has_ended=self.has_ended, peers=lambda claims: self._nearest(claims.sid, claims.issuer)
        )
        self._log_outs = LogOuts(self._revocations, self._log, self.view, self.data, ring=lambda: self._keys.ring, random=self._random)

    def _open_store(self, kind: str, locks: LockService | None, *, needed_by: str | None) -> SessionStore | None:
        store = self._backend.open_store(kind, self.clock, locks)
        if store is None and needed_by is not None:
            value = getattr(self.settings, needed_by)
            raise ConfigurationError([f"{variable(needed_by)}={value!r}: {self._backend.scheme}:// has no store"])
        return store

    def _open_records(self, store: SessionStore | None) -> Records | None:
        if store is None:
            return None
        settings, peering = self.settings, self.peering
        asking = None
        if peering is not None:
            asking = Asking(
                peering.call, self.clock, peering.conduct, timeout_s=float(settings.peer_timeout), name="record", decode=decode_copy
            )
        records = Records(
            store,
            self.clock,
            most=int(settings.cache_size),
            max_bytes=int(settings.cache_bytes),
            ttl_s=float(settings.cache_ttl),
            asking=asking,
        )
        if peering is not None:
            peering.handle("record", records.on_question)
        self.supervisor.add("records", records.run)
        return records

    def _open_devices(self, store: SessionStore | None) -> Devices | None:
        if store is None:
            return None
        settings = self.settings
        devices = Devices(
            store,
            self.clock,
            stands=self.may_stand,
            end=self._revocations.deny,
            most=cast("int | None", settings.max_sessions),
            refuse=settings.when_full == "refuse",
        )
        self.supervisor.add("devices", devices.run)
        return devices

    def _cache_ttl_s(self) -> float:
        """Where log-ins are recorded, each session is looked at anew once a minute, and noted then: requests in between pay nothing."""
        ttl_s = float(self.settings.cache_ttl)
        return ttl_s if self.settings.track == "off" else min(ttl_s, NOTE_EVERY_S)

    def _tell_news(self, entry: Entry) -> None:
        if self._records is not None:
            self._records.on_news(entry)
        for listener in self.on_news:
            listener(entry)

    # The way of every request

    def check(self, token: bytes, field: bytes | None = None) -> Verified | CannotTell:
        """What a token says, if its session stands; a :class:`CannotTell` where that cannot be told at this moment.

        Args:
            token: the token.
            field: the header field that carries it and nothing else, by which :meth:`recall` shall find it.

        Raises:
            ClientFault: the session does not stand, or this is no token of ours.
        """
        key = field or token
        return self.recall(key) or self.examine(token, key)

    def examine(self, token: bytes, key: bytes) -> Verified | CannotTell:
        """As :meth:`check`, for a token that :meth:`recall` does not know by this key."""
        fresh_at = self._fresh_at()  # first of all, see ``decide``
        wall_ms = self._wall_s() * 1000
        try:
            verified = self._verify(token, wall_ms)
        except KeyNotReached as problem:
            return CannotTell(problem)
        self._cache.put(key, verified, wall_ms)
        outcome = self._judge(verified, fresh_at, wall_ms)
        if self._devices is not None and isinstance(outcome, Verified):
            self._devices.note(verified)
        return outcome

    def recall(self, key: bytes) -> Verified | CannotTell | None:
        """As :meth:`check`, for a token or field that was verified before; None where it was not. The way of most requests."""
        if self._look is not None:
            self._look()
        fresh_at = self.view.fresh_at  # first of all, see ``decide``
        known = self._cached[key]
        if known is None:
            return None
        until_ms, verified = known
        wall_ms = self._wall_s() * 1000
        return self._judge(verified, fresh_at, wall_ms) if wall_ms < until_ms else None

    def _judge(self, verified: Verified, fresh_at: float, wall_ms: float) -> Verified | CannotTell:
        log = self._log
        boot_s = 0.0
        if fresh_at != math.inf:  # else there is nobody whom this node could be out of contact with
            boot_s = self._boot_s()
            # NaN, where the log wants to be asked, is never within the slack.
            if not -CLOCK_SLACK_MS <= wall_ms - boot_s * 1000 - log.trusted_ahead_ms <= CLOCK_SLACK_MS:
                clocks = self._trusted_clocks()
                if clocks is None:
                    return CannotTell(self._not_serving() or _clock_untrusted())
                boot_s, wall_ms = clocks
        decision = decide(verified, self.view, fresh_at, boot_s, wall_ms, log.freshness_limit_s)
        if decision is ACCEPT:
            self.accepted += 1
            return verified
        if isinstance(decision, Refuse):
            raise decision.problem
        assert isinstance(decision, CannotTell)  # noqa: S101 - ACCEPT is the only Accept
        not_serving = self._not_serving()
        return CannotTell(not_serving) if not_serving else decision

    def _trusted_clocks(self) -> tuple[float, float] | None:
        """What both clocks show (seconds, milliseconds); None where the cluster does not vouch for it."""
        if not self._log.trusts_clock():
            return None
        boot_s, wall_ms = self._boot_s(), self._wall_s() * 1000
        # The verdict is on a reading of a moment ago, and the process may have been stopped since, and its clock been set.
        moved_ms = wall_ms - boot_s * 1000 - self._log.trusted_ahead_ms
        # NaN, where another thread has heard of the members since, is never within the slack.
        return (boot_s, wall_ms) if abs(moved_ms) <= CLOCK_SLACK_MS else None

    def _not_serving(self) -> NodeStarting | StateRollback | None:
        """Why this node judges nothing at all, whatever the session; None where it does."""
        if self._log.is_set_back():
            return StateRollback("the log is older than what this node has applied", check="fresh")
        return NodeStarting("still learning from the other members", check="fresh") if self._log.is_starting() else None

    def verified(self, token: bytes) -> Verified | None:
        """What a token says, if its signature is good; says nothing about whether its session stands."""
        try:
            return self._verify(token, self._wall_s() * 1000)
        except ProblemError:
            return None

    async def resolve(self, token: bytes, undecided: CannotTell) -> Verified:
        """Find out what could not be told at first: wait for what is on its way, then ask the peers.

        Raises:
            ProblemError: it still cannot be told, or the session does not stand.
        """
        problem = undecided.problem
        if not self._backend.hears_others or isinstance(problem, NodeStarting | StateRollback | ClockUntrusted):
            raise problem
        with self.clock.move_on_after(IN_FLIGHT_S):
            while True:
                await self._log.changed()
                outcome = self.check(token)
                if isinstance(outcome, Verified):
                    return outcome
        if self._lookups is None:
            raise problem
        answer = await self._lookups.ask(token, self._whom_to_ask(token, problem))
        # What was learned while the question was under way counts for more than a yes.
        outcome = self.check(token)
        if isinstance(outcome, Verified):
            return outcome
        if answer is None:
            raise outcome.problem
        return await self._take(token, answer, outcome.problem)

    def check_relaxed(self, token: bytes) -> tuple[Verified, float]:
        """As :meth:`check`, by knowledge of up to a minute ago; returns how old it is, too (seconds).

        Raises:
            ProblemError: the session does not stand, or even that is not enough to tell.
        """
        fresh_at = self._fresh_at()
        verified = self._verify(token, self._wall_s() * 1000)
        boot_s = self._boot_s()
        decision = decide(verified, self.view, fresh_at, boot_s, self._wall_s() * 1000, RELAXED_LIMIT_S)
        if not isinstance(decision, Accept):
            raise decision.problem
        return verified, boot_s - fresh_at

    async def _take(self, token: bytes, answer: Answer, problem: ProblemError) -> Verified:
        verified = self.verified(token)
        if answer.says == "revoked":
            # Final, so it is taken into the view: the next peer asked may not have heard of it, and say yes.
            if verified is not None:
                self._log.apply([Deny(verified.claims.sid, verified.claims.absolute_end_ms)])
            else:
                self._log.apply([Deny(token.split(b".")[1].decode(), self._log.unknown_end_ms())])
            raise SessionRevoked("a peer says so", check="denied")
        if verified is None and answer.claims is not None and answer.kid is not None:
            verified = Verified.of(answer.claims, answer.kid)
        if answer.says != "yes" or verified is None:
            raise problem
        # A token that could not be verified here was not held against what this node knows, either.
        decision = self._judge_again(verified)
        if isinstance(decision, Refuse):
            raise decision.problem
        self.accepted += 1
        return verified

    def _whom_to_ask(self, token: bytes, problem: ProblemError) -> list[str]:
        """The issuing node first, then the owners of the session. Where the key is lacking, those that announce it."""
        _, sid, kid, *_ = token.decode("ascii").split(".")
        verified = self.verified(token)
        return self._nearest(sid, verified.claims.issuer if verified else None, kid if isinstance(problem, KeyNotReached) else None)

    def _nearest(self, sid: str, issuer: str | None, kid: str | None = None) -> list[str]:
        """The members that may know most of a session, those first; of those only that have a key, if one is named."""
        members = [member for member in self._log.members() if member.state != "starting"]
        own = str(self.settings.advertise_url)
        urls = {member.url: member.member for member in members if member.url not in ("", own) and (kid is None or kid in member.kids)}
        return sorted(owners(sid, urls), key=lambda url: urls[url] != issuer)

    async def _on_look_up(self, body: bytes) -> bytes:
        """A peer asks whether a session stands. It is told what this node knows by itself: questions are not passed on."""
        try:
            question = lookups.decode_question(body)
            outcome = self.check(question.token)
        except SessionRevoked:
            return lookups.encode(Answer(lookups.VERSION, "revoked"))
        except ClientFault:
            return lookups.encode(Answer(lookups.VERSION, "unknown"))
        except (ValueError, RecursionError) as exc:
            raise ValueError("no question") from exc
        if isinstance(outcome, CannotTell):
            return lookups.encode(Answer(lookups.VERSION, "unknown"))
        return lookups.encode(Answer(lookups.VERSION, "yes", outcome.claims, outcome.kid))

    def _verify(self, token: bytes, wall_ms: float) -> Verified:
        if not self.supervisor.is_running:
            self._refresh()  # else a background task does
        try:
            verified = self._take_over(token, wall_ms) if self._is_legacy(token) else tokens.verify(token, self._keys.ring)
        except KeyNotReached as problem:
            if problem.check == "key" and self._nobody_has_key(token):
                raise TokenInvalid(problem.reason, check=problem.check) from problem
            raise
        return verified

    def _nobody_has_key(self, token: bytes) -> bool:
        """Whether no member could have signed a token, for certain."""
        if not self._is_fresh():
            return False  # a member may have it that this node has not heard of
        kid = token.split(b".")[2].decode()
        return all(kid not in kids for kids in self._log.announced_kids())

    def _is_fresh(self) -> bool:
        return self._boot_s() - self._fresh_at() <= self._log.freshness_limit_s

    def _fresh_at(self) -> float:
        if self._look is not None:
            self._look()
        return self.view.fresh_at

    def _is_legacy(self, token: bytes) -> bool:
        return self.settings.legacy_cookies == "starlette" and not token.startswith(tokens.PREFIX)

    def _take_over(self, cookie: bytes, wall_ms: float) -> Verified:
        return legacy.take_over(
            cookie, self._keys.ring, now_ms=wall_ms, idle_ms=self._idle_ms, absolute_ms=self._absolute_ms, issuer=self.node_id
        )

    def _refresh(self) -> None:
        now_s = self._boot_s()
        if now_s < self._refresh_at_s:
            return
        self._refresh_at_s = now_s + LOOK_EVERY_S
        if self._keys.refresh(now_s):
            self._cache.clear()
            self._log.announce(self._keys.ring.kids)
        self._log.refresh()

    # Making tokens

    def require_fresh(self) -> None:
        """Raise :class:`StateStale` where a token made now might list too few cuts, and so be refused once the node hears of them."""
        if not_serving := self._not_serving():
            raise not_serving
        if not self._log.trusts_clock():
            raise _clock_untrusted()
        if not self._is_fresh():
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

    def has_ended(self, claims: Claims) -> bool:
        """Whether a session is logged out with all its ids, and not only with one that it had at some time."""
        decision = self._judge_again(self.as_signed(msgspec.structs.replace(claims, sid=SessionId(claims.family))))
        return isinstance(decision, Refuse) and isinstance(decision.problem, SessionRevoked)

    def _judge_again(self, verified: Verified) -> Decision:
        fresh_at = self._fresh_at()
        clocks = self._trusted_clocks()
        if clocks is None:
            return denial(verified, self.view) or CannotTell(_clock_untrusted())  # what is known to be denied needs no clock
        return decide(verified, self.view, fresh_at, *clocks, self._log.freshness_limit_s)

    def renew(self, verified: Verified) -> Claims | None:
        """The successor of a token that is due for renewal; None where it is not, or cannot be made now and is made later."""
        wall_ms = self._wall_s() * 1000
        if wall_ms < verified.renew_at_ms or self._judge_again(verified) is not ACCEPT:
            return None
        return self._minting.successor(verified.claims)

    def sign(self, claims: Claims) -> bytes:
        """The token for these claims, signed with the newest key that all live members have."""
        self._refresh()
        if self._devices is not None:
            self._devices.note(self.as_signed(claims))
        return self._minting.sign(claims)

    # Log-outs

    async def revoke(self, claims: Claims) -> Acknowledgement:
        """Log a session out, with all its ids, and tell how far that has got."""
        return await self._log_outs.of_claims(claims)

    async def leave_behind(self, claims: Claims, *, whole: bool = False) -> None:
        """Deny the id that a session had before ``cycle``, or all of it before ``login``. Durable on return, but not fenced."""
        await self._revocations.deny(Deny(claims.family if whole else claims.sid, claims.absolute_end_ms))

    async def revoke_session(self, id: str) -> Acknowledgement:
        """Log out the session that has this id now, or the family of this id with all its ids.

        Raises:
            QuorumLost: the log-out could not be made durable; this node enforces it all the same.
        """
        return await self._log_outs.of_id(id)

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
        return await self._log_outs.of_subject(subject, except_session)

    async def revoke_everybody(self) -> Acknowledgement:
        """Log out all sessions of all subjects, visitors' too: after a leak, say."""
        return await self._log_outs.of_everybody()

    async def revoke_key(self, kid: str) -> Acknowledgement:
        """Have no node accept a token that this key signed, whoever makes it: after the key has leaked.

        Nodes that have another key sign with that from now on. One that has no other must be given one.

        Args:
            kid: the key's id, as in ``status()``.

        Raises:
            ValueError: no live member has a key of this id.
            QuorumLost: it could not be made durable; this node enforces it all the same.
        """
        return await self._log_outs.of_key(kid)

    # Locks

    def lock(self, name: str, *, timeout: float = TIMEOUT_S, lease: float = LEASE_S) -> AbstractAsyncContextManager[Grant]:
        """A lock of the app's own, which one task has at a time, on whichever node: ``async with manager.lock("reports") as grant:``.

        It is renewed while what is inside runs, and let go when that ends, however it does. ``grant.fence`` is the fencing
        number: hand it to a store of your own that refuses a lower one than it has seen.

        Args:
            name: 1 to 512 characters. Names of the app's locks and locks of sessions do not meet.
            timeout: for how many seconds to wait. 0: not at all.
            lease: for how many seconds it is held when this process dies.

        Raises:
            SessionLocked: others had it all the time; becomes a 423 with a hint if the app lets it pass.
            LockLost: it could not be renewed in time, or this process stood still; what ran inside was cancelled.
            StoreUnavailable: it cannot be known who has it.
            NotSupported: there are no locks on ``peers://``.
        """
        return self.locks.lock(name, timeout_s=timeout, lease_s=lease)

    # Devices

    async def record_log_in(self, claims: Claims, *, replaces: Claims | None, user_agent: str, address: str | None) -> None:
        """Record a log-in before its token is given away, where ``HA_SESSION_TRACK`` asks for that.

        Args:
            claims: of the new session.
            replaces: of the one in whose place it comes.
            user_agent: what the client calls itself.
            address: where it is.

        Raises:
            SessionLimitReached: the subject has as many sessions as it may have.
            SessionConflict: too many log in as the same subject at the same time.
            StoreUnavailable: there is a limit, and how many sessions there are cannot be known.
            QuorumLost: the oldest session was to be ended, and could not be.
        """
        if self._devices is not None:
            await self._devices.enter(
                self.as_signed(claims),
                replaces=replaces.family if replaces else None,
                label=label(user_agent),
                address=address if self.settings.track_address else None,
            )

    async def record_new_id(self, claims: Claims) -> None:
        """As :meth:`record_log_in`, for a session that goes on under a new id. Never fails."""
        if self._devices is not None and claims.subject is not None:
            await self._devices.take_new_id(self.as_signed(claims))

    async def sessions_of(self, subject: str) -> list[Device]:
        """Where a subject is logged in, the newest log-in first. Sessions that have ended or are logged out are not among them.

        Raises:
            NotSupported: ``HA_SESSION_TRACK`` is off.
            StoreUnavailable: it cannot be known.
        """
        return await self._tracked().of_subject(subject)

    async def revoke_session_of(self, subject: str, id: str) -> Acknowledgement:
        """Log out a session that must be this subject's.

        Args:
            subject: whose it must be.
            id: as ``sessions_of`` gives it.

        Raises:
            SessionUnknown: the subject has no such session.
            NotSupported: ``HA_SESSION_TRACK`` is off.
            StoreUnavailable: it cannot be known whose it is.
            QuorumLost: the log-out could not be made durable; this node enforces it all the same.
        """
        denial = await self._tracked().owned(subject, id)
        if denial is None:
            raise SessionUnknown("not a session of this subject")
        return await self._log_outs.of_family(denial)

    def _tracked(self) -> Devices:
        if self._devices is None:
            raise NotSupported("log-ins are not recorded: set HA_SESSION_TRACK=on, with a HA_SESSION_CLUSTER that has a store")
        return self._devices

    # Operation

    def events(self, *, room: int = ROOM) -> EventStream:
        """What happens to the cluster from now on, as this node sees it: ``async for event in manager.events()``.

        Any number may listen, before the node runs, too. A stream outlives the node's end, for the node may be started again.

        Args:
            room: how many events are kept for a listener that is busy. What comes then is counted, and told in its place.
        """
        return self._listeners.open(room)

    def on_event(self, callback: Callback, *, room: int = ROOM) -> Callable[[], None]:
        """Have a function, or coroutine function, called with each event, one at a time; returns what ends that.

        It is called by a background task of this node while that runs, in the event loop, and events of before wait for it.
        One that raises is logged and counted, and called with the next event all the same.

        Args:
            callback: what is called.
            room: as for :meth:`events`.
        """
        return self._listeners.call(callback, room)

    def why_not_ready(self) -> str | None:
        """What keeps this node from judging sessions; None when it is ready."""
        return self._log.why_not_ready()

    async def status(self) -> dict[str, object]:
        """What an operator wants to see at a glance. Holds no ids, subjects or keys."""
        age_s = max(0.0, self._boot_s() - self.view.fresh_at)
        return {
            "node": self.node_id,
            "cluster": self._backend.scheme,
            "ready": self.why_not_ready() is None,
            "not_ready_because": self.why_not_ready(),
            "freshness_age_s": age_s,
            "revocation_entries": len(self.view),
            "cached_tokens": len(self._cache),
            "cached_records": len(self._records) if self._records is not None else 0,
            "accepted": self.accepted,
            "refused": dict(self.refused),
            "kids": list(self._keys.ring.kids),
            "look_ups": dict(self._lookups.results) if self._lookups else {},
            "refused_peer_calls": self.peering.server.refused if self.peering else 0,
            "peers": self.peering.conduct.told() if self.peering else {},
            "provisional_log_outs": len(self._revocations.provisional),
            "locks": self.locks.status(),
            "restarted_tasks": dict(self.supervisor.crashes),
            "unwritten_notes": len(self._devices) if self._devices is not None else 0,
            "lost_notes": self._devices.lost if self._devices is not None else 0,
            "listeners": len(self._listeners),
            "missed_events": self._listeners.missed,
            "failed_callbacks": self._listeners.failures,
        }

    def index(self) -> str | None:
        """How far this node's log has got, as text that a client may show another node to read its own writes there."""
        return self._log.index()

    async def catch_up(self, index: str) -> None:
        """Return once this node knows what the node knew that gave the index.

        Raises:
            StateNotReached: that takes longer than a client should be kept waiting.
        """
        with self.clock.move_on_after(IN_FLIGHT_S):
            while not self._log.has_reached(index):
                await self._log.changed()
        if not self._log.has_reached(index):
            raise StateNotReached("the client has seen a later state than this node", check="cuts_known")

    def running(self) -> AbstractAsyncContextManager[None]:
        """Runs what the node does besides answering requests. Entering never waits for anything outside this process."""
        return self.supervisor.running()

    async def _keep_up(self) -> None:
        """Keep the keys and the view up to date."""
        while True:
            self._refresh()
            with self.clock.move_on_after(LOOK_EVERY_S):
                await anyio.sleep_forever()


def _backend_of(settings: Settings) -> Backend:
    from .backends import open_backend

    return open_backend(settings)


def _clock_untrusted() -> ClockUntrusted:
    return ClockUntrusted("its clock and the other nodes' differ by more than 30 s", check="fresh")
