"""The session manager: one per process. It owns the keys, the cache, the view and what works on them, and is their public face.

Here they are wired together, and kept up to date. How a token is judged stands in ``judging.py``, how one is made in ``minting.py``.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio
import httpx2

from ._core.accept_rule import ACCEPT
from ._core.cluster.members import Heartbeat
from ._core.cluster.routing import nearest
from ._core.cluster.view import View
from ._core.names import require_name
from ._core.records.user_agents import label
from ._core.token.cache import VerifiedCache
from ._core.token.cookies import CookieWriter
from ._core.token.tokens import Verified
from ._machine import forks
from ._machine.journal import StateFile
from ._node.devices import NOTE_EVERY_S, Devices
from ._node.issuing import Issuer
from ._node.key_source import LOOK_EVERY_S, KeySource
from ._node.listeners import ROOM, Callback, EventStream, Listeners
from ._node.locks import LEASE_S, TIMEOUT_S, Locks
from ._node.log_outs import LogOuts
from ._node.lookups import Asking, LookUps
from ._node.record_copies import RecordCopies
from ._node.records import Records, decode_copy
from ._node.revocation import Revocations
from ._node.session_data import SessionData
from ._node.supervisor import Supervisor
from ._node.validation import TokenValidator
from ._peering.peering import Peering
from ._settings.setting import variable
from .abc import Backend, Clock, Grant, SessionStore, ignore
from .clocks import SystemClock
from .config import Settings
from .exceptions import ConfigurationError, NotSupported, SessionUnknown
from .models import Acknowledgement, AnySession, Claims, Deny, Device, Entry, NodeId
from .version import __version__

logger = logging.getLogger("ha_session_mw")

NOT_STARTED = (
    "nothing has started this node: SessionMiddleware has not seen a lifespan; "
    "put it around the whole app, and have the server run the lifespan"
)


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
        TypeError: they are none.
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
        if settings is not None and not isinstance(settings, Settings):
            raise TypeError(f"settings must be a Settings, got {type(settings).__name__}")
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
            partitioned=self.settings.cookie_partitioned,
            max_age=self.settings.cookie_max_age,
        )
        self.refused: Counter[str] = Counter()
        self._refresh_at_s = -math.inf
        self._keys = KeySource(self.settings, self.clock.boot_s())
        self._cache = VerifiedCache(self.settings.cache_size, self._cache_ttl_s())
        self._judging = judging = TokenValidator(
            self.settings, self.clock, self.view, self._keys, self._cache, refresh=self._refresh_by_hand, node=lambda: self.node_id
        )
        self.check, self.validate_cached, self.validate_new, self.verified = (
            judging.check,
            judging.validate_cached,
            judging.validate_new,
            judging.verified,
        )
        self.resolve, self.check_relaxed, self.catch_up = judging.resolve, judging.check_relaxed, judging.catch_up
        self.ensure_fresh, self.ensure_valid, self.may_be_valid = judging.ensure_fresh, judging.ensure_valid, judging.may_be_valid
        self._transport = peer_transport
        self._records: Records | None = None
        self._listeners = Listeners(self.view, self.clock, every_s=self.settings.heartbeat)
        self.on_news.append(self._listeners.on_news)
        self._own_tasks = 0
        self._open()
        self._is_open = True
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
        """Become another node in the child. What the nodes share is opened anew when this process runs, and not before: a child that
        serves nothing must not take a file that its parent needs, and a parent that only forks must not keep it."""
        if in_child:
            self.node_id = self._new_node_id()
            known, self.supervisor = self.supervisor.known, Supervisor(self.clock)
            self.supervisor.known += known
            if self._backend.hears_others:
                self.view.fresh_at = -math.inf  # the lease was the parent's
        self._is_open &= not in_child and (self.supervisor.is_running or not self._backend.hears_others)

    def open_again(self) -> None:
        """Open what the nodes share, unless this process has opened it since the last fork. :meth:`running` does so first.

        Raises:
            ConfigurationError: it cannot be used, or another process has it.
        """
        if self._is_open:
            return
        others = self.supervisor.known[self._own_tasks :]  # the middleware's, for one
        entries = [*self.view.entries()]
        self.supervisor = Supervisor(self.clock)
        self.view.start_anew()
        try:
            self._open()
        finally:
            self._own_tasks = len(self.supervisor.known)
            for name, task in others:
                self.supervisor.add(name, task)
        self._is_open = True
        # Of this process alone, such as those in memory. No denial is lost.
        self._log.apply([entry for entry in entries if not self.view.knows(entry)])

    def _open(self) -> None:
        self._open_cluster(self._transport)
        self._open_data()
        self._judging.follow(self._log, hears_others=self._backend.hears_others, look_ups=self._lookups, devices=self._devices)
        self._own_tasks = len(self.supervisor.known)

    def _open_cluster(self, transport: httpx2.AsyncBaseTransport | None) -> None:
        settings, life = self.settings, self._random(16).hex()
        own = Heartbeat(
            member=self.node_id,
            life=life,
            url=settings.advertise_url or "",
            state="starting",
            sequence=0,
            wall_ms=0,
            kids=self._keys.ring.kids,
            freshness_limit_s=settings.freshness_limit,
            absolute_ms=int(settings.absolute_timeout * 1000),
            release=__version__,
        )
        self.peering: Peering | None = None
        self._lookups: LookUps | None = None
        if settings.advertise_url is not None:
            self.peering = Peering(settings, life, lambda: self._keys.ring, self.clock, transport)
            self._lookups = LookUps(self.peering.call, self.clock, self.peering.faults, timeout_s=settings.peer_timeout)
            self.peering.handle("lookup", self._judging.on_question)
            self.supervisor.add("peering", self.peering.run)
            self.supervisor.add("lookups", self._lookups.run)
        self._log = self._backend.open_log(self.view, self.clock, own, self.peering, on_event=self._listeners.on_event)
        self._listeners.follow(self._log)
        self.supervisor.add("listeners", self._listeners.run)
        journal = settings.state_dir if settings.no_quorum == "provisional" else None
        self._revocations = Revocations(self._log, self.clock, StateFile(journal / "provisional.journal") if journal else None)
        self.supervisor.add("log", self._log.run)
        self.supervisor.add("revocations", self._revocations.run)
        self.supervisor.add("keeping up", self._keep_up)

    def _open_data(self) -> None:
        locks = self._backend.open_locks(self.clock)
        self.locks = Locks(locks, self.clock, self._backend.scheme, require_loop=self._require_loop)
        self.supervisor.add("locks", self.locks.run)
        settings = self.settings
        self._copies = copies = RecordCopies(self.clock, most=settings.cache_size, max_bytes=settings.cache_bytes, ttl_s=settings.cache_ttl)
        store = self._backend.open_store("session", self.clock, locks, on_newer=copies.hear, on_gap=copies.forget_all)
        self._records = self._open_records(self._required(store, by="data") if settings.data == "store" else store)
        self._devices = None
        if settings.track == "on":
            devices = self._backend.open_store("device", self.clock, locks, on_newer=ignore, on_gap=ignore)
            self._devices = self._open_devices(self._required(devices, by="track"))
        self._minting = minting = Issuer(
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
            minting,
            self._records,
            has_ended=lambda claims: self._judging.has_ended(minting.as_signed(claims)),
            peers=lambda claims: nearest(claims.sid, self._log.members(), issuer=claims.issuer, but=self.settings.advertise_url or ""),
        )
        self._log_outs = LogOuts(self._revocations, self._log, self.view, self.data, ring=lambda: self._keys.ring, random=self._random)

    def _required(self, store: SessionStore | None, *, by: str) -> SessionStore:
        if store is None:
            raise ConfigurationError([f"{variable(by)}={getattr(self.settings, by)!r}: {self._backend.scheme}:// has no store"])
        return store

    def _open_records(self, store: SessionStore | None) -> Records | None:
        if store is None:
            return None
        settings, peering = self.settings, self.peering
        asking = None
        if peering is not None:
            asking = Asking(peering.call, self.clock, peering.faults, timeout_s=settings.peer_timeout, name="record", decode=decode_copy)
        records = Records(store, self._copies, self.clock, asking=asking)
        if peering is not None:
            peering.handle("record", records.on_question)
        self.supervisor.add("records", records.run)
        return records

    def _open_devices(self, store: SessionStore) -> Devices:
        settings = self.settings
        devices = Devices(
            store,
            self.clock,
            stands=self.may_be_valid,
            end=self._revocations.deny,
            most=settings.max_sessions,
            refuse=settings.when_full == "refuse",
        )
        self.supervisor.add("devices", devices.run)
        return devices

    def _cache_ttl_s(self) -> float:
        """Where log-ins are recorded, each session is looked at anew once a minute, and noted then: requests in between pay nothing."""
        ttl_s = self.settings.cache_ttl
        return ttl_s if self.settings.track == "off" else min(ttl_s, NOTE_EVERY_S)

    def _tell_news(self, entry: Entry) -> None:
        if self._records is not None:
            self._records.on_news(entry)
        for listener in self.on_news:
            listener(entry)

    # DurablePrefix up

    async def _keep_up(self) -> None:
        """Keep the keys and the view up to date."""
        while True:
            self._refresh()
            with self.clock.move_on_after(LOOK_EVERY_S):
                await anyio.sleep_forever()

    def _refresh_by_hand(self) -> None:
        """Keep up where no background task does."""
        if not self.supervisor.is_running:
            self._refresh()

    def _refresh(self) -> None:
        now_s = self.clock.boot_s()
        if now_s < self._refresh_at_s:
            return
        self._refresh_at_s = now_s + LOOK_EVERY_S
        if self._keys.refresh(now_s):
            self._cache.clear()
            self._log.announce(self._keys.ring.kids)
        self._log.tick()

    # Making tokens

    def renew(self, verified: Verified) -> Claims | None:
        """The successor of a token that is due for renewal; None where it is not, or cannot be made now and is made later."""
        wall_ms = self.clock.wall_s() * 1000
        if wall_ms < verified.renew_at_ms or self._judging.revalidate(verified) is not ACCEPT:
            return None
        return self._minting.successor(verified.claims)

    def sign(self, claims: Claims) -> bytes:
        """The token for these claims, signed with the newest key that all live members have."""
        self._refresh()
        if self._devices is not None:
            self._devices.note(self.as_signed(claims))
        return self._minting.sign(claims)

    def _require_loop(self) -> None:
        """Raise UsageError where what waits for other nodes would wait in another event loop than this node's."""
        if self._backend.hears_others:
            self.supervisor.require_loop()

    # Log-outs

    async def revoke(self, claims: Claims) -> Acknowledgement:
        """Log a session out, with all its ids, and tell how far that has got."""
        self._require_loop()
        return await self._log_outs.of_claims(claims)

    async def leave_behind(self, claims: Claims, *, whole: bool = False) -> None:
        """Deny the id that a session had before ``cycle``, or all of it before ``login``. Durable on return, but not fenced."""
        await self._revocations.deny(Deny(claims.family if whole else claims.sid, claims.absolute_end_ms))

    def take_back(self, claims: Claims) -> None:
        """Deny a session that nobody was given a token of, so nothing has to wait for that."""
        self._log.apply([Deny(claims.family, claims.absolute_end_ms)])

    async def revoke_session(self, id: str) -> Acknowledgement:
        """Log out the session that has this id now, or the family of this id with all its ids.

        Raises:
            TypeError, ValueError: that can be nobody's id.
            QuorumLost: the log-out could not be made durable; this node enforces it all the same.
        """
        self._require_loop()
        return await self._log_outs.of_id(id)

    async def revoke_subject(self, subject: str, *, except_session: AnySession | str | None = None) -> Acknowledgement:
        """Log out all sessions of a subject, on every device.

        Args:
            subject: as given to ``login``.
            except_session: one that may stay: a session, or the ``id`` or ``family`` of one.

        Raises:
            TypeError, ValueError: nobody can be called that.
            QuorumLost: the log-out could not be made durable; this node enforces it all the same.
        """
        self._require_loop()
        return await self._log_outs.of_subject(subject, except_session)

    async def revoke_everybody(self) -> Acknowledgement:
        """Log out all sessions of all subjects, visitors' too: after a leak, say."""
        self._require_loop()
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
        self._require_loop()
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
            TypeError, ValueError: it is no name, or a time is no number of seconds, or too small.
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
        if self._devices is not None:
            await self._devices.take_new_id(self.as_signed(claims))

    async def sessions_of(self, subject: str) -> list[Device]:
        """Where a subject is logged in, the newest log-in first. Sessions that have ended or are logged out are not among them.

        Raises:
            NotSupported: ``HA_SESSION_TRACK`` is off.
            TypeError, ValueError: nobody can be called that.
            StoreUnavailable: it cannot be known.
        """
        require_name(subject, "subject")
        return await self._tracked().of_subject(subject)

    async def revoke_session_of(self, subject: str, id: str) -> Acknowledgement:
        """Log out a session that must be this subject's.

        Args:
            subject: whose it must be.
            id: as ``sessions_of`` gives it; any text that a client sends.

        Raises:
            SessionUnknown: the subject has no such session.
            NotSupported: ``HA_SESSION_TRACK`` is off.
            TypeError, ValueError: nobody can be called that; or the id is not a str.
            StoreUnavailable: it cannot be known whose it is.
            QuorumLost: the log-out could not be made durable; this node enforces it all the same.
        """
        self._require_loop()
        require_name(subject, "subject")
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

        Raises:
            TypeError: it cannot be called.
            ValueError: there is no room for a single event.
        """
        return self._listeners.call(callback, room)

    def why_not_ready(self) -> str | None:
        """What keeps this node from judging sessions; None when it is ready."""
        why = self._log.why_not_ready()
        return NOT_STARTED if why is not None and self._backend.hears_others and not self.supervisor.is_running else why

    async def status(self) -> dict[str, object]:
        """What an operator wants to see at a glance. Holds no ids, subjects or keys."""
        age_s = max(0.0, self.clock.boot_s() - self.view.fresh_at)
        return {
            "node": self.node_id,
            "cluster": self._backend.scheme,
            "ready": self.why_not_ready() is None,
            "not_ready_because": self.why_not_ready(),
            "freshness_age_s": age_s,
            "revocation_entries": len(self.view),
            "cached_tokens": len(self._cache),
            "cached_records": len(self._copies),
            "accepted": self._judging.accepted,
            "refused": dict(self.refused),
            "kids": list(self._keys.ring.kids),
            "look_ups": dict(self._lookups.results) if self._lookups else {},
            "refused_peer_calls": self.peering.server.refused if self.peering else 0,
            "peers": self.peering.faults.told() if self.peering else {},
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

    def running(self) -> AbstractAsyncContextManager[None]:
        """Runs what the node does besides answering requests. Entering never waits for anything outside this process."""
        self.open_again()
        return self.supervisor.running()


def _backend_of(settings: Settings) -> Backend:
    from .backends import open_backend

    return open_backend(settings)
