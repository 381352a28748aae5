"""Litestar's ``set_session`` and ``clear_session``, the only calls by which a framework replaces the session on purpose.

Both put an object into ``scope["session"]``, as other session middlewares and apps do, and nothing there tells the objects apart.
So the two methods themselves note that they were called for our session. For any other session they do what Litestar wrote.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from .session import SCOPE_KEY, Session, state_of
from .state import StandIn

_WATCHED = "_watched_by_ha_session_mw"


def watch() -> None:
    """Have Litestar's two methods note the session that they replace, once Litestar is loaded."""
    connection = getattr(sys.modules.get("litestar.connection.base"), "ASGIConnection", None)
    if connection is not None and not hasattr(connection, _WATCHED):
        connection.set_session = _noting_set(connection.set_session)
        connection.clear_session = _noting_clear(connection.clear_session)
        setattr(connection, _WATCHED, True)


def _noting_set(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def set_session(self: Any, value: Any) -> None:
        session = _session_in_place(self.scope)
        if session is not None and value is _empty():
            self.clear_session()
            return
        if session is not None:
            was_modified = session.modified
            session.mark_modified()
            state_of(session).stand_in = StandIn(value, was_modified, content=lambda: _content(value, self.scope))
        original(self, value)

    set_session.__doc__ = original.__doc__
    return set_session


def _noting_clear(original: Callable[[Any], None]) -> Callable[[Any], None]:
    def clear_session(self: Any) -> None:
        session = _session_in_place(self.scope)
        if session is not None:
            if session.id is not None or session:  # in this order, because data that is out of reach cannot be tested
                session.clear()
            state_of(session).stand_in = StandIn(_empty(), session.modified)
        original(self)

    clear_session.__doc__ = original.__doc__
    return clear_session


def _empty() -> object:
    return sys.modules["litestar.types"].Empty


def _session_in_place(scope: MutableMapping[str, Any]) -> Session | None:
    """Return our session, if it or its stand-in is in the session's place; None if that is another session."""
    session: Session | None = scope.get(SCOPE_KEY)
    if session is None:
        return None
    current, stand_in = scope.get("session"), state_of(session).stand_in
    return session if current is session or (stand_in is not None and current is stand_in.object) else None


def _content(value: object, scope: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Return a mapping itself, and the fields of a dataclass or of a pydantic or msgspec model as Litestar's own sessions store them."""
    if isinstance(value, Mapping):
        return value
    from litestar.serialization import decode_json, encode_json  # loaded: Litestar has put the model there
    from litestar.utils import get_serializer_from_scope

    fields: object = decode_json(encode_json(value, get_serializer_from_scope(scope)))  # type: ignore[arg-type]
    if not isinstance(fields, dict):
        raise TypeError(f"a session is a mapping or a model with fields, not a {type(value).__name__}")
    return fields
