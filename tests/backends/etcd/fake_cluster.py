"""A cluster of nodes in one process on an etcd of three members in memory. Time passes by hand for all of them.

Raft's guarantee is taken as given: committed entries stay, in one order. Everything else goes wrong on demand: leaders change, members
freeze, end and lag, history is compacted, and the links between nodes and members lose, delay and cut.
"""

from __future__ import annotations

from base64 import b64decode
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from random import Random
from types import TracebackType
from typing import Any, Self

import anyio
import httpx2
import msgspec

from ha_session_mw import Settings
from ha_session_mw.abc import Backend
from ha_session_mw.backends.etcd.backend import EtcdBackend
from ha_session_mw.testing import Cluster, Link, Node

from .fake_state import Answer, EtcdState

BEGUN_AT_S = 1_800_000_000.0
"""The right time at the begin of a story."""
COMMIT_S = 0.001
"""How long a member takes for a call."""
NO_QUORUM_S = 7.0
"""After which etcd says that a call was not done in time."""
NO_LEADER_S = 3.4
"""After which a member that has lost its leader ends its watches."""

_UNDONE: Answer = 503, {"error": "etcdserver: request timed out", "code": 14}
_encode = msgspec.json.Encoder().encode


class EtcdCluster(Cluster):
    """A cluster whose nodes share an etcd. End its nodes by :meth:`kill` and :meth:`stop`.

    Args:
        names: of the nodes.
        seed: of all dice.
        settings: as those of a :class:`ha_session_mw.testing.Cluster`.

    Attributes:
        etcd: which the nodes share.
    """

    def __init__(self, names: Sequence[str] = ("a", "b", "c"), *, seed: int = 0, **settings: Any) -> None:
        self.etcd = FakeEtcd3(self, Random(f"etcd {seed}"))
        super().__init__(names, seed=seed, backend=self.etcd.backend, cluster=self.etcd.url, peers=(), **settings)

    async def __aenter__(self) -> Self:
        await self.etcd.tasks.__aenter__()
        return await super().__aenter__()

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        for node in self.nodes:
            self.etcd.cut_power(node)
        await super().__aexit__(kind, exc, trace)
        self.etcd.tasks.cancel_scope.cancel()
        await self.etcd.tasks.__aexit__(None, None, None)

    async def kill(self, node: Node) -> None:
        """End a node as SIGKILL does: nothing that it would say before its end is heard."""
        self.etcd.cut_power(node)
        await node.kill()

    async def stop(self, node: Node) -> None:
        """End a node as SIGTERM does, while time passes."""
        await self.run(node.stop)


def cut_off(cluster: Cluster, node: Node) -> None:
    """Cut a node off from the other nodes, and from etcd if the cluster has one."""
    cluster.cut(node)
    for link in cluster.etcd.links_of(node) if isinstance(cluster, EtcdCluster) else ():
        link.cut = True


def reconnect(cluster: Cluster, node: Node) -> None:
    """Undo :func:`cut_off`."""
    cluster.heal(node)
    for link in cluster.etcd.links_of(node) if isinstance(cluster, EtcdCluster) else ():
        link.cut = False


