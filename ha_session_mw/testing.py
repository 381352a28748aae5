"""What the tests of an app need: clocks that stand still until told otherwise, sessions, and clusters in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import httpx2
from anyio import CancelScope
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .abc import Backend
from .asgi.middleware import SessionMiddleware
from .asgi.session import get_session
from .config import Settings
from .contract import ClusterLogContract, Member, Nodes
from .exceptions import SessionTooLarge
from .lock_contract import Desk, Desks, LockServiceContract
from .manager import SessionManager
from .store_contract import SessionStoreContract, Stores

__all__ = [
    "SECRET",
    "Cluster",
    "ClusterLogContract",
    "Desk",
    "Desks",
    "Link",
    "LockServiceContract",
    "ManualClock",
    "Member",
    "Node",
    "Nodes",
    "SessionStoreContract",
    "Stores",
    "mint_session",
    "session_cookie",
    "who_is_there",
]

SECRET = "N3vcRw8ZpTq5YhK1sXjG7bLd0FmUe2Ay"  # noqa: S105 - no secret at all
"""The secret of clusters in tests. Anybody may know it."""

P = ParamSpec("P")
T = TypeVar("T")


class ManualClock:
    """The two clocks of a node, moved by hand: pass it as ``SessionManager(..., clock=clock)``.

    Args:
        wall_s: what the wall clock shows at first, in seconds since the epoch.
        boot_s: what the boot-time clock shows at first, in seconds.

    Attributes:
        rate: how fast both run: by so many seconds in each one that passes. 1.01 is a clock that drifts by 1 %.

    Example:
        >>> clock = ManualClock(wall_s=1_800_000_000.0, boot_s=100.0)
        >>> clock.advance(30)
        >>> clock.boot_s(), clock.wall_s()
        (130.0, 1800000030.0)
        >>> clock.step_wall(-3600)
        >>> clock.boot_s(), clock.wall_s()
        (130.0, 1799996430.0)
    """

    __slots__ = ("_boot_s", "_frozen", "_limits", "_wall_s", "rate")

    def __init__(self, *, wall_s: float = 1_800_000_000.0, boot_s: float = 1_000.0) -> None:
        self.rate = 1.0
        self._frozen = False
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
        self._boot_s += seconds * self.rate
        self._wall_s += seconds * self.rate
        self._end_what_is_due()

    def _end_what_is_due(self) -> None:
        for scope, end_s in self._limits.items():
            if self._boot_s >= end_s and not self._frozen:
                scope.cancel()

    def until_next(self) -> float | None:
        """For how many seconds nothing that waits by this clock ends; None where nothing waits."""
        ends = [end_s for scope, end_s in self._limits.items() if not scope.cancel_called]
        return max(0.0, min(ends) - self._boot_s) / self.rate if ends and not self._frozen else None

    def freeze(self) -> None:
        """Whoever waits by this clock waits on, though time passes on it: nobody is there to look at it."""
        self._frozen = True

    def thaw(self) -> None:
        """What was due while it was frozen ends now."""
        self._frozen = False
        self._end_what_is_due()

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
    claims = manager.change(claims, manager.fit(claims, data or {}))
    if not manager.has_room(claims):
        raise SessionTooLarge("this is more than a token carries; have a request write it, and it is stored")
    return manager.sign(claims).decode()


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


@dataclass
class Link:
    """The way from one node to another. May be changed at any time.

    Attributes:
        cut: what is sent is lost, and what would arrive now, and nobody is told.
        delay_s: how long it takes.
        jitter_s: how much longer it may take, each time anew, so that what was sent later may arrive earlier.
        loss: how often what is sent is lost, between 0 and 1.
        duplication: how often a call is carried twice, between 0 and 1; the copy takes a time of its own.
        garbles: a bit of each body is turned over.
        replays: each call arrives a second time, right after it was answered.
    """

    cut: bool = False
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    garbles: bool = False
    replays: bool = False

    def mend(self) -> None:
        """It carries everything at once again."""
        self.__init__()  # type: ignore[misc]

    def copies(self, dice: Random) -> list[float]:
        """After how long each copy arrives of what is sent now; none where it is lost."""
        if self.cut or _falls(self.loss, dice):
            return []
        return [self._time_s(dice) for _ in range(1 + _falls(self.duplication, dice))]

    def _time_s(self, dice: Random) -> float:
        return self.delay_s + (dice.uniform(0, self.jitter_s) if self.jitter_s else 0.0)

    def as_it_arrives(self, body: bytes) -> bytes:
        """What is left of a body."""
        return bytes([body[0] ^ 1]) + body[1:] if self.garbles and body else body


def _falls(chance: float, dice: Random) -> bool:
    return chance > 0 and dice.random() < chance


class Cluster:
    """The nodes of a ``peers://`` cluster in one process: real middlewares that really call each other, without a network.

    Entering it starts them. Nothing sleeps: time stands still but in :meth:`run`, :meth:`advance`, :meth:`wait_until` and
    what is built on them, where it jumps from one moment at which somebody waits no longer to the next. Works on asyncio
    and trio. A node can be told settings of its own in ``node.settings``, before it is started.

    Args:
        names: of the nodes.
        app: behind the middleware of each; by default :func:`who_is_there`.
        seed: of the dice that links roll. The same seed loses, delays and doubles the same.
        backend: makes a backend for each node, of its settings; by default what ``HA_SESSION_CLUSTER`` names.
        settings: of all nodes, beside a secret, the peers, and each one's own URL and name.

    Attributes:
        nodes: in the order of their names.
        passed_s: how much time has passed.

    Example:
        >>> async def story() -> str:
        ...     async with Cluster() as cluster:
        ...         a, b, c = cluster.nodes
        ...         await cluster.ready()
        ...         token = mint_session(a.manager, "ada")
        ...         cluster.cut(a, b)
        ...         answer = await b.get("/", token=token)
        ...         return answer.json()["subject"]
        >>> anyio.run(story)
        'ada'
    """

    def __init__(
        self,
        names: Sequence[str] = ("a", "b", "c"),
        *,
        app: ASGIApp = who_is_there,
        seed: int = 0,
        backend: Callable[[Settings], Backend] | None = None,
        **settings: Any,
    ) -> None:
        urls = {name: f"http://{name}.test" for name in names}
        common = {"secret_key": SECRET, "cluster": "peers://", "peers": tuple(urls.values()), **settings}
        self.nodes = [Node(self, app, {**common, "node_id": name, "advertise_url": url}) for name, url in urls.items()]
        self.passed_s = 0.0
        self._backend = backend
        self._links = {(one, other): Link() for one in self.nodes for other in self.nodes}
        self._dice = {(one, other): Random(f"{one.name} {other.name} {seed}") for one, other in self._links}  # noqa: S311 - as below
        self._time = ManualClock()  # by which messages travel
        self._resting = anyio.Lock()
        self._tasks = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        for node in self.nodes:
            await node.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        with CancelScope(shield=True):
            for node in self.nodes:
                await node.kill()
            self._tasks.cancel_scope.cancel()  # what is still on its way finds nobody
        # A failure of the test itself is to reach the one who reads it as it is, not in a group.
        cancelled = isinstance(exc, anyio.get_cancelled_exc_class())
        await self._tasks.__aexit__(*((kind, exc, trace) if cancelled else (None, None, None)))

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    # Links

    def link(self, sender: Node, receiver: Node) -> Link:
        """The way from one to the other. The way back is another."""
        return self._links[sender, receiver]

    def cut(self, one: Node, *others: Node) -> None:
        """Cut the links between one node and others, both ways; between it and all where none is named."""
        self._set_cut(one, others, cut=True)

    def heal(self, one: Node, *others: Node) -> None:
        """Mend what :meth:`cut` has cut."""
        self._set_cut(one, others, cut=False)

    def _set_cut(self, one: Node, others: tuple[Node, ...], *, cut: bool) -> None:
        for other in others or self.nodes:
            if other is not one:
                self.link(one, other).cut = self.link(other, one).cut = cut

    # Time

    async def ready(self) -> None:
        """Let time pass until all nodes that run judge sessions.

        Raises:
            TimeoutError: one of them does not come to that.
        """
        await self.wait_until(lambda: all(node.why_not_ready is None for node in self.nodes if node.running))

    async def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """What an async function returns, or raises. While it waits, time passes.

        Raises:
            TimeoutError: it takes longer than 60 s of the cluster's time.
        """
        outcome: list[T] = []
        failure: list[Exception] = []

        async def call() -> None:
            try:
                outcome.append(await function(*args, **kwargs))
            except Exception as exc:  # noqa: BLE001 - raised below, outside the task group, which would wrap it
                failure.append(exc)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            in_time = await self._pass_until(lambda: bool(outcome or failure), 60.0)
            tasks.cancel_scope.cancel()
        if failure:
            raise failure[0]
        if not in_time:
            raise TimeoutError("takes longer than 60 s of the cluster's time")
        return outcome[0]

    async def wait_until(self, condition: Callable[[], bool], *, within_s: float = 60.0) -> None:
        """Let time pass until a condition holds.

        Raises:
            TimeoutError: it does not within this time of the cluster.
        """
        if not await self._pass_until(condition, within_s):
            raise TimeoutError(f"not within {within_s:g} s of the cluster's time")

    async def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        await self._pass_until(lambda: False, seconds)

    async def sleep(self, seconds: float) -> None:
        """Return when so much time has passed, which somebody else lets pass."""
        with self._time.move_on_after(seconds):
            await anyio.sleep_forever()

    async def settle(self) -> None:
        """Let everybody do what can be done without time passing.

        Raises:
            RuntimeError: there is no end to it.
        """
        async with self._resting:
            await _until_nothing_moves()

    async def _pass_until(self, condition: Callable[[], bool], within_s: float) -> bool:
        end_s = self.passed_s + within_s
        await self.settle()
        while not condition():
            left_s = end_s - self.passed_s
            if left_s < _LEAST_STEP_S:
                return False
            waits = [wait_s for clock in self._clocks() if (wait_s := clock.until_next()) is not None]
            self._advance_clocks(min(max(min(waits, default=left_s), _LEAST_STEP_S), left_s))
            await self.settle()
        return True

    def _advance_clocks(self, seconds: float) -> None:
        self.passed_s += seconds
        for clock in self._clocks():
            clock.advance(seconds)

    def _clocks(self) -> list[ManualClock]:
        return [self._time, *(node.clock for node in self.nodes)]

    async def _travels(self, link: Link, seconds: float) -> bool:
        """Return when a message has taken its time, and whether it arrives."""
        if seconds:
            await self.sleep(seconds)
        return not link.cut


_LEAST_STEP_S = 1e-6
"""Clocks have microseconds: less than that may be lost in rounding, and no time would pass."""


class Node:
    """A node of a :class:`Cluster`.

    Attributes:
        name: which is its ``HA_SESSION_NODE_ID``, too.
        url: where the others reach it.
        settings: what it is started with the next time.
        clock: its own. Step its wall clock to set it wrong, or let it run at another rate than the others'.
    """

    def __init__(self, cluster: Cluster, app: ASGIApp, settings: dict[str, Any]) -> None:
        self.name: str = settings["node_id"]
        self.url: str = settings["advertise_url"]
        self.settings = settings
        self.clock = ManualClock()
        self._cluster = cluster
        self._app = app
        self._starts = 0
        self._process: _Process | None = None
        self._thawed = anyio.Event()
        self._thawed.set()

    async def start(self) -> None:
        """Start it, as a new process: it knows what its files hold, and no more."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        self._starts += 1
        dice = Random(f"{self.name} {self._starts}")  # noqa: S311 - the same test has the same ids each time
        backend = self._cluster._backend  # noqa: SLF001 - the nodes are the cluster's
        settings = Settings(**self.settings)
        manager = SessionManager(
            settings,
            clock=self.clock,
            random=dice.randbytes,
            peer_transport=_Wire(self._cluster, self),
            backend=backend(settings) if backend is not None else None,
        )
        process = _Process(SessionMiddleware(self._app, manager=manager))
        await self._cluster._tasks.start(process.live)  # noqa: SLF001 - the nodes are the cluster's
        self._process = process

    async def stop(self) -> None:
        """End it in order, as SIGTERM does; one that is frozen is thawed first."""
        self.thaw()
        await self._end(lambda process: process.stopping.set())

    async def kill(self) -> None:
        """End it in the midst of what it does, as SIGKILL does: whatever is in memory only is forgotten."""
        await self._end(lambda process: process.kill())
        self.thaw()

    def freeze(self) -> None:
        """Stop it wherever it waits, as SIGSTOP does: its clocks go on, and what it is sent is kept until it goes on too."""
        self.clock.freeze()
        self._thawed = anyio.Event()

    def thaw(self) -> None:
        """Let it go on, as SIGCONT does."""
        self.clock.thaw()
        self._thawed.set()

    @property
    def frozen(self) -> bool:
        return not self._thawed.is_set()

    async def _end(self, how: Callable[[_Process], None]) -> None:
        process, self._process = self._process, None
        if process is not None:
            how(process)
            await process.ended.wait()

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def middleware(self) -> SessionMiddleware:
        """The node as an ASGI app.

        Raises:
            RuntimeError: it does not run.
        """
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.middleware

    @property
    def manager(self) -> SessionManager:
        return self.middleware.manager

    @property
    def why_not_ready(self) -> str | None:
        """What keeps it from judging sessions."""
        return self.manager.why_not_ready()

    def client(self, **kwargs: Any) -> httpx2.AsyncClient:
        """A client of this node. Call it by ``await cluster.run(client.get, "/")``, so that time passes while it waits."""
        return httpx2.AsyncClient(transport=_Door(self), base_url=self.url, **kwargs)

    async def request(
        self, method: str, path: str, *, token: str | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """What the node answers. Time passes while it does not.

        Args:
            method, path, headers: of the request.
            token: sent as a bearer.

        Raises:
            httpx2.TransportError: the node does not run, or is killed.
        """
        sent = {**(headers or {}), **({"authorization": f"Bearer {token}"} if token else {})}
        async with self.client() as client:
            return await self._cluster.run(client.request, method, path, headers=sent)

    async def get(self, path: str = "/", **kwargs: Any) -> httpx2.Response:
        """:meth:`request` with GET."""
        return await self.request("GET", path, **kwargs)

    async def post(self, path: str, **kwargs: Any) -> httpx2.Response:
        """:meth:`request` with POST."""
        return await self.request("POST", path, **kwargs)

    def __repr__(self) -> str:
        return f"<Node {self.name}>"


class _Process:
    """What lives from a start of a node to its end."""

    def __init__(self, middleware: SessionMiddleware) -> None:
        self.middleware = middleware
        self.stopping = anyio.Event()
        self.ended = anyio.Event()
        self._scopes: dict[CancelScope, None] = {}  # in their order, so that they end in the same one each time

    async def live(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """The lifespan, as a server drives it."""
        opening: list[Message] = [{"type": "lifespan.startup"}]

        async def receive() -> Message:
            if opening:
                return opening.pop()
            await self.stopping.wait()
            return {"type": "lifespan.shutdown"}

        async def send(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                raise RuntimeError(message.get("message", ""))
            if message["type"] == "lifespan.startup.complete":
                task_status.started()

        try:
            with self._scope():
                await self.middleware({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
        finally:
            self.kill()  # with the process end the requests that are still under way
            self.ended.set()

    async def serve(self, request: httpx2.Request, thawed: anyio.Event) -> httpx2.Response:
        with self._scope():
            await thawed.wait()
            return await httpx2.ASGITransport(app=self.middleware).handle_async_request(request)
        raise httpx2.ReadError("the node was killed", request=request)

    @contextmanager
    def _scope(self) -> Iterator[None]:
        with CancelScope() as scope:
            self._scopes[scope] = None
            try:
                yield
            finally:
                del self._scopes[scope]

    def kill(self) -> None:
        for scope in self._scopes:
            scope.cancel()


class _Door(httpx2.AsyncBaseTransport):
    """The way into a node, for those who stand before it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        process = self._node._process  # noqa: SLF001 - its door
        if process is None:
            raise httpx2.ConnectError("the node does not run", request=request)
        return await process.serve(request, self._node._thawed)  # noqa: SLF001


class _Wire(httpx2.AsyncBaseTransport):
    """Carries the calls of one node to the others, over links that can be cut."""

    def __init__(self, cluster: Cluster, caller: Node) -> None:
        self._cluster = cluster
        self._caller = caller

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        callee = next((node for node in self._cluster.nodes if httpx2.URL(node.url).host == request.url.host), None)
        if callee is None:
            raise httpx2.ConnectError("no such node", request=request)
        call = _Call(self._cluster, self._caller, callee, request, await request.aread())
        call.send()
        answer = await call.answer()
        await self._caller._thawed.wait()  # noqa: SLF001
        return answer


class _Call:
    """A call under way, and then its answer. Both go on when nobody waits for them any more, and may arrive late."""

    def __init__(self, cluster: Cluster, caller: Node, callee: Node, request: httpx2.Request, body: bytes) -> None:
        self._cluster, self._callee = cluster, callee
        self._there, self._back = cluster.link(caller, callee), cluster.link(callee, caller)
        self._dice = cluster._dice[caller, callee], cluster._dice[callee, caller]  # noqa: SLF001 - the cluster's network
        self._request, self._body = request, body
        self._outcome: httpx2.Response | httpx2.TransportError | None = None
        self._ended = anyio.Event()

    def send(self) -> None:
        for seconds in self._there.copies(self._dice[0]):
            self._cluster._tasks.start_soon(self._go, seconds)  # noqa: SLF001

    async def answer(self) -> httpx2.Response:
        await self._ended.wait()
        if isinstance(self._outcome, httpx2.Response):
            return self._outcome
        raise self._outcome or httpx2.ReadError("no answer", request=self._request)

    async def _go(self, seconds: float) -> None:
        if not await self._cluster._travels(self._there, seconds):  # noqa: SLF001
            return
        try:
            response = await self._deliver()
            if self._there.replays:
                await self._deliver()
        except httpx2.TransportError as failure:
            self._end(failure)
            return
        for back_s in self._back.copies(self._dice[1])[:1]:
            if await self._cluster._travels(self._back, back_s):  # noqa: SLF001
                content = self._back.as_it_arrives(await response.aread())
                self._end(httpx2.Response(response.status_code, headers=response.headers, stream=httpx2.ByteStream(content)))

    async def _deliver(self) -> httpx2.Response:
        body, request = self._there.as_it_arrives(self._body), self._request
        copy = httpx2.Request(request.method, request.url, headers=request.headers, content=body)
        return await _Door(self._callee).handle_async_request(copy)

    def _end(self, outcome: httpx2.Response | httpx2.TransportError) -> None:
        if self._outcome is None:
            self._outcome = outcome
            self._ended.set()


async def _until_nothing_moves() -> None:
    for _ in range(100_000):
        await _all_blocked()
        if not anyio.to_thread.current_default_thread_limiter().borrowed_tokens:
            return
        await anyio.sleep(0.0001)  # a thread has a file in hand, and that takes what it takes
    raise RuntimeError("the tasks do not come to rest")


async def _all_blocked() -> None:
    """Return once all other tasks wait for something that none of them has done yet."""
    try:
        me = asyncio.current_task()
    except RuntimeError:  # trio has this built in. What anyio has for asyncio sleeps meanwhile.
        with anyio.fail_after(10):
            await anyio.wait_all_tasks_blocked()
        return
    quiet = 0
    for _ in range(100_000):
        await anyio.lowlevel.checkpoint()
        quiet = quiet + 1 if all(_is_blocked(task) for task in asyncio.all_tasks() if task is not me) else 0
        if quiet == _QUIET_ROUNDS:
            return
    raise RuntimeError("the tasks do not come to rest")


_QUIET_ROUNDS = 3
"""A cancellation may be on its way while its task looks blocked: anyio delivers it in the event loop's next round."""


def _is_blocked(task: asyncio.Task[Any]) -> bool:
    waits_for = task._fut_waiter  # type: ignore[attr-defined]  # noqa: SLF001 - nothing public tells
    return waits_for is not None and not waits_for.done()
