"""Which member a session belongs to: rendezvous hashing (Thaler and Ravishankar 1998).

Every node finds the same owners without asking anybody, and a member that comes or goes moves its own sessions only.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b


def owners(session_id: str, members: Iterable[str]) -> list[str]:
    """All members, the first owner of the session first, the others in the order in which they would follow it."""
    return sorted(members, key=lambda member: _weight(session_id, member), reverse=True)


def _weight(session_id: str, member: str) -> bytes:
    return blake2b(f"{member}\n{session_id}".encode(), digest_size=8).digest()