class FakeEtcd3:
    """An etcd.

    Args:
        cluster: whose nodes call it, and in whose time it lives.
        dice: decide which messages are lost, and which member wins a vote.
        members: how many.

    Attributes:
        state: the committed keys and leases.
        members: with names ``e0``, ``e1`` and so on.
        url: the value for ``HA_SESSION_CLUSTER``.
        tasks: in which messages travel.
        ahead_s: how far its clock is ahead of the right time.
        brought: for each node, how many messages its watches have brought.
    """

    def __init__(self, cluster: Cluster, dice: Random, members: int = 3) -> None:
        self.cluster = cluster
        self.dice = dice
        self.state = EtcdState()
        self.members = [EtcdMember(self, f"e{number}") for number in range(members)]
        self.url = f"etcd://{','.join(f'{member.name}:1' for member in self.members)}/shop"
        self.leader = self.members[0]
        self.elected_at_s = 0.0
        self.ahead_s = 0.0
        self.tasks = anyio.create_task_group()
        self._links: dict[tuple[str, str], Link] = {}
        self._plugs: list[_Plug] = []
        self.brought: Counter[str] = Counter()

    def backend(self, settings: Settings) -> Backend:
        """Return the backend of a node that has just started."""
        plug = _Plug(self, str(settings.node_id))
        self._plugs.append(plug)
        dice = Random(f"{plug.name} {len(self._plugs)}")
        return EtcdBackend(settings, transport=lambda: _Cable(plug), random=dice.randbytes)

    def cut_power(self, node: Node) -> None:
        """Nothing that the present process of a node sends from now on leaves it."""
        for plug in self._plugs:
            if plug.name == node.name:
                plug.pull()

    # Time and links

    @property
    def now_s(self) -> float:
        return self.cluster.passed_s

    def date(self) -> str:
        """What a member's own clock says, in whole seconds."""
        return formatdate(BEGUN_AT_S + self.now_s + self.ahead_s, usegmt=True)

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            await self.cluster.sleep(seconds)

    def link(self, sender: str, receiver: str) -> Link:
        """The way from a node to a member, or back."""
        return self._links.setdefault((sender, receiver), Link())

    def links_of(self, node: Node) -> list[Link]:
        """All ways between a node and the members."""
        return [self.link(*way) for member in self.members for way in ((node.name, member.name), (member.name, node.name))]

    async def travels(self, link: Link, seconds: float) -> bool:
        """Return when a message has taken its time, and whether it arrives."""
        await self.sleep(seconds)
        return not link.cut

    # Leadership

    def serves(self, member: EtcdMember) -> bool:
        """Whether a member reaches a leader that has a majority."""
        well = sum(other.is_well for other in self.members)
        return member.is_well and self.leader.is_well and self.now_s >= self.elected_at_s and well > len(self.members) // 2

    def elect(self, within_s: float = 1.5) -> None:
        """Another member leads, after so long."""
        others = [member for member in self.members if member.is_well and member is not self.leader]
        if others:
            self.leader = self.dice.choice(others)
        self.elected_at_s = self.now_s + within_s

    def health_changed(self) -> None:
        """A member has ended, was frozen or cut off, or is well again."""
        if not self.leader.is_well:
            self.elect(self.dice.uniform(1, 2.3))

    # Requests and replication

    def commit(self, path: str, body: Mapping[str, Any]) -> Answer:
        answer = self.state.answer(path, body, self.now_s)
        for member in self.members:
            if member.lag_s:
                self.tasks.start_soon(member.apply_late)
            elif member.is_well:
                member.apply()
        return answer

    def compact(self) -> None:
        """Forget the history."""
        self.state.compact()
        for member in self.members:
            member.tell_streams()

    def heal(self) -> None:
        """All members are well, and no link loses anything."""
        self.state.is_full = False
        for link in self._links.values():
            link.mend()
        for member in self.members:
            member.heal()


