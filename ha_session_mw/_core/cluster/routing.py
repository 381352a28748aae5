"""Which member owns a session: rendezvous hashing (Thaler and Ravishankar 1998).

Every node finds the same owners without asking. A member that joins or leaves moves its own sessions only.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from .members import Heartbeat


def owners(session_id: str, members: Iterable[str]) -> list[str]:
    """Return all members: the owner of the session first, the others in the order in which they would succeed it."""
    return sorted(members, key=lambda member: _weight(session_id, member), reverse=True)


def nearest(session_id: str, members: Iterable[Heartbeat], *, issuer: str | None, but: str) -> list[str]:
    """Return the members' URLs, those first that may know most of a session: the issuer of its token, then its owners.

    Args:
        session_id: the id of the session.
        members: the live members. Those that are starting know nothing yet and are left out.
        issuer: the member that issued the token; None if that is unknown.
        but: a URL to leave out: the asker's own.
    """
    urls = {member.url: member.member for member in members if member.state != "starting" and member.url not in ("", but)}
    return sorted(owners(session_id, urls), key=lambda url: urls[url] != issuer)


def _weight(session_id: str, member: str) -> bytes:
    return blake2b(f"{member}\n{session_id}".encode(), digest_size=8).digest()
