"""A cluster in one process, without a network. Time passes while a test waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import anyio
from anyio import CancelScope
from starlette.types import ASGIApp

from ..abc import Backend
from ..config import Settings
from .clock import ManualClock
from .link import Link
from .network import Network
from .node import Node
from .sessions import SECRET, who_is_there
from .stillness import until_nothing_moves

P = ParamSpec("P")
T = TypeVar("T")


class Cluster:
    """The nodes of a ``peers://`` cluster in one process: real middlewares that call each other, without a network.

    Entering the cluster starts the nodes. Nothing sleeps: time passes only in :meth:`run`, :meth:`advance`,
    :meth:`wait_until` and the methods that use them. It jumps from the end of one wait to the end of the next. Works on
    asyncio and trio. To give a node its own settings, change ``node.settings`` before the node starts.

    Args:
        names: of the nodes.
        app: the app behind each node's middleware; by default :func:`who_is_there`.
        seed: of the links' random numbers. The same seed loses, delays and duplicates the same messages.
        backend: makes each node's backend from its settings; by default the one that ``HA_SESSION_CLUSTER`` names.
        settings: of all nodes, in addition to a secret, the peers, and each node's URL and name.

    Attributes:
        nodes: the nodes, in the order of their names.
        passed_s: seconds of the cluster's time that have passed.

    Example:
        >>> from ha_session_mw.testing import Cluster, mint_session
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
        self._network = Network(seed)
        self.nodes = [
            Node(self._network, app, {**common, "node_id": name, "advertise_url": url}, backend=backend, run=self.run)
            for name, url in urls.items()
        ]
        self._network.hosts = [*self.nodes]
        self.passed_s = 0.0
        self._resting = anyio.Lock()

    async def __aenter__(self) -> Self:
        await self._network.tasks.__aenter__()
        for node in self.nodes:
            await node.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        with CancelScope(shield=True):
            for node in self.nodes:
                await node.kill()
            self._network.tasks.cancel_scope.cancel()  # messages that are still under way reach no node
        # A failure of the test itself is raised as it is, not in an exception group.
        cancelled = isinstance(exc, anyio.get_cancelled_exc_class())
        await self._network.tasks.__aexit__(*((kind, exc, trace) if cancelled else (None, None, None)))

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    # Links

    def link(self, sender: Node, receiver: Node) -> Link:
        """Return the link from one node to another. The opposite direction has a link of its own."""
        return self._network.link(sender, receiver)

    def cut(self, one: Node, *others: Node) -> None:
        """Cut the links between one node and others, in both directions; without others, between it and all nodes."""
        self._set_cut(one, others, cut=True)

    def heal(self, one: Node, *others: Node) -> None:
        """Restore the links that :meth:`cut` has cut."""
        self._set_cut(one, others, cut=False)

    def _set_cut(self, one: Node, others: tuple[Node, ...], *, cut: bool) -> None:
        for other in others or self.nodes:
            if other is not one:
                self.link(one, other).cut = self.link(other, one).cut = cut

    # Time

    async def ready(self) -> None:
        """Let time pass until all running nodes can validate sessions.

        Raises:
            TimeoutError: a node is not ready within 60 s of the cluster's time.
        """
        await self.wait_until(lambda: all(node.why_not_ready is None for node in self.nodes if node.running))

    async def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an async function; return its result, or raise its exception. Time passes while it waits.

        Raises:
            TimeoutError: the function takes longer than 60 s of the cluster's time.
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
            TimeoutError: the condition does not hold within this much of the cluster's time.
        """
        if not await self._pass_until(condition, within_s):
            raise TimeoutError(f"not within {within_s:g} s of the cluster's time")

    async def advance(self, seconds: float) -> None:
        """Let this much time pass."""
        await self._pass_until(lambda: False, seconds)

    async def sleep(self, seconds: float) -> None:
        """Return when this much time has passed. Another task must let it pass."""
        await self._network.sleep(seconds)

    async def settle(self) -> None:
        """Let all tasks run until each of them waits for time to pass.

        Raises:
            RuntimeError: the tasks do not come to rest.
        """
        async with self._resting:
            await until_nothing_moves()

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
        return [self._network.clock, *(node.clock for node in self.nodes)]


_LEAST_STEP_S = 1e-6
"""Smallest step of time, in seconds. Rounding may lose a smaller one, so that no time would pass."""
