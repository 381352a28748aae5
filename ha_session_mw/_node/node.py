"""One process as a node of the cluster: runs its parts, keeps them up to date, and becomes another node in a forked process.

The middleware, the session and the manager work with a :class:`Node`; the manager is its public face.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from .._core.accept_rule import ACCEPT
from .._core.cluster.key_use import KeyFit, KeyUse, fit_of, told_apart
from .._core.ticks import until_tick_s
from .._core.token.tokens import Verified
from ..exceptions import NotSupported, UsageError
from ..models import Claims, KeyId
from .draining import DRAINING
from .key_source import LOOK_EVERY_S
from .supervisor import Supervisor
from .validation import BY_THE_CLOCK
from .wiring import Wiring

if TYPE_CHECKING:
    from .devices import Devices

ENDED_AT_ONCE = 2000
"""How many ended tokens are dropped each second, besides those that new ones displace. It takes one or two milliseconds, and a full
cache is empty in a minute."""

NOT_STARTED = (
    "nothing has started this node: SessionMiddleware has not seen a lifespan; "
    "put it around the whole app, and have the server run the lifespan"
)

NO_QUORUM_AFTER_S = 2.0
"""How long it is no news that no majority takes log-outs: a node that has just started is ready before the others have called it."""
NO_QUORUM = "each log-out here is provisional or refused: {}"
PROVISIONAL = "the last {} log-outs here were provisional: a majority takes them too late, because it is busy or far away"
PROVISIONAL_IN_A_ROW = 3
"""So many provisional log-outs are no chance."""
TOLD_APART = "member {} and this node cannot validate each other's tokens"
SHARED_NAME = "several members are named {}; give each node a HA_SESSION_NODE_ID of its own"
OTHER_KEYS = "most members have other keys than this node; give all nodes the same HA_SESSION_SECRET_KEY"

LACKED_KEY = (
    "tokens of key {} come, which this node does not have and member {} has, so it answers 503 key_not_reached or asks a peer each time; "
    "add that key to HA_SESSION_SECRET_KEY_FALLBACKS of this node until ha-session keys retires it"
)

WORKERS_STARTING = "other workers behind this port are still starting"


class Node(Wiring):
    """One process as a node of the cluster; see :class:`Wiring` for its parts."""

    # Forks

    def before_fork(self) -> None:
        """Do nothing: each part that a fork must not double closes itself."""

    def after_fork(self, *, in_child: bool) -> None:
        """Become another node in the child, whose parts are opened anew when it runs, and not before.

        A child that serves nothing must not take a file that its parent needs. A parent that only forks must not keep one.
        """
        if in_child:
            self._take_name()
            self.administration = None
            self.key_use = KeyUse(self.clock.boot_s())
            known, self.supervisor = self.supervisor.known, Supervisor(self.clock)
            self.supervisor.known += known
            if self.backend.hears_others:
                self.view.fresh_at = -math.inf  # the lease was the parent's
        self._is_open &= not in_child and (self.supervisor.is_running or not self.backend.hears_others)

    # Running

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the background tasks. Entering waits for nothing outside this process.

        Raises:
            ConfigurationError: as :meth:`open`.
        """
        self.open()
        if self.supervisor.is_running:  # by an outer middleware of this process
            yield
            return
        self.draining.start_anew()
        async with self.supervisor.running():
            try:
                yield
            except Exception:
                await self.log.leave()
                raise
            await self.log.leave()
        self._is_open &= not self.log.has_left()

    async def _tell_port_mates(self) -> None:
        """Tell the other workers behind the port that this one has learned enough."""
        mates = self._port_mates
        while self.log.is_starting():
            await self.log.wait_changed()
        if mates is not None:
            mates.claim_ready()
            try:
                await anyio.sleep_forever()
            finally:
                mates.close()

    async def wait_started(self) -> None:
        """Return once the node has learned enough to validate sessions, or ``HA_SESSION_START_WAIT`` is over."""
        if not self.supervisor.is_running:
            return  # nothing would start it
        with self.clock.move_on_after(self.settings.start_wait):
            while self.log.is_starting():
                await self.log.wait_changed()

    def require_running(self) -> None:
        """Raise UsageError unless this node runs, if it must hear from other nodes. A log-out would wait for them in vain."""
        if self.backend.hears_others and not self.supervisor.is_running:
            raise UsageError(
                f"nothing runs the node of this manager, so it cannot reach {self.backend.scheme}://: start the app that "
                "SessionMiddleware is around, or enter `async with manager.running():`"
            )

    async def _keep_up(self) -> None:
        while True:
            self.refresh()
            wall_ms = self.validator.trusted_wall_ms()
            if wall_ms is not None:
                self.view.latest_ms = max(self.view.latest_ms, wall_ms)
            self.key_use.look(self.kids_of_members(), self.view.denied_keys, self.clock.boot_s())
            self.standing.look()
            for callback in self._tick_callbacks:
                callback(wall_ms)
            await self.clock.sleep(until_tick_s(self.clock.boot_s(), LOOK_EVERY_S))

    def kids_of_members(self) -> dict[str, tuple[KeyId, ...]]:
        """Return the key ids of each live member, this node first, then the others by name. The newest key of each is first."""
        return told_apart([(str(self.node_id), self.keys.ring.kids), *sorted(self.log.kids_of_others().items())])

    def shared_names(self) -> tuple[str, ...]:
        """Return the names that several live members have, as far as this node knows."""
        names = Counter([self.node_id, *(member.member for member in self.log.members())])
        return tuple(sorted(name for name, count in names.items() if count > 1))

    def key_fit(self) -> KeyFit:
        """Return how this node's keys go together with those of the other live members."""
        return fit_of(str(self.node_id), self.kids_of_members(), self.view.denied_keys)

    def lacked_keys(self) -> list[str]:
        """Return a line for each key that this node needs and does not have, although its keys go together with those of its holders."""
        members, apart, ring = self.kids_of_members(), self.key_fit().apart, self.keys.ring
        found = []
        for kid in self.key_use.lacked(self.clock.boot_s()):
            holders = [name for name, kids in members.items() if kid in kids and name not in apart]
            if holders and kid not in ring.kids:
                found.append(LACKED_KEY.format(kid, ", ".join(holders)))
        return found

    def _refresh_by_hand(self) -> None:
        """Refresh if no background task does."""
        if not self.supervisor.is_running:
            self.refresh()

    def refresh(self) -> None:
        """Bring the keys and the view up to date, once a second at most, unless another thread must do so."""
        now_s = self.clock.boot_s()
        if now_s < self._refresh_at_s or self.supervisor.is_elsewhere():
            return
        self._refresh_at_s = now_s + LOOK_EVERY_S
        if self.keys.refresh(now_s):
            self.cache.clear()
            self.security.keys_changed(self.keys.ring)
            self.log.announce(self.keys.ring.kids)
        self.cache.drop_ended(self.clock.wall_s(), most=ENDED_AT_ONCE)
        self.copies.drop_ended()
        self.view.drop_ended()
        self.growth.look()
        if self.log.is_starting() or self.log.has_quorum():
            self._had_quorum_s = now_s
        self.security.tell_suppressed()
        self.log.tick()

    def _why_out_of_service(self) -> str | None:
        """Return why this node refuses everybody, although it has served and is not about to stop; None otherwise."""
        if self.draining.begun or self.log.is_draining() or self.log.has_left():
            return None
        why = self.log.why_not_ready()
        self._has_served |= why is None
        return why if self._has_served else None

    def why_not_ready(self) -> str | None:
        """Return why this node cannot validate sessions; None if it is ready."""
        if self.draining.begun:
            return DRAINING
        why = self.log.why_not_ready()
        if why is None and self._port_mates is not None and not self._port_mates.are_ready(self.clock.boot_s()):
            return WORKERS_STARTING
        if why is None and self.key_fit().is_odd:
            return OTHER_KEYS
        return NOT_STARTED if why is not None and self.backend.hears_others and not self.supervisor.is_running else why

    def warnings(self) -> list[str]:
        """Return what an operator should mend although this node is ready."""
        exposed, apart = self.log.exposure(), self.key_fit().apart
        told = [f"{TOLD_APART.format(', '.join(apart))}; give all nodes the same HA_SESSION_SECRET_KEY"] if apart else []
        told += self.lacked_keys()
        told += [SHARED_NAME.format(name) for name in self.shared_names()]
        if self.settings.routing != "serve" and self.ownership.shares_its_url():
            told.append(
                "another process announces the HA_SESSION_ADVERTISE_URL of this one, so requests for paths in HA_SESSION_OWNED may get to "
                "either; run one worker for each URL, with a port of its own"
            )
        if (trouble := self.records and self.records.trouble()) is not None:
            told.append(f"session data in the store cannot be reached or changed: {trouble}")
        return [*([exposed] if exposed else []), *self.log.mismatches(), *told, *self._why_provisional()]

    def _why_provisional(self) -> list[str]:
        if not self.log.has_quorum() and self.clock.boot_s() - self._had_quorum_s > NO_QUORUM_AFTER_S:
            return [NO_QUORUM.format(self.log.why_no_quorum())]
        many = self.revoker.provisional_in_a_row
        return [PROVISIONAL.format(many)] if many >= PROVISIONAL_IN_A_ROW else []

    def _is_certain(self, check: str) -> bool:
        if check in BY_THE_CLOCK:
            return self.validator.trusted_wall_ms() is not None
        if check == "key":  # no member has the token's key, as far as a node in contact knows
            return self.clock.boot_s() - self.view.fresh_at <= self.log.freshness_limit_s
        return True

    # Tokens

    def renew(self, verified: Verified, *, at_once: bool = False) -> Claims | None:
        """Return the claims of a renewed token; None if renewal is not due, or is not possible now and happens later.

        Args:
            verified: the token.
            at_once: whether to renew it before that is due, too.
        """
        if (not at_once and self.clock.wall_s() * 1000 < verified.renew_at_ms) or self.validator.revalidate(verified) is not ACCEPT:
            return None
        return self.issuer.renew(verified.claims)

    def sign(self, claims: Claims) -> bytes:
        """Return the token for these claims, and note that the session was used."""
        self.refresh()
        if self.devices is not None:
            self.devices.note(self.issuer.as_signed(claims))
        return self.issuer.sign(claims)

    def require_devices(self) -> Devices:
        """Return the recorded log-ins.

        Raises:
            NotSupported: ``HA_SESSION_TRACK`` is off.
        """
        if self.devices is None:
            raise NotSupported("log-ins are not recorded: set HA_SESSION_TRACK=on, with a HA_SESSION_CLUSTER that has a store")
        return self.devices
