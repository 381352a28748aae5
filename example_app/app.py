"""The example app: log in, look at the session, change it, log out here or everywhere.

The same addresses serve pages to a browser and JSON to curl. ``HA_SESSION_*`` variables configure the sessions.
``HA_SESSION_PROTECT=/private/*,/api/private/*`` protects the private part; without it, the handlers there refuse by
themselves.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from ha_session_mw import Session, SessionMiddleware, SessionTooLarge, get_session

from . import pages, room, users
from .origin import SameOrigin

MAX_NOTE_LENGTH = 200
MAX_FORM_FIELDS = 8


class SignedIn(NamedTuple):
    session: Session
    subject: str


def signed_in(conn: HTTPConnection) -> SignedIn:
    """Return the session and the subject of a request that needs a log-in.

    ``HA_SESSION_PROTECT`` requires a session, but a visitor may have one without a log-in.

    Raises:
        ProblemError: nobody is logged in; it says why.
    """
    session = get_session(conn)
    return SignedIn(session, session.require())


# The open part.


async def home(request: Request) -> Response:
    session = get_session(request)
    problem = session.problem
    if wants_page(request):
        return pages.home(session, problem, origin=origin(request))
    return as_json(describe(session) | {"problem": problem.code if problem else None})


async def log_in(request: Request) -> Response:
    form = await fields(request)
    username, password = form.get("username", ""), form.get("password", "")
    session = get_session(request)
    if not users.check(username, password):
        if wants_page(request):
            return pages.home(session, None, origin=origin(request), fault="The name or the password is wrong.", status=403)
        return as_json({"error": "wrong name or password"}, status=403)
    session.login(username)  # takes a new id, so an id that was planted in this browser is of no use
    session["notes"] = [{"text": "Try the other buttons", "done": False}]
    return done(request, "/private/session", {"subject": username})


async def log_out(request: Request) -> Response:
    get_session(request).clear()  # removes the cookie, and revokes the session, so that copies of the cookie are refused
    return done(request, "/", {"logged_out": True})


# The protected part.


async def show_session(request: Request) -> Response:
    session, _ = signed_in(request)
    return pages.session(session) if wants_page(request) else as_json(describe(session))


async def add_note(request: Request) -> Response:
    session, _ = signed_in(request)
    text = (await fields(request)).get("text", "").strip()
    if not 0 < len(text) <= MAX_NOTE_LENGTH:
        return refused(request, session, f"A note has 1 to {MAX_NOTE_LENGTH} characters.")
    try:
        session["notes"] = [*session.get("notes", []), {"text": text, "done": False}]
    except SessionTooLarge:
        return refused(request, session, "The session is full. Delete a note first.")
    return done(request, "/private/session", describe(session))


async def change_note(request: Request) -> Response:
    session, _ = signed_in(request)
    notes = session.get("notes", [])
    number, change = request.path_params["number"], request.path_params["change"]
    if number >= len(notes) or change not in ("toggle", "delete"):
        return as_json({"error": "no such note"}, status=404)
    if change == "toggle":
        notes[number]["done"] = not notes[number]["done"]  # a change inside a nested value is saved, too
    else:
        del notes[number]
    return done(request, "/private/session", describe(session))


async def log_out_everywhere(request: Request) -> Response:
    session, subject = signed_in(request)
    keep_this_one = (await fields(request)).get("keep") == "this"
    acknowledged = await session.manager.revoke_subject(subject, except_session=session if keep_this_one else None)
    if not keep_this_one:
        session.clear()
    told = {"acknowledged": acknowledged.mode, "waited_ms": round(acknowledged.waited_s * 1000, 3)}
    return done(request, "/private/session" if keep_this_one else "/", told)


async def show_devices(request: Request) -> Response:
    session, _ = signed_in(request)
    return pages.devices(session) if wants_page(request) else as_json({"devices": pages.device_routes(session)})


async def show_room(request: Request) -> Response:
    session, _ = signed_in(request)
    return pages.room(session, room.guests(session.family or "")) if wants_page(request) else as_json(describe_room(session))


async def enter_room(request: Request) -> Response:
    session, _ = signed_in(request)
    fault = room.enter(session.family or "", (await fields(request)).get("name", "").strip())
    if not fault:
        return done(request, "/private/room", describe_room(session))
    if wants_page(request):
        return pages.room(session, room.guests(session.family or ""), fault=fault, status=422)
    return as_json({"error": fault}, status=422)


def describe_room(session: Session) -> dict[str, Any]:
    return {"node": session.manager.node_id, "guests": room.guests(session.family or "")}


async def events(request: Request) -> Response:
    _, subject = signed_in(request)

    async def ticks() -> AsyncIterator[str]:
        for number in itertools.count(1):
            yield f"event: tick\ndata: {json.dumps({'tick': number, 'subject': subject})}\n\n"
            await anyio.sleep(1)

    return StreamingResponse(ticks(), media_type="text/event-stream")


async def echo(websocket: WebSocket) -> None:
    _, subject = signed_in(websocket)
    await websocket.accept()
    await websocket.send_json({"subject": subject})
    async for text in websocket.iter_text():
        await websocket.send_json({"subject": subject, "echo": text})


# What the handlers share.


def describe(session: Session) -> dict[str, Any]:
    """Return what a client may know of its session: all but the token. The id is shortened, because logs name sessions by it."""
    if session.id is None:
        return {"subject": None}
    return {
        "subject": session.subject,
        "id": pages.shortened(session.id),
        "authenticated_at": moment(session.authenticated_at),
        "issued_at": moment(session.issued_at),
        "idle_expires_at": moment(session.idle_expires_at),
        "expires_at": moment(session.expires_at),
        "issuer": session.issuer,
        "answered_by": session.manager.node_id,
        "notes": session.get("notes", []),
    }


def moment(at: datetime | None) -> str | None:
    return at.isoformat(timespec="milliseconds") if at else None


async def fields(request: Request) -> dict[str, str]:
    """Return the text fields of a form or of a JSON object."""
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            given = await request.json()
        except ValueError:
            given = None
        pairs: dict[str, Any] = given if isinstance(given, dict) else {}
    else:
        pairs = dict(await request.form(max_files=0, max_fields=MAX_FORM_FIELDS))
    return {name: value for name, value in pairs.items() if isinstance(value, str)}


def origin(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def wants_page(request: Request) -> bool:
    """Return whether the client asks for HTML. curl accepts anything, and gets JSON."""
    return not request.url.path.startswith("/api/") and "text/html" in request.headers.get("accept", "")


def as_json(told: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(told, status_code=status, headers={"Cache-Control": "no-store", "Vary": "Accept"})


def done(request: Request, page: str, told: dict[str, Any]) -> Response:
    """Answer a change. A browser is redirected to a page, so that reloading repeats nothing."""
    return RedirectResponse(page, status_code=303) if wants_page(request) else as_json(told)


def refused(request: Request, session: Session, fault: str) -> Response:
    if wants_page(request):
        return pages.session(session, fault=fault, status=422)
    return as_json({"error": fault}, status=422)


def make_app() -> Starlette:
    """Return the app. ``HA_SESSION_*`` variables are read when it is first used."""
    return Starlette(
        routes=[
            Route("/", home),
            Route("/login", log_in, methods=["POST"]),
            Route("/logout", log_out, methods=["POST"]),
            Route("/private/session", show_session),
            Route("/private/devices", show_devices),
            Route("/private/notes", add_note, methods=["POST"]),
            Route("/private/notes/{number:int}/{change}", change_note, methods=["POST"]),
            Route("/private/logout-everywhere", log_out_everywhere, methods=["POST"]),
            Route("/private/room", show_room),
            Route("/private/room", enter_room, methods=["POST"]),
            Route("/private/events", events),
            WebSocketRoute("/private/ws", echo),
            Route("/api/private/session", show_session),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        middleware=[Middleware(SameOrigin), Middleware(SessionMiddleware)],
    )


app = make_app()
