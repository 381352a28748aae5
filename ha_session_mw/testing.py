"""What the tests of an app need: clocks that stand still until told otherwise, sessions, and clusters in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx2
from anyio import CancelScope
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .asgi.middleware import SessionMiddleware
from .asgi.session import get_session
from .config import Settings
from .manager import SessionManager

SECRET = "N3vcRw8ZpTq5YhK1sXjG7bLd0FmUe2Ay"
"""The secret of clusters in tests. Anybody may know it."""

P = ParamSpec("P")
T = TypeVar("T")


class ManualClock:
    """The two clocks of a node, moved by hand: pass it as ``SessionManager(..., clock=clock)``.

    Args:
        wall_s: what the wall clock shows at first, in seconds since the epoch.
        boot_s: what the boot-time clock shows at first, in seconds.

    Example:
        >>> clock = ManualClock(wall_s=1_800_000_000.0, boot_s=100.0)
        >>> clock.advance(30)
        >>> clock.boot_s(), clock.wall_s()
        (130.0, 1800000030.0)
        >>> clock.step_wall(-3600)
        >>> clock.boot_s(), clock.wall_s()
        (130.0, 1799996430.0)
    """

    __slots__ = ("_boot_s", "_limits", "_wall_s")

    def __init__(self, *, wall_s: float = 1_800_000_000.0, boot_s: float = 1_000.0) -> None:
        self._wall_s = wall_s
        self._boot_s = boot_s
        self._limits: dict[CancelScope, float] = {}

    def boot_s(self) -> float:
        """The boot-time clock: seconds that have passed, never stepping."""
        return self._boot_s

    def wall_s(self) -> float:
        """The wall clock: seconds since the epoch."""
        return self._wall_s

    def move_on_after(self, seconds: float) -> AbstractContextManager[CancelScope, bool]:
        """Ends what runs inside once the boot-time clock was moved on by so much; the scope's ``cancelled_caught`` then tells."""
        return _Limit(self._limits, self._boot_s + seconds, over=seconds <= 0)

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks.

        Raises:
            ValueError: ``seconds`` is negative; time does not run backwards, though a wall clock may be set back.
        """
        if seconds < 0:
            raise ValueError(f"time passes forwards only, got {seconds!r}; step_wall() sets the wall clock back")
        self._boot_s += seconds
        self._wall_s += seconds
        for scope, end_s in self._limits.items():
            if self._boot_s >= end_s:
                scope.cancel()

    def until_next(self) -> float | None:
        """For how many seconds nothing that waits by this clock ends; None where nothing waits."""
        return max(0.0, min(self._limits.values()) - self._boot_s) if self._limits else None

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forwards or back, as an operator or a time server does. The boot-time clock does not notice."""
        self._wall_s += seconds

    def __repr__(self) -> str:
        return f"<ManualClock boot {self._boot_s:g} s, wall {self._wall_s:g} s>"


class _Limit(AbstractContextManager[CancelScope, bool]):
    """A cancel scope that its clock knows of for as long as it is open."""

    def __init__(self, limits: dict[CancelScope, float], end_s: float, *, over: bool) -> None:
        self._limits, self._end_s, self._over = limits, end_s, over
        self._scope = CancelScope()

    def __enter__(self) -> CancelScope:
        scope = self._scope.__enter__()
        self._limits[scope] = self._end_s
        if self._over:
            scope.cancel()
        return scope

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> bool:
        del self._limits[self._scope]
        return bool(self._scope.__exit__(kind, exc, trace))


def mint_session(node: SessionManager | SessionMiddleware, subject: str | None = None, data: Mapping[str, Any] | None = None) -> str:
    """The token of a new session, as the node would make it at a log-in: for a bearer, or for a cookie.

    Args:
        node: the middleware in front of the app, or its manager.
        subject: who is logged in; None for a visitor.
        data: what is in the session.

    Raises:
        InfrastructureFault: the node cannot make sessions now.
        SessionTooLarge, SessionNotSerializable: the data cannot travel.
    """
    manager = node.manager if isinstance(node, SessionMiddleware) else node
    manager.require_fresh()
    claims = manager.begin(subject)
    return manager.sign(manager.change(claims, manager.fit(claims, data or {}))).decode()


def session_cookie(
    node: SessionManager | SessionMiddleware, subject: str | None = None, data: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """The same as a cookie's name and value: what the ``cookies`` of a test client take."""
    manager = node.manager if isinstance(node, SessionMiddleware) else node
    return {manager.settings.cookie_name: mint_session(manager, subject, data)}


async def who_is_there(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that tells who is logged in, logs in whom ``POST /login/ada`` names, and logs out at ``POST /logout``."""
    session = get_session(scope)
    if scope["method"] == "POST" and scope["path"].startswith("/login/"):
        session.login(scope["path"].removeprefix("/login/"))
    elif scope["method"] == "POST" and scope["path"] == "/logout":
        session.clear()
    await JSONResponse({"subject": session.subject, "data": dict(session)})(scope, receive, send)


class Cluster:
    """The nodes of a ``peers://`` cluster in one process: real middlewares that really call each other, without a network.

    Enter it to start them. Nothing sleeps: time stands still but in :meth:`run`, :meth:`advance` and :meth:`wait_until`,
    where it jumps from one thing that waits to the next. Works on asyncio and trio.

    Args:
        names: of the nodes.
        app: behind the middleware of each; by default :func:`who_is_there`.
        settings: of all nodes, beside a secret, the peers, and each one's own URL and name.

    Example:
        >>> async def story() -> str:
        ...     async with Cluster() as cluster:
        ...         a, b, c = cluster.nodes
        ...         token = mint_session(a.manager, "ada")
        ...         cluster.cut(a, b)
        ...         answer = await b.get("/", token=token)
        ...         return answer.json()["subject"]
        >>> anyio.run(story)
        'ada'
    """

    def __init__(self, names: Sequence[str] = ("a", "b", "c"), *, app: ASGIApp = who_is_there, **settings: Any) -> None:
        common = {"secret_key": SECRET, "cluster": "peers://", "peers": tuple(map(_url, names)), **settings}
        self.nodes = [Node(self, name, app, common) for name in names]
        self._links = {(one.url, other.url): Link() for one in self.nodes for other in self.nodes if one is not other}
        self._resting = anyio.Lock()
        self._tasks = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        for node in self.nodes:
            await node.start()
        try:
            await self.wait_until(lambda: all(node.is_ready for node in self.nodes if node.manager.settings.peers))
        except TimeoutError:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        for node in self.nodes:
            await node.kill()
        await self._tasks.__aexit__(None, None, None)

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)
