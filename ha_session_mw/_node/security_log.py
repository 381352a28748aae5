"""The security log: log-ins, log-outs, refusals, key changes, refused peers and limits, as structured records without secrets.

Subjects and sessions appear as keyed hashes. A record never contains a token, a key, an address, a path, or a text that a client sent.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from .._core.calls.rate_limit import RateLimiter
from .._core.token.keys import KeyRing
from ..abc import Clock
from ..exceptions import ProblemError
from ..models import Claims, Cut, Deny, DenyKey, Entry

logger = logging.getLogger("ha_session_mw.security")

PER_S, AT_ONCE = 10.0, 100.0
"""Records of one kind in the long run and in a burst, if a client or a peer can cause them without a session."""
SESSIONS_PER_S, SESSIONS_AT_ONCE = 1000.0, 10_000.0
"""The same for log-ins and log-outs, of which an audit needs each one."""
TELL_EVERY_S = 10.0
"""How often records that were left out are counted in the log, so that a flood that has ended leaves its number."""
PEER_FAULTS = frozenset({"unsigned", "garbage", "incomplete", "lied", "replayed", "turned_away"})
"""The faults of peers that may be attacks."""
PSEUDONYM_LENGTH = 16
"""Characters of a pseudonym: 96 bits, so that two subjects share none by chance."""

_SALT = b"ha_session_mw.security-log.1"


class SecurityLog:
    """Writes the security records of one node.

    Args:
        ring: returns the present key ring. Its newest key makes the pseudonyms.
        clock: its boot-time clock bounds the records.
        node: returns the name of this node.
    """

    def __init__(self, ring: Callable[[], KeyRing], clock: Clock, node: Callable[[], str]) -> None:
        self._ring = ring
        self._clock = clock
        self._node = node
        self._limits: dict[str, RateLimiter] = {}
        self._suppressed: Counter[str] = Counter()
        self._tell_at_s = clock.boot_s() + TELL_EVERY_S

    def pseudonym(self, name: str) -> str:
        """Return the keyed hash of a subject or of a session's family. Nodes with the same newest key return the same one."""
        key = next(iter(self._ring()))
        return key.signer_for(_SALT).get_signature(name.encode("utf-8", "surrogatepass"))[:PSEUDONYM_LENGTH].decode()

    # Sessions

    def logged_in(self, claims: Claims, *, again: bool) -> None:
        """A subject has logged in; ``again``: it has proved itself again in its session."""
        self._session("log_in_again" if again else "log_in", subject=claims.subject, session=claims.family)

    def logged_out(self, entry: Entry, mode: str) -> None:
        """A log-out was acknowledged, was made durable without an acknowledgement, or failed.

        Args:
            entry: the log-out.
            mode: ``fenced``, ``provisional``, ``durable`` or ``failed``.
        """
        match entry:
            case Deny(id=id):
                self._session("log_out", level=_level(mode), reach="session", session=id, mode=mode)
            case Cut(subject=None):
                self._session("log_out", level=logging.WARNING, reach="everybody", mode=mode)
            case Cut(subject=subject, except_family=kept):
                self._session("log_out", level=_level(mode), reach="subject" if kept is None else "others", subject=subject, mode=mode)
            case DenyKey(kid=kid):
                self._write("key_revoked", logging.WARNING, key_id=kid, mode=mode)

    # Broken promises

    def accepted_after_log_out(self, claims: Claims) -> None:
        """A session was accepted after its log-out was fenced."""
        self._session("accept_after_log_out", level=logging.ERROR, subject=claims.subject, session=claims.family)

    def logged_out_by_infrastructure(self, problem: ProblemError) -> None:
        """A refusal ended a session because of a fault of the infrastructure. The record of the refusal itself follows."""
        facts: dict[str, object] = {"code": problem.code, "check": problem.check}
        self._sampled("log_out_by_infrastructure", "log_out_by_infrastructure", logging.ERROR, facts)

    # Refusals

    def refused(self, problem: ProblemError, instance: str | None) -> bool:
        """A request was refused. Return whether that was written: of a flood, only some are.

        Args:
            problem: the reason.
            instance: names the answer, as in its problem document; None if the client got no document.
        """
        is_limit = problem.status in (429, 431) or problem.code in ("session_limit_reached", "token_too_large", "overloaded")
        level = logging.WARNING if is_limit or problem.status >= 500 else logging.INFO
        facts: dict[str, object] = {"code": problem.code, "status": problem.status, "check": problem.check, "instance": instance}
        return self._sampled(problem.code, "limit_hit" if is_limit else "refusal", level, facts)

    def peer_fault(self, peer: str, fault: str) -> None:
        """A peer made a call, or gave an answer, that was refused. Faults of the network are none of this log.

        Args:
            peer: the place of the member in ``HA_SESSION_PEERS``, or ``others``.
            fault: the kind of fault.
        """
        if fault in PEER_FAULTS:
            self._sampled(f"{peer} {fault}", "peer_refused", logging.WARNING, {"peer": peer, "fault": fault})

    def stranger_refused(self) -> None:
        """A call came that no member signed, so nobody knows its caller."""
        self.peer_fault("others", "unsigned")

    def page_log_in(self, *, admitted: bool) -> None:
        """A password for the page of operators was given, and was right or wrong."""
        event = "page_log_in" if admitted else "page_refused"
        self._sampled(event, event, logging.INFO if admitted else logging.WARNING, {})

    # Keys

    def keys_changed(self, ring: KeyRing) -> None:
        """The node has read other keys from its files."""
        self._write("keys_changed", logging.WARNING, key_ids=" ".join(ring.kids))

    # Writing

    def _session(
        self, event: str, *, level: int = logging.INFO, subject: str | None = None, session: str | None = None, **facts: object
    ) -> None:
        if not logger.isEnabledFor(level):
            return
        names = {"subject": subject, "session": session}
        hashed: dict[str, object] = {f"{name}_hash": self.pseudonym(value) for name, value in names.items() if value is not None}
        self._sampled(event, event, level, hashed | facts, RateLimiter(SESSIONS_PER_S, SESSIONS_AT_ONCE))

    def _sampled(self, kind: str, event: str, level: int, facts: dict[str, object], limit: RateLimiter | None = None) -> bool:
        if not logger.isEnabledFor(level):
            return False
        limit = self._limits.setdefault(kind, limit or RateLimiter(PER_S, AT_ONCE))  # kinds come from closed sets
        if limit.spend(1, self._clock.boot_s(), patience_s=0) is None:
            self._suppressed[kind] += 1
            return False
        if suppressed := self._suppressed.pop(kind, 0):
            facts["suppressed"] = suppressed
        self._write(event, level, **facts)
        return True

    def tell_suppressed(self) -> None:
        """Write how many records of each kind were left out since the last time. Called about once a second; writes every ten."""
        now_s = self._clock.boot_s()
        if now_s < self._tell_at_s:
            return
        self._tell_at_s = now_s + TELL_EVERY_S
        for kind, count in sorted(self._suppressed.items()):
            self._write("suppressed", logging.WARNING, kind=kind, suppressed=count)
        self._suppressed.clear()

    def _write(self, event: str, level: int, **facts: object) -> None:
        told = {"event": event, "node": self._node(), **{name: value for name, value in facts.items() if value not in (None, "")}}
        logger.log(level, "%s", " ".join(f"{name}={value}" for name, value in told.items()), extra=told)


def _level(mode: str) -> int:
    return logging.WARNING if mode == "failed" else logging.INFO
