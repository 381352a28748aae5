"""The parts of a node: opens all of them in order, once, and again after a fork, and connects them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .._core.cluster.key_use import KeyFit, KeyUse
from .._core.cluster.members import version_for
from .._core.cluster.routing import nearest
from .._core.cluster.view import View
from .._core.token.cache import VerifiedCache
from .._core.token.keys import KeyRing
from .._machine import forks
from .._machine.port_mates import PortMates
from .._settings.setting import variable
from ..abc import Backend, Clock, ClusterLog, LockService, SessionStore, ignore
from ..config import Settings
from ..events import ClusterEvent, Diverged
from ..exceptions import ConfigurationError, RecordLost
from ..models import Claims, Entry
from ..version import PROTOCOL
from . import census, peer_copies
from .draining import Draining
from .error_statistics import ErrorStatistics
from .growth import Growth
from .identity import fields_naming, new_node_id, own_heartbeat
from .issuing import Issuer, cookie_writer
from .journal import open_journal
from .key_source import KeySource
from .listeners import Listeners
from .locks import Locks
from .notes import Notes
from .once import OnceKeeper
from .ownership import Ownership
from .pace import LogInPace
from .record_copies import RecordCopies
from .records import Records
from .recoveries import Recoveries
from .resolving import Resolver
from .revocation import Revoker
from .sampling import Sampling
from .second_look import FENCED, Fences, SecondLook
from .security_log import SecurityLog
from .session_data import SessionData
from .shared_cuts import SharedCuts
from .standing import StandingLog, farthest_skew_s
from .supervisor import Supervisor, Task
from .validation import TokenValidator

if TYPE_CHECKING:
    import httpx2

    from .._peering.peering import Peering
    from .._peering.server import PeerServer
    from .devices import Devices
    from .lookups import LookUps
    from .recent_log_outs import RecentLogOuts


class Wiring(ABC):
    """The parts of one process as a node of the cluster.

    Args:
        settings: of the node.
        backend: keeps the shared log, records and locks.
        clock: the two clocks.
        random: makes n random bytes.
        peer_transport: carries the calls to other nodes; None for the network.

    Attributes:
        node_id: the node's name; a forked process has another one.
        node_fields: the header field that names the node in its answers; none for a node alone without a given name.
        view: the node's knowledge of the cluster.
        supervisor: runs the background tasks.
        draining: the way out of service.
        cookie: writes the session cookie.
        errors: counts the refusals.
        sampling: looks closer at some of the requests.
        standing: tells an operator in the log whether the node serves.
        divergences: how often two members read the log differently.
        random: makes n random bytes.
        peer_transport: carries the calls to other nodes; None for the network.
        recent_log_outs: the newest log-outs, for the page of operators; None unless ``HA_SESSION_UI`` is on.
        listeners: all listeners to the cluster on this node.
        keys: the key ring, kept up to date.
        cache: verified tokens.
        validator: validates tokens.
        log: the cluster's log.
        peering: calls between the nodes; None without ``HA_SESSION_ADVERTISE_URL``.
        look_ups: asks peers about tokens; None without peering.
        ownership: finds the owner of a session, and the node from which it came.
        locks: the locks.
        copies: this node's copies of session records.
        records: the session records; None if the backend has no store.
        issuer: issues tokens.
        data: session data, in tokens or records.
        revoker: logs out.
        security: the security log.
        pace: the pace of log-ins.
        recoveries: what the node lacked of sessions, and rebuilt or lost.
        growth: how many log-outs the node remembers.
        notes: what all nodes know of some ids for a while.
        devices: recorded log-ins; None unless ``HA_SESSION_TRACK`` is on.

    Raises:
        ConfigurationError: the settings cannot be used with this backend, or a file cannot be used.
    """

    log: ClusterLog
    peering: Peering | None
    look_ups: LookUps | None
    ownership: Ownership
    locks: Locks
    copies: RecordCopies
    records: Records | None
    issuer: Issuer
    data: SessionData
    revoker: Revoker
    devices: Devices | None
    _port_mates: PortMates | None

    def __init__(
        self,
        settings: Settings,
        backend: Backend,
        *,
        clock: Clock,
        random: Callable[[int], bytes],
        peer_transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.settings = settings
        self.backend = backend
        self.clock = clock
        self.random = random
        self.peer_transport = peer_transport
        self._take_name()
        self.view = View(on_news=self._hear)
        self.supervisor = Supervisor(clock)
        self.draining = Draining(clock, settings.drain_delay, lambda: self.log)
        self.listeners = Listeners(self.view, clock, every_s=settings.heartbeat)
        self.keys = KeySource(settings, clock.boot_s())
        self.key_use = KeyUse(clock.boot_s())
        self.security = SecurityLog(lambda: self.keys.ring, clock, lambda: self.node_id)
        self.recoveries = Recoveries(self.listeners.tell)
        self.errors = ErrorStatistics(
            clock, report=self.security.refused, alarm=self.security.logged_out_by_infrastructure, is_certain=self._is_certain
        )
        self.growth = Growth(self.view, clock)
        self.notes = Notes(clock, log=lambda: self.log, is_leaving=lambda: self.draining.begun)
        self.pace = LogInPace(clock, per_subject=settings.logins_per_subject, per_address=settings.logins_per_address)
        self.cache = VerifiedCache(settings.cache_size, settings.cache_bytes, self._cache_ttl_s())
        self.validator = TokenValidator(
            settings,
            clock,
            self.view,
            self.keys,
            self.cache,
            refresh=self._refresh_by_hand,
            node=lambda: self.node_id,
            key_use=lambda: self.key_use,
            has_odd_keys=lambda: self.key_fit().is_odd,
        )
        self.resolver = Resolver(self.validator, settings, clock, recover=self.recoveries.recover)
        self.sampling = Sampling(self.validator, lambda: self.second_look)
        self.divergences = 0
        self.standing = StandingLog(
            clock,
            why_not=self._why_out_of_service,
            skew_s=lambda: farthest_skew_s(self.log),
            key_fit=self.key_fit,
            lacked_keys=self.lacked_keys,
            shared_names=self.shared_names,
        )
        self._has_served = False
        self._refresh_at_s = -math.inf
        self._had_quorum_s = -math.inf
        self._entry_callbacks: list[Callable[[Sequence[Entry]], None]] = [
            self.listeners.on_news,
            self.growth.on_news,
            self.notes.on_news,
        ]
        self._tick_callbacks: list[Callable[[float | None], None]] = [lambda _: self.listeners.find(), self.notes.forget]
        self._added_tasks: list[tuple[str, Task]] = []
        self._is_open = False
        self.recent_log_outs = self._remember_log_outs() if settings.ui == "on" else None
        self.administration: PeerServer | None = None
        """Answers operators; None until the first of them calls. A forked process gets another, or both could take the same call."""
        self.second_look: SecondLook | None = None
        self.open()
        forks.watch(self)
        census.add(self)

    def _take_name(self) -> None:
        self.node_id = new_node_id(self.settings, self.backend, self.random)
        self.node_fields = fields_naming(self.node_id, self.backend, is_given=self.settings.node_id is not None)

    def _cache_ttl_s(self) -> float:
        """One minute at most where log-ins are recorded: a session is then validated anew and its use noted; other requests pay nothing."""
        if self.settings.track == "off":
            return self.settings.cache_ttl
        from .devices import NOTE_EVERY_S

        return min(self.settings.cache_ttl, NOTE_EVERY_S)

    # Opening

    def open(self) -> None:
        """Open everything, unless this process has done so since the last fork. Waits for nobody.

        Raises:
            ConfigurationError: a setting cannot be used with this backend, or a file cannot be used.
        """
        if self._is_open:
            return
        entries = [*self.view.entries()]
        self.view.start_anew()
        self._open()
        self._is_open = True
        # Entries that were known to this process alone, such as those of memory://. No denial is lost.
        if alone := [entry for entry in entries if not self.view.knows(entry)]:
            self.log.apply(alone)

    def _open(self) -> None:
        self.supervisor = Supervisor(self.clock)
        self.records = None  # the log has news as soon as it opens
        self.recoveries.begin(self.clock.wall_s() * 1000)
        self.fences = Fences(self.clock)
        life = self.random(16).hex()
        self._open_peering(life)
        self._open_log(life)
        locks = self.backend.open_locks(self.clock)
        self.locks = Locks(locks, self.clock, self.backend.scheme, require_loop=self.require_loop)
        self.supervisor.add("locks", self.locks.run)
        self._open_records(locks)
        self._open_sessions()
        self._open_devices(locks)
        self._open_once(locks)
        self._open_second_look()
        self.validator.follow(self.log, devices=self.devices)
        self.resolver.follow(self.log, hears_others=self.backend.hears_others, look_ups=self.look_ups)
        for name, task in self._added_tasks:
            self.supervisor.add(name, task)

    def _open_peering(self, life: str) -> None:
        settings = self.settings
        if settings.routing != "serve" and not self.backend.hears_others:
            raise ConfigurationError([f"HA_SESSION_ROUTING={settings.routing!r}: nodes on {self.backend.scheme}:// do not know each other"])
        self.peering = self.look_ups = None
        if settings.advertise_url is None:
            return
        from .._peering.forward import WHO
        from .._peering.peering import Peering  # a node alone needs neither HTTP nor TLS
        from .lookups import LookUps, answering

        self.peering = peering = Peering(
            settings,
            life,
            self.peer_keys,
            self.clock,
            on_fault=self.security.peer_fault,
            on_unsigned=self.security.stranger_refused,
            may_answer=lambda: not self.draining.begun and self.log.why_not_ready() is None,
            transport=self.peer_transport,
        )
        self.look_ups = LookUps(peering.call, self.clock, peering.faults, timeout_s=settings.peer_timeout, version_for=self._version_for)
        peering.handle("lookup", answering(self.validator.validate_for_peer))
        if peering.forwarded is not None:
            peering.forwarded.handle(WHO, self._say_who)
        peering.handle(FENCED, self.fences.answering())
        self.supervisor.add("peering", peering.run)
        self.supervisor.add("lookups", self.look_ups.run)

    def _version_for(self, url: str) -> int:
        """Return the version of the protocol in which to ask a member."""
        return next((version_for(PROTOCOL, member) for member in self.log.members() if member.url == url), PROTOCOL.lowest)

    async def _say_who(self, _: bytes) -> bytes:
        return self.node_id.encode()

    def peer_keys(self) -> KeyRing:
        """Return the keys for calls between nodes, and of operators. A thief of a key acts as one until the key is revoked."""
        denied = self.view.denied_keys
        return self.keys.ring.without(denied) if denied else self.keys.ring

    def _open_log(self, life: str) -> None:
        own = own_heartbeat(self.settings, self.node_id, life, self.keys.ring.kids)
        self.ownership = Ownership(own, self.backend, lambda: self.log, self.clock)
        self.log = self.backend.open_log(self.view, self.clock, own, self.peering, on_event=self._on_event)
        self.listeners.follow(self.log)
        self.supervisor.add("listeners", self.listeners.run)
        self.supervisor.add("log", self.log.run)
        self.supervisor.add("keeping up", self._keep_up)
        self._port_mates = None
        if self.backend.takes_workers and self.backend.hears_others:
            self._port_mates = PortMates()
            self.supervisor.add("port mates", self._tell_port_mates)

    def _open_second_look(self) -> None:
        own_url = self.settings.advertise_url
        counted = self.second_look.accepts_after_revocation if self.second_look is not None else 0
        self.second_look = SecondLook(
            self.view,
            self.clock,
            self.fences,
            peers=lambda: {one.url: version_for(PROTOCOL, one) for one in self.log.members() if one.url not in ("", own_url)},
            call=self.peering.call if self.peering is not None else None,
            report=self.security.accepted_after_log_out,
            take_in=self.sampling.take_in,
        )
        self.second_look.accepts_after_revocation = counted
        self.supervisor.add("second look", self.second_look.run)

    def _on_event(self, event: ClusterEvent) -> None:
        self.divergences += isinstance(event, Diverged)
        self.ownership.on_event(event)
        self.listeners.on_event(event)

    def _open_records(self, locks: LockService | None) -> None:
        settings, peering = self.settings, self.peering
        self.copies = copies = RecordCopies(self.clock, most=settings.cache_size, max_bytes=settings.cache_bytes, ttl_s=settings.cache_ttl)
        store = self.backend.open_store("session", self.clock, locks, on_newer=copies.hear, on_gap=copies.forget_all)
        if settings.data == "store":
            store = self._required(store, by="data")
        if store is None:
            return
        asking = None
        if peering is not None:
            asking = peer_copies.asking(peering, self.clock, timeout_s=settings.peer_timeout, version_for=self._version_for)
        self.records = Records(store, copies, self.clock, self.recoveries, asking=asking)
        if peering is not None:
            peering.handle("record", self.records.peer_copies.on_question)
        self.supervisor.add("records", self.records.run)

    def _open_sessions(self) -> None:
        settings, records = self.settings, self.records
        self.issuer = issuer = Issuer(
            settings,
            cookie_writer(settings),
            self.clock,
            self.log,
            self.view,
            ring=lambda: self.keys.ring,
            node=lambda: self.node_id,
            random=self.random,
            max_stored_bytes=records.max_data_bytes if records is not None else None,
        )
        self.data = SessionData(
            issuer,
            records,
            why_revoked=lambda claims: self.validator.why_revoked(issuer.as_signed(claims)),
            peers=lambda claims: nearest(claims.sid, self.log.members(), issuer=claims.issuer, but=settings.advertise_url or ""),
            learn_all=self.resolver.learn_all,
            end=self._end_lost if settings.when_lost == "end" else None,
        )
        self.revoker = Revoker(
            self.log,
            self.view,
            self.data,
            self.clock,
            open_journal(settings),
            ring=lambda: self.keys.ring,
            random=self.random,
            require_loop=self.require_loop,
            report=self._report_log_out,
            fences=self.fences,
            shared_cuts=SharedCuts(self.clock, self.pace),
        )
        self.revoker.load()
        self.supervisor.add("revocations", self.revoker.run)
        self.supervisor.add("notes", self.notes.run)

    def _remember_log_outs(self) -> RecentLogOuts:
        from .recent_log_outs import RecentLogOuts  # only for the page

        recent = RecentLogOuts(
            self.clock, pseudonym=self.security.pseudonym, is_starting=lambda: not self._is_open or self.log.is_starting()
        )
        self._entry_callbacks.append(recent.on_news)
        return recent

    def _report_log_out(self, entry: Entry, mode: str) -> None:
        self.security.logged_out(entry, mode)
        if self.recent_log_outs is not None:
            self.recent_log_outs.acknowledged(entry, mode)

    async def _end_lost(self, claims: Claims) -> None:
        """Log out a session whose data is lost, as the settings want it.

        Raises:
            RecordLost: always, once it is logged out.
            QuorumLost: the log-out could not be made durable.
        """
        self.recoveries.lose(claims, ended=True)  # in any case: this node enforces a log-out that is not durable, too
        await self.revoker.revoke_session(claims)
        raise RecordLost("the store has lost the session's record", check="record")

    def _open_devices(self, locks: LockService | None) -> None:
        settings = self.settings
        self.devices = None
        if settings.track != "on":
            return
        from .devices import Devices

        store = self.backend.open_store("device", self.clock, locks, on_newer=ignore, on_gap=ignore)
        self.devices = Devices(
            self._required(store, by="track"),
            self.clock,
            may_be_valid=self.validator.may_be_valid,
            most=settings.max_sessions,
            refuse=settings.when_full == "refuse",
            keep_address=settings.track_address,
        )
        self.supervisor.add("devices", self.devices.run)

    def _open_once(self, locks: LockService | None) -> None:
        def open_store() -> SessionStore | None:
            return self.backend.open_store("once", self.clock, locks, on_newer=ignore, on_gap=ignore)

        self.once = OnceKeeper(open_store, self.supervisor.add, self.clock)

    def _required(self, store: SessionStore | None, *, by: str) -> SessionStore:
        if store is None:
            raise ConfigurationError([f"{variable(by)}={getattr(self.settings, by)!r}: {self.backend.scheme}:// has no store"])
        return store

    @abstractmethod
    async def _keep_up(self) -> None:
        """Keep the parts up to date until cancelled."""

    @abstractmethod
    async def _tell_port_mates(self) -> None:
        """Tell the other workers behind this port how far this one is, until cancelled."""

    @abstractmethod
    def _refresh_by_hand(self) -> None:
        """Bring the parts up to date if nothing else does."""

    @abstractmethod
    def _why_out_of_service(self) -> str | None:
        """Why the node refuses everybody, although it has served and is not about to stop; None otherwise."""

    @abstractmethod
    def key_fit(self) -> KeyFit:
        """How this node's keys go together with the other live members'."""

    @abstractmethod
    def lacked_keys(self) -> list[str]:
        """A line for each key that this node needs and does not have."""

    @abstractmethod
    def shared_names(self) -> tuple[str, ...]:
        """The names that several live members have."""

    @abstractmethod
    def _is_certain(self, check: str) -> bool:
        """Whether the node can be sure of a refusal by this step of the accept rule."""

    @abstractmethod
    def before_fork(self) -> None:
        """Called before this process forks."""

    @abstractmethod
    def after_fork(self, *, in_child: bool) -> None:
        """Called in both processes after a fork."""

    # Callbacks

    def add_task(self, name: str, task: Task) -> None:
        """Run a coroutine function as long as the node runs, in a forked process, too."""
        self._added_tasks.append((name, task))
        self.supervisor.add(name, task)

    def on_entries(self, callback: Callable[[Sequence[Entry]], None]) -> None:
        """Call a function with the entries of the log that are news to this node: with one, or with a part of many."""
        self._entry_callbacks.append(callback)

    def on_tick(self, callback: Callable[[float | None], None]) -> None:
        """Call a function once a second while the node runs, with the wall clock in milliseconds, or None if it is not trusted."""
        self._tick_callbacks.append(callback)

    def _hear(self, entries: Sequence[Entry]) -> None:
        if self.records is not None:
            self.records.deletions.on_news(entries)
        for callback in self._entry_callbacks:
            callback(entries)

    def require_loop(self) -> None:
        """Raise UsageError in an event loop other than the node's, if callers would wait there for other nodes."""
        if self.backend.hears_others:
            self.supervisor.require_loop()
