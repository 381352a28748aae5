"""Take over the content that Litestar has put in the session's place (``litestar.py``)."""

from __future__ import annotations

from .state import RequestState
from .tracked_dict import TrackedDict


def take_content(session: TrackedDict, state: RequestState) -> None:
    """Make the content that Litestar has put in the session's place the session's content, as it is now."""
    stand_in = state.stand_in
    if stand_in is None or stand_in.content is None:
        return
    content = stand_in.content()
    if dict(content) != session:
        session.replace(content)
    elif not stand_in.was_modified:
        session.modified = False
