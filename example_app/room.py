"""A small thing that lives on a node: the rooms of its sessions, each with its guests, in the memory of the process.

Nothing stores them. With ``HA_SESSION_OWNED`` each session has its room on one node, and finds it from every other one.
"""

from __future__ import annotations

from collections import OrderedDict

MAX_ROOMS = 1000
MAX_GUESTS = 20
MAX_NAME_LENGTH = 40

_rooms: OrderedDict[str, list[str]] = OrderedDict()


def guests(session: str) -> list[str]:
    """Return the guests in the room of a session, as this node knows them."""
    return [*_rooms.get(session, ())]


def enter(session: str, name: str) -> str:
    """Let a guest in; return the fault that keeps the guest out, if any."""
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        return f"A guest has a name of 1 to {MAX_NAME_LENGTH} characters."
    room = _rooms.setdefault(session, [])
    _rooms.move_to_end(session)
    if len(_rooms) > MAX_ROOMS:
        _rooms.popitem(last=False)
    if len(room) >= MAX_GUESTS:
        return "The room is full."
    room.append(name)
    return ""
