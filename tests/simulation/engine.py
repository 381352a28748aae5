"""An engine that keeps one order of revisions, as seen from outside: some servers, a leader, and all that may go wrong between.

The guarantee of a consensus protocol is taken as given: committed entries stay, in one order. Everything else is not: a write may be
applied without an answer, later, or twice; a server may lag; a follower's stream may fall silent, break, or be gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .node import Place

if TYPE_CHECKING:
    from .ordered_node import OrderedNode, OrderedWorld

SYNC_S = 0.05
"""Interval at which a lagging server asks for missing entries."""


@dataclass(frozen=True)
class Change:
    """One change of a key. ``value`` is None where it was deleted."""

    key: str
    value: bytes | None
    created: bool = False


@dataclass(frozen=True)
class Revision:
    """All changes of one transaction."""

    position: int
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Write:
    """A transaction: puts, deletions of keys and of ranges, if a condition holds."""

    puts: tuple[tuple[str, bytes], ...] = ()
    deletes: tuple[str, ...] = ()
    ranges: tuple[tuple[str, str], ...] = ()
    only_if: Callable[[dict[str, Kept]], bool] | None = None


@dataclass(frozen=True)
class Kept:
    """A value, and the position at which it was put."""

    value: bytes
    position: int


@dataclass(eq=False)
class Stream:
    """A server's messages to one follower, in order."""

    node: OrderedNode
    life: int
    number: int
    next: int
    arrives: float = 0.0
    open: bool = True


class Server(Place):
    """One of the engine's servers, where nodes come in.

    Attributes:
        applied: up to which revision it has applied the log.
        lag_s: how much later than the others it does.
        silent_until: until when its streams are open and bring nothing.
    """

    def __init__(self, engine: Engine, number: int) -> None:
        super().__init__(number)
        self.up = True
        self.engine = engine
        self.world = engine.world
        self.applied = 0
        self.lag_s = 0.0
        self.silent_until = 0.0
        self.streams: list[Stream] = []

    # Nodes' requests.

    def on_write(self, write: Write, node: OrderedNode, life: int, ticket: int) -> None:
        if write.puts and node.number in self.engine.refuses:
            if self.engine.serves(self):
                self.world.send(self, node, node.on_refused, life, ticket)
            return

        def answer(position: int | None) -> None:
            self.world.send(self, node, node.on_written, life, ticket, position)

        self.engine.propose(self, write, answer)

    def on_load(self, node: OrderedNode, life: int, ticket: int) -> None:
        if self.engine.serves(self):
            state, position = dict(self.engine.state), self.engine.position
            self.world.send(self, node, node.on_snapshot, life, ticket, position, state)

    def on_look(self, node: OrderedNode, life: int, ticket: int, key: str, position: int) -> None:
        if self.engine.serves(self):
            state = self.engine.state
            is_quiet = key in state and all(kept.position <= position for kept in state.values())
            self.world.send(self, node, node.on_looked, life, ticket, self.engine.position, is_quiet)

    def on_follow(self, node: OrderedNode, life: int, number: int, start: int) -> None:
        if start <= self.engine.compacted:
            self.world.send(self, node, node.on_compacted, life, number)
            return
        stream = Stream(node, life, number, start)
        self.streams.append(stream)
        self.push(stream)

    # Deliveries.

    def apply(self, position: int) -> None:
        """Apply the committed entries up to this position."""
        if position <= self.applied or not self.engine.connected(self):
            return
        self.applied = position
        for stream in self.streams:
            self.push(stream)

    def sync(self) -> None:
        if self.applied < self.engine.position and not self.lag_s:
            self.apply(self.engine.position)
        self.world.after(SYNC_S, self, self.sync)

    def push(self, stream: Stream) -> None:
        """Send new revisions with a delay, so that several share a message."""
        if self.world.time >= self.silent_until:
            self.world.after(self.world.random.uniform(0, 0.002), self, self._send, stream)

    def _send(self, stream: Stream) -> None:
        if stream.open and stream.next <= self.engine.compacted:
            self._end(stream)
            self.world.send(self, stream.node, stream.node.on_compacted, stream.life, stream.number)
            return
        found = [revision for revision in self.engine.since(stream.next) if revision.position <= self.applied]
        if not found or not stream.open:
            return
        stream.next = found[-1].position + 1
        world = self.world
        link = (self.number, stream.node.number)
        stream.arrives = max(stream.arrives, world.time + world.delay_s(link)) + 1e-6
        broken = world.random.random() < world.links.loss
        world.at(stream.arrives, None, self._arrive, stream, found, broken)

    def _arrive(self, stream: Stream, revisions: list[Revision], broken: bool) -> None:
        """A connection loses nothing in between: it brings all, or it ends, and then perhaps in the middle of a message."""
        if not stream.open:
            return
        if broken or (self.number, stream.node.number) in self.world.links.cut:
            self._end(stream)
            revisions = revisions[: self.world.random.randrange(len(revisions) + 1)] if broken else []
        if revisions:
            self.world.at_life(stream.node, stream.life, stream.node.on_revisions, stream.number, revisions)

    def _end(self, stream: Stream) -> None:
        stream.open = False
        self.streams.remove(stream)


