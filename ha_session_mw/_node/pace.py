"""The pace of what leaves an entry or a record behind: log-ins, log-outs and visitors' sessions, by subject and by address.

A log-out is never refused, because a session that its user wanted to end must not go on. It counts, though. So a loop of log-ins and
log-outs stops at a log-in. The counters are those of one node, and are lost with its process.
"""

from __future__ import annotations

import socket
from hashlib import blake2b

from cachetools import LRUCache

from .._core.calls.rate_limit import RateLimiter
from ..abc import Clock
from ..exceptions import TooManyLogIns

WITHIN_S = 300.0
"""The time within which a subject or an address may have as many log-ins as the settings say."""
MOST = 20_000
"""Most subjects and addresses that are counted, some 6 MB. The ones that were longest idle are forgotten first."""


class LogInPace:
    """Counts the log-ins, log-outs and visitors' sessions of one node.

    Args:
        clock: whose boot-time clock counts.
        per_subject: the largest number of one subject's log-ins and log-outs within ``WITHIN_S``; None for any number.
        per_address: the same for the log-ins, log-outs and visitors' sessions from one address.
    """

    def __init__(self, clock: Clock, *, per_subject: int | None, per_address: int | None) -> None:
        self._clock = clock
        self._per_subject = per_subject
        self._per_address = per_address
        self._limiters: LRUCache[bytes, RateLimiter] = LRUCache(MOST)

    def begin(self, subject: str | None, address: str | None) -> None:
        """Count a session that begins, or takes a new id.

        Args:
            subject: the subject that is logged in; None for a visitor.
            address: the client's address, as the server says; None if it has none.

        Raises:
            TooManyLogIns: the subject or the address must wait. Nothing is counted.
        """
        now_s = self._clock.boot_s()
        limiters = self._limiters_of(subject, address)
        wait_s = max((limiter.wait_s(1, now_s) for limiter in limiters), default=0.0)
        if wait_s > 1e-6:  # rounding is no wait
            raise TooManyLogIns("the pace of log-ins of this subject, or from this address, is exceeded", retry_after_s=wait_s)
        for limiter in limiters:
            limiter.spend(1, now_s)

    def end(self, subject: str | None) -> None:
        """Count a log-out. It may use up the next log-in, and no more, so that a user who logs out is never locked out for long."""
        for limiter in self._limiters_of(subject, None):
            limiter.spend(1, self._clock.boot_s(), patience_s=WITHIN_S / (self._per_subject or 1))

    def wait_to_cut_s(self, subject: str) -> float:
        """Count a log-out everywhere; return the seconds to wait for its turn. It is never refused, and uses up no log-in."""
        if self._per_subject is None:
            return 0.0
        return self._limiter(b"c" + subject.encode(), self._per_subject).spend(1, self._clock.boot_s()) or 0.0

    def may_keep_answer(self, subject: str) -> bool:
        """Count an answer of a ready-made route that is kept for repeats; return whether the subject may have one more."""
        if self._per_subject is None:
            return True
        return self._limiter(b"o" + subject.encode(), self._per_subject).spend(1, self._clock.boot_s(), patience_s=0) is not None

    def _limiters_of(self, subject: str | None, address: str | None) -> list[RateLimiter]:
        found = []
        if subject is not None and self._per_subject is not None:
            found.append(self._limiter(b"s" + subject.encode("utf-8", "surrogatepass"), self._per_subject))
        if address is not None and self._per_address is not None:
            found.append(self._limiter(b"a" + network_of(address), self._per_address))
        return found

    def _limiter(self, name: bytes, most: int) -> RateLimiter:
        key = blake2b(name, digest_size=16).digest()
        limiter = self._limiters.get(key)
        if limiter is None:
            limiter = self._limiters[key] = RateLimiter(most / WITHIN_S, most)
        return limiter

    def __len__(self) -> int:
        return len(self._limiters)


def network_of(address: str) -> bytes:
    """Return the part of an address that one client cannot choose: of IPv6 the first 64 bits (RFC 4291 section 2.5.4)."""
    try:
        packed = socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):  # ValueError: a lone surrogate, or a NUL
        return address.encode("utf-8", "surrogatepass")
    is_ipv4 = packed[:12] == b"\0" * 10 + b"\xff\xff"
    return socket.inet_ntop(socket.AF_INET, packed[12:]).encode() if is_ipv4 else packed[:8]
