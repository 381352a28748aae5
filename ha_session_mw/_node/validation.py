"""Validate tokens on one node, against the local view. ``resolving.py`` waits and asks others where that does not suffice.

The accept rule (``_core/accept_rule.py``) alone accepts a token. This file decides which verifications are cached, and which readings
of the clocks and the view go into the rule. It decides when the rule need not be asked again.
The edge (``asgi``) takes tokens in and forms refusals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from .._core.accept_rule import ACCEPT, Accept, CannotTell, Decision, Refuse, decide, denial
from .._core.cluster.key_use import KeyUse
from .._core.cluster.view import View
from .._core.tally import FAST_S, Tally
from .._core.token.cache import SHARED_FOR_S, VerifiedCache
from .._core.token.tokens import PREFIX, Transport, Verified, last_read, verify
from ..abc import CLOCK_SLACK_MS, Clock, ClusterLog
from ..config import Settings
from ..exceptions import (
    ClockUntrusted,
    KeyNotReached,
    NodeDraining,
    NodeStarting,
    ProblemError,
    SessionRevoked,
    SessionSuperseded,
    StateRollback,
    StateStale,
    TokenInvalid,
)
from ..models import NodeId, SessionId
from .counted_tokens import CountedTokens
from .key_source import KeySource
from .short_way import ShortWay
from .taking_over import taking_over

if TYPE_CHECKING:
    from .devices import Devices

BY_THE_CLOCK = frozenset(("absolute_end", "idle_end", "not_before"))
"""The steps of the accept rule that a wrong wall clock lets fail."""
REFRESH_EVERY_MS = 1000.0
"""How often the keys are looked at, at most, where no background task does so."""
Accepted = tuple[Verified, bool, float, float, float]
"""An accepted token; whether its verification was cached; the wall clock before that; and, now, the wall clock and the boot-time clock."""
RELAXED_LIMIT_S = 60.0
"""How old the view may be for a request to a path in ``HA_SESSION_RELAXED``: such paths stay served through a short outage."""


class TokenValidator:
    """Validates the tokens that come to one node. Call :meth:`follow` first.

    Args:
        settings: whether cookies of Starlette's middleware are taken over, and the absolute timeout.
        clock: measures the age of tokens and of the view.
        view: this node's knowledge.
        keys: the key ring, which verifies signatures.
        cache: keeps verified tokens. The decision is never cached.
        refresh: brings the keys up to date; called before a verification, once in :data:`REFRESH_EVERY_MS` at most.
        node: returns the name of this node.
        key_use: remembers which keys the members have, and which this node lacks.
        has_odd_keys: tells whether most members have other keys than this node.

    Attributes:
        by_peers: how many tokens were accepted because a peer says that they are valid.
        relaxed: how many were accepted by an older view, on a path in ``HA_SESSION_RELAXED``.
        for_peers: how many of the accepted tokens answered a question of another node.
        missed: how many were not in the cache.
        missed_undecided: how many of those missed could not be verified, so that nothing was decided.
        not_accepted: how many decisions were another one than to accept.
        durations: the seconds that validations took, by their way: from the cache, by a signature, by asking peers, on the owner. Of the
            first two, one in :data:`SAMPLE_EVERY` is measured.
        short_way: recalls the tokens in the cache that the accept rule has accepted under the present view. If it returns None, the
            other methods must say more.
        on_sample: called with one of :data:`SAMPLE_EVERY` accepted tokens. It returns at once.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        view: View,
        keys: KeySource,
        cache: VerifiedCache,
        *,
        refresh: Callable[[], None],
        node: Callable[[], NodeId],
        key_use: Callable[[], KeyUse],
        has_odd_keys: Callable[[], bool],
    ) -> None:
        self.by_peers = self.relaxed = self.for_peers = self.missed_undecided = self.not_accepted = 0
        self.durations = {path: Tally(FAST_S) for path in ("cached", "verify", "peer", "forward")}
        self.on_sample: Callable[[Accepted], None] | None = None
        self._accepted, self._missed = CountedTokens(clock.wall_s), CountedTokens(clock.wall_s)
        self._accepted.begin()
        self._clock = clock
        self._boot_s, self._wall_s = clock.boot_s, clock.wall_s
        self._view = view
        self._keys = keys
        self._cache = cache
        self._cached: Callable[[bytes | None], Verified | None] = cache.entries.get  # type: ignore[assignment] # no entry has the key None
        self._refresh = refresh
        self._refreshed_ms = -math.inf
        self._node = node
        self._key_use = key_use
        self._has_odd_keys = has_odd_keys
        self._absolute_ms = int(settings.absolute_timeout * 1000)
        self._takes_over = taking_over(settings, began_ms=clock.wall_s() * 1000)

    def follow(self, log: ClusterLog, *, devices: Devices | None) -> None:
        """Validate by this log from now on.

        Args:
            log: brings the view up to date.
            devices: notes that a session was used; None if log-ins are not recorded.
        """
        self._log = log
        self._poll_now = log.poll_now
        self._devices = devices
        self.short_way = ShortWay(
            self._cached,
            self._accepted,
            self._view,
            log.poll_now,
            is_within_lease=self._is_within_lease,
            recall_sample=self._recall_sample,
        )

    # A token that came with a request

    def validate(self, token: bytes) -> Verified | CannotTell:
        """Return the claims of a token if its session is valid, or a :class:`CannotTell` if this node cannot tell at this moment.

        Args:
            token: the token, which is the key under which it is cached, too.

        Raises:
            ClientFault: the session is not valid, or the token is not one of this service.
        """
        return self.validate_cached(token) or self.validate_new(token, token)

    def validate_cached(self, key: bytes) -> Verified | CannotTell | None:
        """Do as :meth:`validate` for a token or field in the cache; return None for any other."""
        verified = self._cached(key)
        if verified is None:
            return None
        if self.short_way.recall(key, verified.transport) is not None:
            return verified
        if self._poll_now is not None:
            self._poll_now()
        view = self._view
        fresh_at = view.fresh_at  # first of all, see ``decide``
        generation = view.generation
        wall_s = self._wall_s()
        if wall_s >= verified.until_s:
            return None
        outcome = self._decide(verified, fresh_at, wall_s * 1000)
        if outcome is verified:
            verified.generation = generation
        return outcome

    def recall_from(self, field: bytes, key: bytes, transport: Transport) -> None:
        """Let :attr:`short_way` find an accepted token by a header field that carries other cookies besides.

        Args:
            field: the only field of its request that can carry a token. It carries one.
            key: the key under which that token was validated.
            transport: of the field.
        """
        verified = self._cached(key)
        if verified is not None:
            self._cache.put_beside(field, verified, self._wall_s(), transport)

    def validate_new(self, token: bytes, key: bytes, transport: Transport | None = None) -> Verified | CannotTell:
        """Do as :meth:`validate` for a token that is not in the cache under this key.

        Args:
            token: the token.
            key: the token, or the header field that carries it and nothing else.
            transport: of that field.
        """
        begun_s = None
        for now_s in self._missed.readings:  # noqa: B007 - counted and read in one step, as by the short way
            break
        else:
            begun_s = self._boot_s()
            self._missed.begin()
            now_s = next(self._missed.readings)
        try:
            if self._poll_now is not None:
                self._poll_now()
            view, cache = self._view, self._cache
            fresh_at = view.fresh_at  # first of all, see ``decide``
            generation = view.generation
            from_s, until_s = cache.times
            if not 0.0 <= now_s - from_s < SHARED_FOR_S:
                from_s, until_s = cache.begin_times(now_s)
            wall_ms = now_s * 1000
            try:
                if self._takes_over is None and 0.0 <= wall_ms - self._refreshed_ms < REFRESH_EVERY_MS:  # as in ``_verify``
                    verified = verify(token, self._keys.ring, self._absolute_ms, key, transport, from_s, until_s)
                else:
                    verified = self._verify(token, wall_ms, key, transport, from_s, until_s)
            except ProblemError as problem:
                self.missed_undecided += 1
                if isinstance(problem, KeyNotReached):
                    return CannotTell(self._cannot_verify(problem, token))
                raise
            text, _, first = last_read[0]
            if text is key:  # as for each token that was read from this key just now
                cache.keep(key, verified, first, now_s)
            else:
                cache.put(key, verified, now_s, transport)
            outcome = self._decide(verified, fresh_at, wall_ms)
            if outcome is verified:
                verified.generation = generation
                if self._devices is not None:
                    self._devices.note(verified)
            return outcome
        finally:
            if begun_s is not None:
                self.durations["verify"].observe(self._boot_s() - begun_s)

    def validate_relaxed(self, token: bytes) -> tuple[Verified, float]:
        """Do as :meth:`validate` by a view that may be up to a minute old; return the age of the view in seconds, too.

        Raises:
            ProblemError: the session is not valid, or even this rule cannot tell.
        """
        fresh_at = self.fresh_at()
        verified = self._verify(token, self._wall_s() * 1000)
        boot_s = self._boot_s()
        decision = decide(verified, self._view, fresh_at, boot_s, self._wall_s() * 1000, RELAXED_LIMIT_S)
        if not isinstance(decision, Accept):
            if decision.problem.check in BY_THE_CLOCK and self._trusted_clocks() is None:
                raise self._not_serving() or _clock_untrusted()
            raise decision.problem
        self.relaxed += 1
        return verified, boot_s - fresh_at

    def _decide(self, verified: Verified, fresh_at: float, wall_ms: float) -> Verified | CannotTell:
        log = self._log
        boot_s = 0.0
        if fresh_at != math.inf:  # infinity means that there is no other node to lose contact with
            boot_s = self._boot_s()
            # NaN, which asks for ``trusts_clock``, is never within the slack.
            if not -CLOCK_SLACK_MS <= wall_ms - boot_s * 1000 - log.trusted_ahead_ms <= CLOCK_SLACK_MS:
                clocks = self._trusted_clocks()
                if clocks is None:
                    return CannotTell(self._not_serving() or _clock_untrusted())
                boot_s, wall_ms = clocks
                if fresh_at == -math.inf:  # a log of one machine is fresh again once its clock is trusted
                    fresh_at = self._view.fresh_at
        decision = decide(verified, self._view, fresh_at, boot_s, wall_ms, log.freshness_limit_s)
        if decision is ACCEPT:
            for _ in self._accepted.left:
                break
            else:
                self._accepted.begin()
                next(self._accepted.left)
                self._leave_sample(verified, wall_ms / 1000, is_cached=False)
            return verified
        self.not_accepted += 1
        if isinstance(decision, Refuse):
            # The short way read no clock but the wall's. If that was set, it ends no session.
            if decision.problem.check in BY_THE_CLOCK and self._trusted_clocks() is None:
                return CannotTell(self._not_serving() or _clock_untrusted())
            raise decision.problem
        assert isinstance(decision, CannotTell)  # noqa: S101 - ACCEPT is the only Accept
        not_serving = self._not_serving()
        return CannotTell(not_serving) if not_serving else decision

    def _is_within_lease(self, fresh_at: float, wall_s: float) -> bool:
        """Whether a view is recent enough, and the cluster vouches for the wall clock. If not, the long way finds out what to do."""
        log, boot_s = self._log, self._boot_s()
        # NaN, which asks for ``trusts_clock``, is never within the slack.
        is_trusted = -CLOCK_SLACK_MS <= (wall_s - boot_s) * 1000 - log.trusted_ahead_ms <= CLOCK_SLACK_MS
        return is_trusted and boot_s - fresh_at <= log.freshness_limit_s

    @property
    def missed(self) -> int:
        """How many tokens were not in the cache."""
        return len(self._missed)

    @property
    def accepted(self) -> int:
        """How many tokens were accepted."""
        return len(self._accepted) + self.by_peers

    def _recall_sample(self, key: bytes | None, transport: Transport | None) -> Verified | None:
        """Recall a token that is a sample if it is accepted."""
        begun_s = self._wall_s()
        self._accepted.begin()
        verified = self.short_way.recall(key, transport)
        if verified is not None:
            self._leave_sample(verified, begun_s, is_cached=True)
        return verified

    def _leave_sample(self, verified: Verified, begun_s: float, *, is_cached: bool) -> None:
        if self.on_sample is not None:
            self.on_sample((verified, is_cached, begun_s, self._wall_s(), self._boot_s()))

    def validate_for_peer(self, token: bytes) -> Verified | CannotTell:
        """Do as :meth:`validate` for the question of another node."""
        outcome = self.validate(token)
        self.for_peers += isinstance(outcome, Verified)
        return outcome

    def fresh_at(self) -> float:
        """Return how fresh the view is, after it has taken in what is known elsewhere by now."""
        if self._poll_now is not None:
            self._poll_now()
        return self._view.fresh_at

    def _trusted_clocks(self) -> tuple[float, float] | None:
        """Return the readings of both clocks (seconds, milliseconds); None if the cluster does not vouch for them."""
        if not self._log.trusts_clock():
            return None
        boot_s, wall_ms = self._boot_s(), self._wall_s() * 1000
        # The verdict concerns an earlier reading: the process may have been paused since, and its clock set.
        moved_ms = wall_ms - boot_s * 1000 - self._log.trusted_ahead_ms
        # NaN, if another thread has heard of the members since, is never within the slack.
        return (boot_s, wall_ms) if abs(moved_ms) <= CLOCK_SLACK_MS else None

    def trusted_wall_ms(self) -> float | None:
        """Return the wall clock in milliseconds; None if the cluster does not vouch for it."""
        clocks = self._trusted_clocks()
        return None if clocks is None else clocks[1]

    def _not_serving(self) -> NodeStarting | NodeDraining | StateRollback | None:
        """Return why this node can validate no session at all; None if it can."""
        if self._log.has_left():
            return NodeDraining("has left the cluster", check="fresh")
        if self._log.is_set_back():
            return StateRollback("the log is older than the entries that this node has applied", check="fresh")
        return NodeStarting("still learning from the other members", check="fresh") if self._log.is_starting() else None

    # Verification

    def verify(self, token: bytes) -> Verified | None:
        """Return the claims of a token if its signature is good; None otherwise. The session itself may be invalid."""
        try:
            return self._verify(token, self._wall_s() * 1000)
        except ProblemError:
            return None

    def ensure_genuine(self, token: bytes) -> None:
        """Raise :class:`ClientFault` if no member can have issued a token. The session itself may be invalid."""
        with suppress(KeyNotReached):
            self._verify(token, self._wall_s() * 1000)

    def _verify(
        self,
        token: bytes,
        wall_ms: float,
        key: bytes | None = None,
        transport: Transport | None = None,
        from_s: float = -math.inf,
        until_s: float = math.inf,
    ) -> Verified:
        if not 0 <= wall_ms - self._refreshed_ms < REFRESH_EVERY_MS:
            self._refreshed_ms = wall_ms
            self._refresh()
        if self._takes_over is not None and not token.startswith(PREFIX):
            return self._takes_over(token, self._keys.ring, now_ms=wall_ms, issuer=self._node())
        try:
            return verify(token, self._keys.ring, self._absolute_ms, key, transport, from_s, until_s)
        except KeyNotReached as problem:
            raise self._cannot_verify(problem, token) from problem

    def _cannot_verify(self, problem: KeyNotReached, token: bytes) -> KeyNotReached:
        """Return why this node cannot verify a token.

        Raises:
            TokenInvalid: nobody can.
        """
        if problem.check == "key" and self._nobody_has_key(token):
            raise TokenInvalid(problem.reason, check=problem.check) from problem
        return problem

    def _nobody_has_key(self, token: bytes) -> bool:
        """Whether it is certain that no member could have signed a token."""
        kid = token.split(b".")[2].decode()
        if kid in self._view.denied_keys:
            return True  # nobody accepts it
        boot_s = self._boot_s()
        if any(kid in kids for kids in self._log.announced_kids()):
            self._key_use().lack(kid, boot_s)
            return False
        # Another member that this node has not heard of, or not lately, may have the key.
        return self._is_fresh() and self._log.hears_all_kids() and not self._key_use().remembers(kid, boot_s)

    def _is_fresh(self) -> bool:
        return self._boot_s() - self.fresh_at() <= self._log.freshness_limit_s

    # A session that was accepted before, or that goes on in a new token

    def revalidate(self, verified: Verified) -> Decision:
        """Return the accept rule's decision on a verified token, by the present clocks and view."""
        fresh_at = self.fresh_at()
        clocks = self._trusted_clocks()
        if clocks is None:
            return denial(verified, self._view) or CannotTell(_clock_untrusted())  # a known denial needs no clock
        return decide(verified, self._view, fresh_at, *clocks, self._log.freshness_limit_s)

    def may_be_valid(self, verified: Verified) -> bool:
        """Whether a session may be valid: False only if it certainly is not."""
        return not isinstance(self.revalidate(verified), Refuse)

    def why_revoked(self, verified: Verified) -> SessionRevoked | SessionSuperseded | None:
        """Return why a session is revoked with all its ids. None if it is not, or only under an id that it had once."""
        decision = self.revalidate(verified)
        if not isinstance(decision, Refuse) or not isinstance(decision.problem, SessionRevoked | SessionSuperseded):
            return None
        family = msgspec.structs.replace(verified.claims, sid=SessionId(verified.family))
        return decision.problem if isinstance(self.revalidate(Verified.of(family, verified.kid)), Refuse) else None

    def why_superseded(self, verified: Verified) -> SessionSuperseded | None:
        """Return how another session, or another id, has taken the place of a session with all its ids. None if that is not so."""
        superseded = self._view.superseded
        sid, family = verified.ids()
        if sid not in superseded and family not in superseded:  # a log-out asks, mostly about a session that is valid
            return None
        problem = self.why_revoked(verified)
        return problem if isinstance(problem, SessionSuperseded) else None

    def ensure_valid(self, verified: Verified, *, new_id: bool) -> None:
        """Run the accept rule again: a session that was revoked meanwhile must not escape into a new token.

        Args:
            verified: the token that came with the request.
            new_id: whether the session takes a new id.

        Raises:
            ProblemError: the session is not valid; or it takes a new id, and its validity cannot be known.
        """
        decision = self.revalidate(verified)
        if isinstance(decision, Refuse) or (new_id and isinstance(decision, CannotTell)):
            raise decision.problem

    def ensure_fresh(self) -> None:
        """Raise unless this node may issue tokens. One that lists too few cuts would be refused once the node hears of them.

        Raises:
            NodeStarting, NodeDraining, StateRollback, ClockUntrusted, StateStale, KeyNotReached: why it may not.
        """
        if not_serving := self._not_serving():
            raise not_serving
        if not self._log.trusts_clock():
            raise _clock_untrusted()
        if not self._is_fresh():
            raise StateStale("out of contact for longer than the freshness limit", check="fresh")
        if self._has_odd_keys():
            raise KeyNotReached("most members could not validate a token of this node", check="key")


def _clock_untrusted() -> ClockUntrusted:
    return ClockUntrusted("the wall clock was set by more than 30 s, or differs from the other nodes' by more", check="fresh")