class Engine:
    """The state that all servers agree on.

    Args:
        world: where it is.
        numbers: of its servers, for the links.
    """

    def __init__(self, world: OrderedWorld, numbers: range) -> None:
        self.world = world
        self.state: dict[str, Kept] = {}
        self.revisions: list[Revision] = []
        self.position = 1
        self.compacted = 0
        self.ready_at = 0.0
        """End of the current election. Proposals before it are lost or applied later, without an answer."""
        self.refuses: set[int] = set()
        """The numbers of the nodes that may write nothing, because the servers that they ask are full. They may read, and delete."""
        self.servers = [Server(self, number) for number in numbers]
        self.leader = self.servers[0]
        for server in self.servers:
            world.after(SYNC_S, server, server.sync)

    # The order.

    def propose(self, server: Server, write: Write, answer: Callable[[int | None], None]) -> None:
        world = self.world
        if not self.serves(server):
            if self.connected(server) and world.random.random() < 0.5:
                world.at(max(self.ready_at, world.time) + world.random.uniform(0.001, 0.05), None, self._retry, server, write)
            return
        world.after(world.random.uniform(0.0005, 0.003), None, self._commit, server, write, answer)

    def _retry(self, server: Server, write: Write) -> None:
        """Apply a proposal after the election, although its sender no longer waits."""
        if self.serves(server):
            self.commit(write)

    def _commit(self, server: Server, write: Write, answer: Callable[[int | None], None]) -> None:
        if self.serves(server):
            answer(self.commit(write))

    def commit(self, write: Write) -> int | None:
        """Apply a transaction; returns its position, None where its condition does not hold."""
        if write.only_if is not None and not write.only_if(self.state):
            return None
        ended = [key for first, beyond in write.ranges for key in self.state if first <= key < beyond]
        gone = [key for key in (*write.deletes, *ended) if key in self.state]
        changes = [Change(key, value, created=key not in self.state) for key, value in write.puts]
        changes += [Change(key, None) for key in gone]
        if not changes:
            return self.position
        self.position += 1
        for key, value in write.puts:
            self.state[key] = Kept(value, self.position)
        for key in gone:
            del self.state[key]
        self.revisions.append(Revision(self.position, tuple(changes)))
        for server in self.servers:
            self.world.after(self.world.random.uniform(0.0001, 0.002) + server.lag_s, server, server.apply, self.position)
        return self.position

    def since(self, start: int) -> list[Revision]:
        found = []
        for revision in reversed(self.revisions):
            if revision.position < start:
                break
            found.append(revision)
        return found[::-1]

    # Faults.

    def connected(self, server: Server) -> bool:
        cut = self.world.links.cut
        return server is self.leader or not {(server.number, self.leader.number), (self.leader.number, server.number)} & cut

    def serves(self, server: Server) -> bool:
        """Whether a server reaches a leader that has a majority."""
        majority = len(self.servers) // 2 + 1
        return self.world.time >= self.ready_at and self.connected(server) and sum(map(self.connected, self.servers)) >= majority

    def elect(self, seconds: float) -> None:
        """The leader dies, or is lost; another one takes over after so long."""
        others = [server for server in self.servers if server is not self.leader]
        self.leader = self.world.random.choice(others)
        self.ready_at = self.world.time + seconds

    def compact(self) -> None:
        self.compacted = self.position
        self.revisions = []

    def restore(self, state: dict[str, Kept], position: int) -> None:
        """An old backup is put back, and streams end."""
        self.state, self.position, self.revisions, self.compacted = dict(state), position, [], 0
        for server in self.servers:
            server.applied = position
            for stream in server.streams:
                stream.open = False
            server.streams = []

    def stall(self, seconds: float) -> None:
        """All streams stay open, and bring nothing."""
        for server in self.servers:
            server.silent_until = self.world.time + seconds
            self.world.after(seconds, server, self._go_on, server)

    def _go_on(self, server: Server) -> None:
        for stream in server.streams:
            server.push(stream)
