"""The app that the nodes of a history serve."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from ha_session_mw import get_session


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Run the path's action on the session."""
    session = get_session(scope)
    told = {}
    match scope["path"].strip("/").split("/"):
        case ["login", subject]:
            session.login(subject)
        case ["private", "clear"]:
            session.clear()
        case ["private", "revoke"]:
            told["mode"] = (await session.revoke()).mode
        case ["private", "cycle"]:
            session.cycle()
        case ["private", "others"]:
            assert session.manager is not None
            assert session.subject is not None
            told["mode"] = (await session.manager.revoke_subject(session.subject, except_session=session)).mode
        case ["everywhere", subject]:
            assert session.manager is not None
            told["mode"] = (await session.manager.revoke_subject(subject)).mode
    await JSONResponse({**told, "subject": session.subject})(scope, receive, send)