class EtcdMember:
    """One member, where nodes come in.

    Attributes:
        applied: up to which revision it has applied the log.
        lag_s: how much later than the others it does.
        silent: its watches stay open, and bring nothing.
    """

    def __init__(self, etcd: FakeEtcd3, name: str) -> None:
        self.etcd = etcd
        self.name = name
        self.applied = 1
        self.lag_s = 0.0
        self.running = True
        self.cut_off = False
        self.silent = False
        self.streams: dict[Stream, None] = {}
        self._thawed = anyio.Event()
        self._thawed.set()

    @property
    def frozen(self) -> bool:
        return not self._thawed.is_set()

    @property
    def is_well(self) -> bool:
        return self.running and not self.frozen and not self.cut_off

    def freeze(self) -> None:
        """Stop it as SIGSTOP does. It carries out the requests of that time when it continues."""
        if not self.frozen:
            self._thawed = anyio.Event()
            self.etcd.health_changed()

    def kill(self) -> None:
        """End it. Its watches break."""
        self._thawed.set()
        self.running = False
        for stream in [*self.streams]:
            stream.end(httpx2.ReadError("reset"))
        self.etcd.health_changed()

    def part(self) -> None:
        """Cut it off from the other members. Nodes go on asking it."""
        self.cut_off = True
        self.etcd.health_changed()
        self.etcd.tasks.start_soon(self._miss_the_leader)

    def heal(self) -> None:
        """It is well, and catches up."""
        self.running, self.cut_off, self.silent, self.lag_s = True, False, False, 0.0
        self._thawed.set()
        self.etcd.health_changed()
        self.apply()

    async def _miss_the_leader(self) -> None:
        await self.etcd.sleep(NO_LEADER_S)
        if self.cut_off:
            for stream in [*self.streams]:
                stream.send({"error": {"grpc_code": 14, "http_code": 503, "message": "etcdserver: no leader"}})

    # The log

    async def apply_late(self) -> None:
        await self.etcd.sleep(self.lag_s)
        if self.is_well:
            self.apply()

    def apply(self) -> None:
        self.applied = self.etcd.state.revision
        self.tell_streams()

    def tell_streams(self) -> None:
        for stream in self.streams:
            stream.news.set()

    # Calls

    async def serve(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Carry out a node's request: now, or once there is a leader, or never.

        Raises:
            httpx2.ConnectError: it does not run.
        """
        await self._thawed.wait()
        if not self.running:
            raise httpx2.ConnectError("refused")
        etcd = self.etcd
        if not etcd.serves(self):
            if etcd.dice.random() < 0.5:
                await etcd.sleep(NO_QUORUM_S)
                return _UNDONE
            await etcd.sleep(etcd.elected_at_s - etcd.now_s)
        await etcd.sleep(COMMIT_S)
        if not etcd.serves(self):
            await etcd.sleep(NO_QUORUM_S)
            return _UNDONE
        return etcd.commit(path, body)


class Stream(httpx2.AsyncByteStream):
    """A member's stream to one watcher, in order: it is complete, or it breaks, or it falls silent for good."""

    def __init__(self, cable: _Cable, member: EtcdMember, start: bytes, end: bytes, revision: int) -> None:
        self.news = anyio.Event()
        self._etcd, self._member = cable.etcd, member
        self._node = cable.node
        self._link = cable.etcd.link(member.name, cable.name)
        self._range = start, end
        self._next = revision
        self._chunks: deque[bytes | Exception] = deque()
        self._arrived = anyio.Event()
        self._is_over = False
        member.streams[self] = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            while not self._chunks or self._node.frozen:
                await (self._node.thawed if self._chunks else self._arrived).wait()
            chunk = self._chunks.popleft()
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def aclose(self) -> None:
        self._is_over = True
        self._member.streams.pop(self, None)
        self.news.set()

    async def bring(self) -> None:
        """Send new changes, as long as the watcher listens."""
        self.send({"result": {"header": {"revision": str(self._member.applied)}, "created": True}})
        while not self._is_over:
            self.news = anyio.Event()
            message = None if self._member.frozen or self._member.silent else self._message()
            if message is None:
                await self.news.wait()
                continue
            times = self._link.copies(self._etcd.dice)
            arrives = await self._etcd.travels(self._link, times[0] if times else 0.0)
            if arrives and times:
                self.send(message)
            else:
                self._break(_encode(message))

    def _message(self) -> Mapping[str, Any] | None:
        state = self._etcd.state
        if self._next <= state.compacted:
            self._next = state.revision + 1
            return {"result": {"canceled": True, "compact_revision": str(state.compacted)}}
        changes = [change for change in state.since(self._next, *self._range) if change.pair.mod_revision <= self._member.applied]
        if not changes:
            return None
        self._next = changes[-1].pair.mod_revision + 1
        return {"result": {"header": {"revision": str(state.revision)}, "events": [change.event() for change in changes]}}

    def send(self, message: Mapping[str, Any]) -> None:
        """Have a message arrive now, in one or two chunks."""
        self._etcd.brought[self._node.name] += 1
        line = _encode(message) + b"\n"
        middle = self._etcd.dice.randrange(len(line)) if self._etcd.dice.random() < 0.1 else 0
        self._put(*filter(None, (line[:middle], line[middle:])))

    def _break(self, line: bytes) -> None:
        """Lose the connection, perhaps within a message, and perhaps unnoticed."""
        if self._etcd.dice.random() < 0.5:
            self._put(line[: self._etcd.dice.randrange(1, len(line))])
            self.end(httpx2.ReadError("reset"))
        self._is_over = True

    def end(self, failure: Exception) -> None:
        self._put(failure)
        self._is_over = True
        self.news.set()

    def _put(self, *chunks: bytes | Exception) -> None:
        if not self._is_over:
            self._chunks += chunks
            self._arrived.set()
            self._arrived = anyio.Event()


def _refusal() -> httpx2.Response:
    """Return a final refusal, so that a process that is about to end does not retry."""
    return httpx2.Response(400, stream=httpx2.ByteStream(b'{"error": "etcdserver: authentication failed", "code": 3}'))


@dataclass(eq=False)
class _Plug:
    """The way of one process of a node to etcd."""

    etcd: FakeEtcd3
    name: str
    is_dead: bool = False
    calls: dict[_Call, None] = field(default_factory=dict)
    scopes: dict[anyio.CancelScope, None] = field(default_factory=dict)
    """Of answers that have come while the process is frozen."""

    def pull(self) -> None:
        self.is_dead = True
        for call in self.calls:
            call.end(_refusal())
        for scope in self.scopes:
            scope.cancel()


class _Cable(httpx2.AsyncBaseTransport):
    """Carries calls of one process to the members."""

    def __init__(self, plug: _Plug) -> None:
        self.etcd = plug.etcd
        self.name = plug.name
        self._plug = plug

    @property
    def node(self) -> Node:
        return self.etcd.cluster[self.name]

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._plug.is_dead:
            return _refusal()
        member = next(member for member in self.etcd.members if member.name == request.url.host)
        call = _Call(self, member, request.url.path, msgspec.json.decode(await request.aread()))
        for seconds in self.etcd.link(self.name, member.name).copies(self.etcd.dice):
            self.etcd.tasks.start_soon(call.go, seconds)
        self._plug.calls[call] = None
        try:
            response = await call.answer()
        finally:
            del self._plug.calls[call]
        if not self._plug.is_dead:
            await self._thawed_or_pulled()
        return response

    async def _thawed_or_pulled(self) -> None:
        """Wait while the process is frozen. One that is killed meanwhile must end, even in a call that cannot be cancelled."""
        with anyio.CancelScope() as scope:
            self._plug.scopes[scope] = None
            try:
                await self.node.thawed.wait()
            finally:
                del self._plug.scopes[scope]


class _Call:
    """A call under way, and then its answer. Both continue when the caller has stopped waiting."""

    def __init__(self, cable: _Cable, member: EtcdMember, path: str, body: Mapping[str, Any]) -> None:
        self._cable, self._member = cable, member
        self._path, self._body = path, body
        self._outcome: httpx2.Response | httpx2.TransportError | None = None
        self._ended = anyio.Event()

    async def answer(self) -> httpx2.Response:
        await self._ended.wait()
        if isinstance(self._outcome, httpx2.Response):
            return self._outcome
        raise self._outcome or httpx2.ReadError("no answer")

    async def go(self, seconds: float) -> None:
        etcd, name = self._cable.etcd, self._cable.name
        if not await etcd.travels(etcd.link(name, self._member.name), seconds):
            return
        try:
            response = await self._served()
        except httpx2.TransportError as failure:
            self.end(failure)
            return
        back = etcd.link(self._member.name, name)
        for back_s in back.copies(etcd.dice)[:1]:
            if await etcd.travels(back, back_s):
                self.end(response)

    async def _served(self) -> httpx2.Response:
        if self._path == "/v3/watch":
            return await self._watched()
        status, answer = await self._member.serve(self._path, self._body)
        return httpx2.Response(status, headers={"date": self._cable.etcd.date()}, stream=httpx2.ByteStream(_encode(answer)))

    async def _watched(self) -> httpx2.Response:
        if not self._member.running:
            raise httpx2.ConnectError("refused")
        asked = self._body["create_request"]
        stream = Stream(self._cable, self._member, b64decode(asked["key"]), b64decode(asked["range_end"]), asked["start_revision"])
        self._cable.etcd.tasks.start_soon(stream.bring)
        return httpx2.Response(200, stream=stream)

    def end(self, outcome: httpx2.Response | httpx2.TransportError) -> None:
        if self._outcome is None:
            self._outcome = outcome
            self._ended.set()
