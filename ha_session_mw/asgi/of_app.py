"""Find the session manager of an app, in whichever way the middleware was added to it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from ..manager import SessionManager
from .arguments import manager_of_arguments
from .middleware import SessionMiddleware


def manager_of(app: object) -> SessionManager:
    """Return the session manager of an app, also before the app has started.

    Args:
        app: the app of a framework (FastAPI, Starlette, Litestar, Quart), any middleware around one, or the session middleware itself.

    Raises:
        LookupError: there is no session middleware in or around the app.
        ConfigurationError: there is one, and its settings cannot be used.
    """
    for found in _found_in(app, set()):
        if isinstance(found, SessionMiddleware):
            return found.require_manager()
        return _of_an_entry(found)
    raise LookupError(f"no SessionMiddleware of ha_session_mw is in or around this {type(app).__name__}")


def _found_in(app: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the session middlewares of an app, and the entries from which a framework will make one, the outermost first."""
    if app is None or id(app) in seen:
        return
    seen.add(id(app))
    if isinstance(app, SessionMiddleware):
        yield app
        return
    # Starlette keeps the made middlewares in ``middleware_stack``. Before the first request, it has the entries only.
    yield from _found_in(getattr(app, "middleware_stack", None), seen)
    for entry in (*_entries(app, "user_middleware"), *_entries(app, "middleware")):
        kind = getattr(entry, "cls", None) or getattr(entry, "middleware", None)
        if inspect.isclass(kind) and issubclass(kind, SessionMiddleware):
            yield entry
    for inner in ("app", "asgi_app", "asgi_handler", "asgi"):
        yield from _found_in(getattr(app, inner, None), seen)
    for route in _entries(app, "routes"):
        yield from _found_in(getattr(route, "app", None), seen)


def _entries(app: Any, name: str) -> tuple[Any, ...]:
    found = getattr(app, name, None)
    return tuple(found) if isinstance(found, (list, tuple)) else ()


def _of_an_entry(entry: Any) -> SessionManager:
    """Return the manager that the middleware of this entry will have: middlewares of the same settings share one."""
    kind = getattr(entry, "cls", None) or entry.middleware
    if kind.__init__ is not SessionMiddleware.__init__:  # a subclass gives arguments of its own to ours
        middleware: SessionMiddleware = kind(_no_app, *entry.args, **entry.kwargs)
        return middleware.require_manager()
    given = inspect.signature(SessionMiddleware).bind(_no_app, *entry.args, **entry.kwargs).arguments
    return manager_of_arguments(**{name: value for name, value in given.items() if name != "app"})


async def _no_app(*_: object) -> None:
    """An app that nothing ever calls."""
