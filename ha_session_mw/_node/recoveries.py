"""Count what this node has rebuilt or lost of valid sessions, and emit it as events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import get_args

from .._core.token.tokens import Verified
from ..events import ClusterEvent, RecoveredFrom, SessionDataLost, SessionRecovered
from ..models import Claims


class Recoveries:
    """Counts and reports the recoveries of one node.

    Args:
        tell: receives each event.

    Attributes:
        recovered: how often each source sufficed.
        lost: how often the data of a session was lost.
        began_ms: a token that was issued before this recovers a session that is older than this node's memory.
    """

    def __init__(self, tell: Callable[[ClusterEvent], None]) -> None:
        self.recovered: Counter[RecoveredFrom] = Counter(dict.fromkeys(get_args(RecoveredFrom), 0))
        self.lost = 0
        self._tell = tell
        self.began_ms = 0.0

    def begin(self, wall_ms: float) -> None:
        """Note that this node begins with an empty memory."""
        self.began_ms = wall_ms

    def recover(self, family: str, source: RecoveredFrom) -> None:
        """Note that something was rebuilt for a session."""
        self.recovered[source] += 1
        self._tell(SessionRecovered(family, source))

    def arrive(self, verified: Verified) -> None:
        """Note that this node has verified a token that was not in its memory. It recovers a session that is older than that memory."""
        if verified.first_claims().issued_ms < self.began_ms:
            self.recover(verified.family, "token")

    def lose(self, claims: Claims, *, ended: bool) -> None:
        """Note that the data of a session is lost.

        Args:
            claims: of the session.
            ended: whether the session ends; otherwise it goes on without.
        """
        self.lost += 1
        self._tell(SessionDataLost(claims.family, claims.subject, ended))
