"""Which member a session belongs to: rendezvous hashing (Thaler and Ravishankar 1998).

Every node finds the same owners without asking anybody, and a member that comes or goes moves its own sessions only.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from .members import Heartbeat


def owners(session_id: str, members: Iterable[str]) -> list[str]:
    """All members, the first owner of the session first, the others in the order in which they would follow it."""
    return sorted(members, key=lambda member: _weight(session_id, member), reverse=True)


def nearest(session_id: str, members: Iterable[Heartbeat], *, issuer: str | None, but: str) -> list[str]:
    """The URLs of the members that may know most of a session, those first: who issued its token, then its owners.

    Args:
        session_id: the session's.
        members: the live ones. Those that are starting know nothing yet.
        issuer: the member that made the token, if that is known.
        but: a URL that is not to be among them: the asker's own.
    """
    urls = {member.url: member.member for member in members if member.state != "starting" and member.url not in ("", but)}
    return sorted(owners(session_id, urls), key=lambda url: urls[url] != issuer)


def _weight(session_id: str, member: str) -> bytes:
    return blake2b(f"{member}\n{session_id}".encode(), digest_size=8).digest()
