"""A plugin of pytest: puts our middleware in the place of Starlette's before any test is imported."""

from __future__ import annotations

import starlette.middleware.sessions

from ha_session_mw import SessionMiddleware

starlette.middleware.sessions.SessionMiddleware = SessionMiddleware  # type: ignore[misc,assignment]
