"""Looks again at some of the accepted sessions: was one accepted after its log-out was in force on every node? That must never happen.

A node that hears of a log-out after it has accepted a session has done nothing wrong by itself: the log-out may be later. So the nodes
that acknowledge log-outs remember when each was fenced, and this node asks them. They answer with an age on their own clock, so no
clocks are compared. Only a fence that was certainly over before the decision counts.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from .._core.accept_rule import denial
from .._core.cluster.view import View
from .._core.ticks import until_tick_s
from .._core.token.tokens import Verified
from ..abc import Clock, PeerFailure, PeerHandler
from ..models import Claims, Cut, Deny, Entry
from ..version import PROTOCOL

FENCED = "fenced"
"""The name of the question when log-outs were fenced."""
LOOK_EVERY_S = 1.0
LOOK_SELDOM_S = 5.0
"""The same without samples: the next one is looked at in time all the same."""
LOOKED_FOR_S = 15.0
"""How long a sample is looked at: a fence, and news of it, take some five seconds with the default settings."""
MOST_SAMPLES = 1000
"""Samples that are looked at. A look takes two microseconds each."""
MOST_FENCES = 10_000
"""Log-outs whose fence is remembered: the newest."""
ASK_WITHIN_S = 1.0


class Question(msgspec.Struct, frozen=True, array_like=True):
    """When were these log-outs fenced? They are named by the id that is denied, the cut, or the key."""

    version: int
    names: tuple[str, ...]


class Ages(msgspec.Struct, frozen=True, array_like=True):
    """How many seconds ago the oldest of these fences was over; negative if the node has acknowledged none of them."""

    version: int
    oldest_s: float


_encode = msgspec.msgpack.Encoder().encode
_decode_question = msgspec.msgpack.Decoder(Question).decode
_decode_ages = msgspec.msgpack.Decoder(Ages).decode


class Fences:
    """When the log-outs that this node has acknowledged were fenced.

    Args:
        clock: the boot-time clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._boot_s = clock.boot_s
        self._fenced: OrderedDict[str, float] = OrderedDict()

    def note(self, entry: Entry) -> None:
        """Note that a log-out is fenced now, or was before."""
        name = entry.id if isinstance(entry, Deny | Cut) else entry.kid
        self._fenced.setdefault(name, self._boot_s())
        if len(self._fenced) > MOST_FENCES:
            self._fenced.popitem(last=False)

    def oldest_s(self, names: Sequence[str]) -> float:
        """Return how many seconds ago the oldest of these fences was over; negative if none is known."""
        known = [fenced_s for name in names if (fenced_s := self._fenced.get(name)) is not None]
        return self._boot_s() - min(known) if known else -1.0

    def answering(self) -> PeerHandler:
        """Return the handler that answers other nodes' questions."""

        async def handle(body: bytes) -> bytes:
            try:
                question = _decode_question(body)
            except (ValueError, RecursionError) as exc:
                raise ValueError("no question") from exc
            if question.version not in PROTOCOL:
                return _encode(Ages(PROTOCOL.lowest, -1.0))
            return _encode(Ages(question.version, self.oldest_s(question.names)))

        return handle


class Sample(msgspec.Struct, frozen=True):
    """An accepted session, and the moment of the decision (boot-time clock)."""

    verified: Verified
    decided_s: float


class SecondLook:
    """Looks at samples once a second until each is 15 s old.

    Args:
        view: this node's knowledge.
        clock: the boot-time clock.
        fences: the log-outs that this node has acknowledged.
        peers: returns the URLs of the other members, each with the version of the protocol in which to ask it.
        call: calls another member; None without calls between nodes.
        report: receives the claims of each session that was accepted after its log-out was fenced.
        take_in: notes the samples that wait, called before each look.

    Attributes:
        accepts_after_revocation: how many samples were accepted after a log-out of their session was fenced. Stays 0.
    """

    def __init__(
        self,
        view: View,
        clock: Clock,
        fences: Fences,
        *,
        peers: Callable[[], Mapping[str, int]],
        call: Callable[[str, str, bytes, float], Awaitable[bytes]] | None,
        report: Callable[[Claims], None],
        take_in: Callable[[], None],
    ) -> None:
        self._view = view
        self._clock = clock
        self._fences = fences
        self._peers = peers
        self._call = call
        self._report = report
        self._take_in = take_in
        self._samples: deque[Sample] = deque(maxlen=MOST_SAMPLES)
        self.accepts_after_revocation = 0

    def note(self, verified: Verified, decided_s: float) -> None:
        """Take a sample."""
        self._samples.append(Sample(verified, decided_s))

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._clock.sleep(until_tick_s(self._clock.boot_s(), LOOK_EVERY_S if self._samples else LOOK_SELDOM_S))
            await self.look()

    async def look(self) -> None:
        """Look at all samples. One whose session is revoked by now is looked into, and then no longer a sample."""
        self._take_in()
        over_s = self._clock.boot_s() - LOOKED_FOR_S
        samples, self._samples = self._samples, deque(maxlen=MOST_SAMPLES)  # others come while this node asks
        for sample in samples:
            names = self._denying(sample.verified)
            if not names:
                if sample.decided_s > over_s:
                    self._samples.append(sample)
            elif await self._was_fenced_before(names, sample.decided_s):
                self.accepts_after_revocation += 1
                self._report(sample.verified.claims)

    def _denying(self, verified: Verified) -> tuple[str, ...]:
        """Return the names of the log-outs that deny a session; nothing if none does. An id that was merely replaced has no fence."""
        refusal = denial(verified, self._view)
        if refusal is None or refusal.problem.check == "superseded":
            return ()
        claims, view = verified.claims, self._view
        match refusal.problem.check:
            case "denied":
                return tuple(id for id in (claims.sid, claims.family) if id in view.denied and id not in view.superseded)
            case "key_denied":
                return (verified.kid,)
            case "cut":
                return tuple(self._cuts_against(claims))
            case _:
                return ()

    def _cuts_against(self, claims: Claims) -> list[str]:
        own = self._view.by_subject.get(claims.subject, {}) if claims.subject is not None else {}
        return [id for id, cut in {**self._view.everybody, **own}.items() if id not in claims.cuts and cut.except_family != claims.family]

    async def _was_fenced_before(self, names: Sequence[str], decided_s: float) -> bool:
        """Return whether one of these log-outs was certainly fenced before that moment."""
        age_s = self._fences.oldest_s(names)
        if age_s >= 0:
            return self._clock.boot_s() - age_s < decided_s
        if self._call is None:
            return False
        for peer, version in self._peers().items():
            age_s = await self._ask(peer, names, version)
            # The age was true at some moment until now, so the fence was over by now less the age.
            if age_s >= 0:
                return self._clock.boot_s() - age_s < decided_s
        return False

    async def _ask(self, peer: str, names: Sequence[str], version: int) -> float:
        assert self._call is not None  # noqa: S101 - the caller has looked
        try:
            ages = _decode_ages(await self._call(peer, FENCED, _encode(Question(version, tuple(names))), ASK_WITHIN_S))
        except (PeerFailure, ValueError, RecursionError):
            return -1.0
        return ages.oldest_s if ages.version == version else -1.0
