"""The session manager, one per process: log-outs, devices, locks and events, as an app uses them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from ._core.names import require_name
from ._node.listeners import ROOM, Callback, EventStream
from ._node.locks import LEASE_S, TIMEOUT_S
from ._node.status import status_of
from .abc import Backend, Clock, Grant
from .clocks import SystemClock
from .config import Settings
from .exceptions import SessionUnknown
from .models import Acknowledgement, AnySession, Device, Identified, NodeId

if TYPE_CHECKING:
    import httpx2

    from ._node.node import Node

logger = logging.getLogger("ha_session_mw")


class SessionManager:
    """Logs sessions out, lists devices, gives locks, and reports events of the cluster.

    The middleware makes one by itself; :func:`manager_of` finds it. Methods raise ``TypeError`` or ``ValueError`` for a name, an id
    or a number that cannot be. Log-outs raise ``QuorumLost`` if they are not durable; this node enforces them all the same.
    With ``peers://`` and ``etcd://``, methods that need other nodes raise ``UsageError`` unless the app has started, or the program is
    inside :meth:`running`. Make one by hand to share it between middlewares, or to give it a clock or a backend.

    Args:
        settings: by default the environment's.
        clock: the two clocks; by default the system's.
        random: makes n random bytes.
        peer_transport: carries the calls to other nodes; by default the network.
        backend: keeps the shared log, records and locks; by default the one that ``HA_SESSION_CLUSTER`` names.

    Raises:
        ConfigurationError: the settings cannot be used.
        TypeError: the settings are not a ``Settings``.
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
        settings = settings or Settings.from_environ()
        for advice in settings.advice(os.environ):
            logger.warning("%s", advice)
        from ._node.node import Node  # a program that makes no manager needs no node

        if backend is None:
            from .backends import open_backend

            backend = open_backend(settings)
        self._node = Node(settings, backend, clock=clock or SystemClock(), random=random, peer_transport=peer_transport)

    @property
    def settings(self) -> Settings:
        """The settings of this node."""
        return self._node.settings

    @property
    def clock(self) -> Clock:
        """The two clocks of this node."""
        return self._node.clock

    @property
    def node_id(self) -> NodeId:
        """The name of this node. Each process has its own, a forked one, too."""
        return self._node.node_id

    # Log-outs

    async def revoke_session(self, id: str) -> Acknowledgement:
        """Log out one session, named by its present ``id`` or its ``family``."""
        self._node.require_running()
        return await self._node.revoker.revoke_id(id)

    async def revoke_subject(self, subject: str, *, except_session: AnySession | str | None = None) -> Acknowledgement:
        """Log out all sessions of a subject, on every device.

        Args:
            subject: as given to ``login``.
            except_session: the one that stays logged in: a session, or the ``id`` or ``family`` of one.
        """
        self._node.require_running()
        return await self._node.revoker.revoke_subject(subject, except_session)

    def pseudonym(self, subject: str) -> str:
        """Return the name by which the security log refers to a subject: a keyed hash, which changes with the newest key."""
        return self._node.security.pseudonym(subject)

    async def revoke_everybody(self) -> Acknowledgement:
        """Log out all sessions of all subjects and visitors, after a leak, say. Sessions that begin afterwards are not affected."""
        self._node.require_running()
        return await self._node.revoker.revoke_everybody()

    async def revoke_key(self, kid: str) -> Acknowledgement:
        """Revoke a key that has leaked: no node accepts a token that it signed, old or new.

        Nodes that have another key sign with that key from now on. A node that has no other needs one.

        Args:
            kid: the key's id, as in ``status()``.

        Raises:
            ValueError: no live member has a key of this id.
        """
        self._node.require_running()
        return await self._node.revoker.revoke_key(kid)

    # Devices

    async def sessions_of(self, subject: str) -> list[Device]:
        """Return the devices on which a subject is logged in, the newest log-in first.

        Raises:
            NotSupported: ``HA_SESSION_TRACK`` is off.
            StoreUnavailable: the store cannot be reached.
        """
        require_name(subject, "subject")
        self._node.require_running()
        return await self._node.require_devices().of_subject(subject)

    async def revoke_session_of(self, subject: str, id: str) -> Acknowledgement:
        """Log out one session of a subject, and none of anybody else's.

        Args:
            subject: the owner of the session.
            id: as ``sessions_of`` returns it; any text that a client sends.

        Raises:
            SessionUnknown: the subject has no such session.
            NotSupported: ``HA_SESSION_TRACK`` is off.
            StoreUnavailable: the store cannot be reached.
        """
        self._node.require_running()
        self._node.require_loop()
        require_name(subject, "subject")
        denial = await self._node.require_devices().owned(subject, id)
        if denial is None:
            raise SessionUnknown("not a session of this subject")
        return await self._node.revoker.revoke_family(denial)

    # Locks

    def lock(self, name: str, *, timeout: float = TIMEOUT_S, lease: float = LEASE_S) -> AbstractAsyncContextManager[Grant]:
        """A lock of the app's own, held by one task at a time in the whole cluster: ``async with manager.lock("reports") as grant:``.

        The lock is renewed while the block runs, and released at its end. ``grant.fence`` is the fencing number: give it to a
        store of your own that refuses a lower number than it has seen.

        Args:
            name: 1 to 512 characters. Locks of sessions have names of their own.
            timeout: the longest wait, in seconds. 0: do not wait.
            lease: for how many seconds the lock stays held if this process dies.

        Raises:
            SessionLocked: others held the lock all the time; becomes a 423 with a hint if the app lets it pass.
            LockLost: the lock could not be renewed in time, or this process was paused; the block was cancelled.
            StoreUnavailable: the holder of the lock cannot be known.
            NotSupported: ``peers://`` has no locks.
        """
        self._node.locks.require()
        self._node.require_running()
        return self._node.locks.lock(name, timeout_s=timeout, lease_s=lease)

    # Routing

    def owner_of(self, session: Identified | str) -> NodeId | None:
        """Return the name of the node that owns a session, or None for a visitor without a session. Every node gives the same answer.

        Compare it with ``node_id``. Each session has one owner among the nodes that are ready and not draining, by weighted
        rendezvous hashing. If a node comes or goes, only its own sessions move, and nodes may differ for a second.

        Args:
            session: a session, or the ``id`` of one. The owner changes with the id.

        Raises:
            NotSupported: with ``sqlite://``, nodes do not know each other.
        """
        id: Any = getattr(session, "id", session)  # a str has none
        if id is None:
            return None
        require_name(id, "id")
        self._node.require_running()
        return self._node.ownership.owner_of(id)

    # Events

    def events(self, *, room: int = ROOM) -> EventStream:
        """The events of the cluster from now on, as this node sees them: ``async for event in manager.events()``.

        Any number of listeners may listen, also before the node runs. A stream outlives the end of the node, which may be started again.
        ``room`` is how many events a busy listener may leave unread. Later ones are counted, and reported in their place.
        """
        return self._node.listeners.open(room)

    def on_event(self, callback: Callback, *, room: int = ROOM) -> Callable[[], None]:
        """Call a function or coroutine function with each event, one at a time; return a function that ends this.

        A background task of the running node calls it in the event loop. Events from before wait until the node runs.
        A callback that raises is logged and counted, and called with the next event. ``room`` is as for :meth:`events`.
        """
        return self._node.listeners.call(callback, room)

    # Operation

    def why_not_ready(self) -> str | None:
        """Return why this node cannot validate sessions, in a few words for an operator; None if it is ready."""
        return self._node.why_not_ready()

    async def status(self) -> dict[str, object]:
        """Return the state of this node at a glance, for operators. Holds no ids, subjects or keys."""
        return status_of(self._node)

    async def drain(self) -> None:
        """Take this node out of service; return once its server may stop.

        ``readyz`` answers 503, and the heartbeats say so. Requests and streams go on. The call returns after ``HA_SESSION_DRAIN_DELAY``,
        and once the others have fetched what this node alone had, 2 s later at most. It leaves the cluster when its server stops.
        """
        await self._node.draining.drain()

    def running(self) -> AbstractAsyncContextManager[None]:
        """Run the background tasks of the node inside. Entering waits for nothing outside this process.

        Raises:
            ConfigurationError: in a forked process: the settings cannot be used there.
        """
        return self._node.running()


def node_of(manager: SessionManager) -> Node:
    """Return the node behind a manager, for the middleware, sessions and tests of this package. No part of the public face."""
    return manager._node  # noqa: SLF001 - the one way in
