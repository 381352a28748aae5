"""Where the time of a warm request goes: stages that are built up one by one, each with code objects of its own.

``python -m tests.benchmarks.ablation`` prints what each stage adds. The stages are copies of what the middleware does on its shortest
way, and the last row is the middleware itself. Code objects of their own, because the interpreter specializes each for what it sees.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Coroutine
from copy import copy
from itertools import repeat, starmap
from typing import Any

import anyio
import msgspec
from starlette.types import ASGIApp

from ha_session_mw import SessionMiddleware
from ha_session_mw.asgi.exchange import ORDINARY_TYPES
from ha_session_mw.session.session import SessionOfRequest
from ha_session_mw.session.state import STARTED

from .contenders import FLAT, App, Header, Reader, cookie_from, discard, headers_with, new_manager, ours_with, receive, scope_of, starlettes

ROUNDS, REQUESTS = 400, 100
"""Many short rounds: the best of them met no other process."""

STAGES = (
    "a coroutine around the app",
    "the guards: kind, path, another session",
    "the header is gone through: four fields",
    "the cache is asked",
    "the clock, the generation, times, floor and freshness; counted",
    "the session with its data",
    "the session in the scope, and the app's look at it",
    "the way back: the object, which is `receive`, and `send` for both messages",
    "the fields of the response, and `Vary`",
)
SOURCE = """
class Exchange(msgspec.Struct, eq=False):
    edge: object; session: object; scope: object; receive: object; send: object; root_path: str
    connection: object = None
    waits: object = None
    async def __call__(self):
        raise NotImplementedError
    def pass_on(self, message):
        session = self.session
        made = session._made
        if made is STARTED:
            if "more_body" in message:
                raise NotImplementedError
            send = self.send
            return send(message)
        if message["type"] != "http.response.start":
            raise NotImplementedError
        edge = self.edge
        headers = message["headers"]
        if type(headers) is not list:
            raise NotImplementedError
        wall_s = edge.wall_s
        now_s = wall_s()
        if made is None and not session.modified and now_s < session._verified.quiet_until_s:
            session._made = STARTED
        else:
            raise NotImplementedError
        #8
        varies = edge.names_node
        for name, value in headers:
            if name in ANSWERED and value not in ORDINARY_TYPES:
                raise NotImplementedError
        if made is not None:
            raise NotImplementedError
        if session.accessed:
            if varies:
                raise NotImplementedError
            headers.append(edge.vary)
        #0
        send = self.send
        return send(message)

class Stage:
    def __init__(self, app, real):
        self.app, self.manager, self._edge, self._prefix, self._has_paths = app, real.manager, real._edge, real._prefix, False
        self._transports, self._short_way = real._transports, copy(real._short_way)
        self._short_way.accepted = copy(self._short_way.accepted)
        self._short_way.accepted.readings = starmap(time.time, repeat(()))
    async def __call__(self, scope, receive, send):
        app = self.app
        #1
        path = scope["path"]
        root_path = scope["root_path"]
        headers = scope["headers"]
        if self._prefix in path or scope["type"] != "http" or "session" in scope or self._has_paths:
            raise NotImplementedError
        #2
        field = transport = None
        if len(headers) <= 512:
            transports = self._transports
            for name, value in headers:
                if name in transports:
                    if field is not None or len(value) > 8192:
                        raise NotImplementedError
                    field = value
                    transport = transports[name]
        #3
        short = self._short_way
        cached = short.cached
        verified = cached(field)
        #4
        if verified is not None:
            for now_s in short.accepted.readings:
                if short.poll_now is not None:
                    short.poll_now()
                view = short.view
                if not (
                    (view.fresh_at == FOREVER or short.is_within_lease(view.fresh_at, now_s))
                    and verified.generation is view.generation
                    and verified.transport is transport
                    and verified.from_s <= now_s
                    and now_s < verified.until_s
                    and now_s >= view.floor_s
                ):
                    raise NotImplementedError
                break
            else:
                raise NotImplementedError
        #3
        if verified is None or verified.record:
            raise NotImplementedError
        #5
        nested = verified.nested_data
        if nested is not None:
            raise NotImplementedError
        session = SessionOfRequest(verified.data)
        session._verified = verified
        session._manager = self.manager
        session._made = nested
        session.accessed = session.modified = False
        #6
        scope["session"] = scope["ha_session_mw.session"] = session
        #7
        exchange = Exchange(self._edge, session, scope, receive, send, root_path)
        receive, send = exchange, exchange.pass_on
        #0
        try:
            await app(scope, receive, send)
        except BaseException:
            raise
        #7
        else:
            if session._made is not STARTED:
                raise NotImplementedError
        #0
"""


def stage(number: int) -> Callable[[ASGIApp, SessionMiddleware], ASGIApp]:
    """A middleware that does the stages up to this one."""
    lines, counts = [], True
    for line in SOURCE.splitlines():
        if line.strip().startswith("#"):
            counts = int(line.strip()[1:]) <= number
        elif counts:
            lines.append(line)
    names: dict[str, Any] = {
        "msgspec": msgspec, "time": time, "SessionOfRequest": SessionOfRequest, "STARTED": STARTED, "repeat": repeat,
        "starmap": starmap, "copy": copy, "FOREVER": math.inf,
        "ORDINARY_TYPES": ORDINARY_TYPES, "ANSWERED": frozenset((b"vary", b"content-type", b"set-cookie", b"session-token")),
    }  # fmt: skip
    exec(compile("\n".join(lines), f"stage {number}", "exec"), names)
    made: Callable[[ASGIApp, SessionMiddleware], ASGIApp] = names["Stage"]
    return made


def drive(request: Coroutine[Any, Any, None]) -> None:
    """Run a request that waits for nothing."""
    try:
        request.send(None)
    except StopIteration:
        return
    raise RuntimeError("the request waits")


async def contenders() -> dict[str, tuple[Any, Header | None]]:
    wrap = ours_with(new_manager())
    cookie, of_starlette = await cookie_from(wrap, FLAT), await cookie_from(starlettes, FLAT)
    real = wrap(Reader())
    assert isinstance(real, SessionMiddleware)
    drive(real(scope_of(headers_with(cookie)), receive, discard))
    built = {name: (stage(number)(Reader() if number >= 6 else App(), real), cookie) for number, name in enumerate(STAGES)}
    return {"bare app": (App(), None), **built, "the middleware": (real, cookie), "Starlette's": (starlettes(Reader()), of_starlette)}


def main() -> None:
    found = anyio.run(contenders)
    best = dict.fromkeys(found, math.inf)
    for _ in range(ROUNDS):
        for name, (app, credential) in found.items():
            requests = [headers_with(credential) for _ in range(REQUESTS)]
            begun_ns = time.perf_counter_ns()
            for headers in requests:
                drive(app(scope_of(headers), receive, discard))
            best[name] = min(best[name], (time.perf_counter_ns() - begun_ns) / REQUESTS)
    starlettes_ns, before_ns = best["Starlette's"] - best["bare app"], best["bare app"]
    print("| stage | ns | of what Starlette's adds |\n| --- | ---: | ---: |")
    for name, taken_ns in best.items():
        added_ns = taken_ns - (before_ns if name in STAGES else best["bare app"])
        print(f"| {name} | {taken_ns if name == 'bare app' else added_ns:.0f} | {added_ns / starlettes_ns:.4f} |")
        before_ns = taken_ns


if __name__ == "__main__":
    main()
