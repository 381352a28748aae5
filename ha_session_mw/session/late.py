"""Changes of a session that was handed out already: its response has started, or its WebSocket was accepted.

No new token can reach the client then. Data that has a record in the store is saved there all the same, and a log-out is carried out.
Another change raises. Called Starlette's way, it is lost as with Starlette's middleware, and logged once for each place in the code.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from ..exceptions import SessionReadOnly
from ..manager import SessionManager, node_of
from .state import EXEMPT, RequestState

logger = logging.getLogger("ha_session_mw")

MOST_PLACES = 1000
"""The most places that are remembered. Code that is generated at run time has no end of them."""
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep  # noqa: PTH120 - as code objects name their files

_told: WeakKeyDictionary[SessionManager, set[str]] = WeakKeyDictionary()


def is_saved_late(state: RequestState) -> bool:
    """Whether a change of the data is saved although the session was handed out: its token names a record in a store."""
    verified = state.verified
    if verified is None or not verified.record or state.became is not ... or state.is_dropped or state.out_of_reach is not None:
        return False
    return state.manager is not None and node_of(state.manager).data.has_store


def admit(state: RequestState) -> None:
    """Note a change that comes after the session was handed out.

    Raises:
        SessionReadOnly: the change cannot be saved.
    """
    if state.read_only is EXEMPT:
        raise SessionReadOnly(EXEMPT)
    if is_saved_late(state):
        state.is_late = True
    else:
        lose(state, _place())


def lose(state: RequestState, place: str) -> None:
    """Report a change that cannot be saved.

    Args:
        state: of the session.
        place: the code that made the change.

    Raises:
        SessionReadOnly: unless the middleware was called Starlette's way.
    """
    if not report(state, f"{place} changed the session, and the change is lost: {state.read_only}"):
        raise SessionReadOnly(f"{state.read_only} (changed in {place})")


def report(state: RequestState, what: str) -> bool:
    """Log once that a change is lost, and return True, if the middleware was called Starlette's way. Return False otherwise."""
    manager = state.manager
    if manager is None or not manager.settings.loses_late_changes:
        return False
    told = _told.setdefault(manager, set())
    if what not in told and len(told) < MOST_PLACES:
        told.add(what)
        logger.warning("%s. This is not logged again for this place", what)
    return True


def handler_of(scope: Mapping[str, Any]) -> str:
    """Return the handler of a request and its place, if its framework names it (Starlette, FastAPI, Litestar)."""
    handler = scope.get("endpoint") or getattr(scope.get("route_handler"), "fn", None)
    code = getattr(handler, "__code__", None)
    name = getattr(handler, "__qualname__", None)
    if name is None:
        return "the app"
    return name if code is None else f"{name} ({code.co_filename}:{code.co_firstlineno})"


def _place() -> str:
    """Return the function, file and line of the code that called this package."""
    frame = sys._getframe(1)  # noqa: SLF001 - a traceback would cost a hundred times as much
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
