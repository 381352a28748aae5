"""A worker of ``etcd://``: the driver that obeys the ordered log, writes to the engine and follows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ha_session_mw._core.cluster.members import Heartbeat, Members
from ha_session_mw._core.ordered.keys import (
    BEATS,
    FLOOR,
    LOG,
    LogId,
    decode_beat,
    decode_entry,
    decode_floor,
    decode_log,
    encode_beat,
    encode_entry,
    encode_floor,
    encode_log,
    ended_ranges,
    entry_key,
)
from ha_session_mw._core.ordered.ready import (
    BeatDeleted,
    BeatPut,
    EntryDeleted,
    EntryPut,
    FloorRaised,
    Item,
    Look,
    Ready,
    Sent,
    Snapshot,
    StoredBeat,
)
from ha_session_mw.events import RolledBack
from ha_session_mw.models import Cut, Entry, NodeId

from .engine import Change, Engine, Kept, Revision, Server, Write
from .node import HEARTBEAT_S, LIMIT_S, LONGEST_MS, Node
from .ordered_variants import RIGHT, OrderedVariant
from .world import EPOCH_MS, Session, SubjectCut, World

TRY_S = 0.6
"""How long the engine may take for an answer."""
IDLE_S = 1.0
"""How long a stream may be silent, with a beat of its own under way every half second."""
AGAIN_S = 0.2
"""Pause after a refused write."""
BATCH = 3
"""Entries in one transaction: so few that a log-out of several is written in several, and may fail half-way."""


@dataclass(eq=False)
class Asked:
    """A log-out in progress: its unwritten entries, and the time and position from which the fence counts."""

    unwritten: set[str]
    hit: list[Session | SubjectCut]
    position: int = 0
    durable_s: float = 0.0


@dataclass(eq=False)
class Try:
    """A write with a waiting caller."""

    then: Callable[[int | None], None]
    failed: Callable[[], None] | None = None
    is_beat: bool = False


@dataclass(eq=False)
class Machine:
    """The state that the workers of one node share."""

    number: int
    workers: list[OrderedNode] = field(default_factory=list)


class OrderedNode(Node):
    """A worker's process."""

    world: OrderedWorld
    receipts: list[Asked]

    def __init__(self, world: OrderedWorld, number: int, machine: Machine, *, rate: float, wall_off_ms: float) -> None:
        self.name = f"m{machine.number}.w{len(machine.workers)}"
        super().__init__(world, number, f"http://{self.name}", rate=rate, wall_off_ms=wall_off_ms)
        self.machine = machine
        self.receipts = []
        self.leaving = False
        machine.workers.append(self)

    # The process.

    def start(self) -> None:
        self.up = True
        self.life += 1
        own = Heartbeat(NodeId(self.name), f"{self.number}-{self.life}", self.url, "starting", 0, 0, (), LIMIT_S, LONGEST_MS)
        self.view = self.world.variant.new_view()
        self.log = self.world.variant.ordered(self.view, own, heartbeat_s=HEARTBEAT_S)
        self.yes_until = {}
        self.receipts = []
        self.unwritten: dict[str, Entry] = {}
        self.writing = False
        self.beat_at = -1.0
        self.tries: dict[int, Try] = {}
        self.looks: dict[int, Look] = {}
        self.tickets = self.stream = 0
        self.heard_of = 0
        self.heard_s = 0.0
        self.writes_to = self.follows = self.world.random.randrange(len(self.servers))
        self.load()
        self.tick()

    def crash(self) -> None:
        """Kill the process. Its pending log-outs are never acknowledged, and its unwritten entries are lost."""
        self.up = self.leaving = False
        self.receipts = []

    def leave(self) -> None:
        """Go in good order."""
        self.leaving = True
        self.log.leave()
        self.tries.clear()
        self.ask(Write(deletes=(f"{BEATS}/{self.log.slot}",)), lambda _: None)
        self.wait(0.05, self.crash)

    @property
    def servers(self) -> list[Server]:
        return self.world.engine.servers

    def tick(self) -> None:
        self.obey(self.log.tick(self.now()))
        self.settle()
        self.wait(HEARTBEAT_S, self.tick)

    def obey(self, ready: Ready) -> None:
        """Carry out the state machine's requests."""
        if ready.floor_ms is not None:
            self.prune(ready.floor_ms)
        for slot, position in ready.remove:
            self.remove(f"{BEATS}/{slot}", position)
        for event in ready.events:
            self.world.findings.losses += isinstance(event, RolledBack)

    def prune(self, floor_ms: int) -> None:
        def is_higher(state: dict[str, Kept]) -> bool:
            return state[FLOOR].value < encode_floor(floor_ms)

        self.ask(Write(puts=((FLOOR, encode_floor(floor_ms)),), ranges=tuple(ended_ranges(floor_ms)), only_if=is_higher), lambda _: None)

    def remove(self, key: str, position: int) -> None:
        def is_last(state: dict[str, Kept]) -> bool:
            return key in state and state[key].position == position

        self.ask(Write(deletes=(key,), only_if=is_last), lambda _: None)

    def settle(self) -> None:
        """Do a driver's work after each call: load, write, put the beat that is due, check the log-outs."""
        if self.log.needs_load and self.stream:
            self.stream = 0
            self.load()
        if self.unwritten and not self.writing:
            self.write()
        self._plan_beat()
        self._look_at_receipts()
        self.log.check(self.now())

    # Writing.

    def ask(
        self, write: Write, then: Callable[[int | None], None], failed: Callable[[], None] | None = None, *, is_beat: bool = False
    ) -> None:
        self.tickets += 1
        ticket = self.tickets
        self.tries[ticket] = Try(then, failed, is_beat)
        server = self.servers[self.writes_to]
        self.world.send(self, server, server.on_write, write, self, self.life, ticket)
        self.wait(TRY_S, self._give_up, ticket, self.writes_to)

    def _give_up(self, ticket: int, server: int) -> None:
        tried = self.tries.pop(ticket, None)
        if tried is None:
            return
        if self.writes_to == server:  # only the first one to fail moves it
            self.writes_to = (server + 1) % len(self.servers)
        if tried.failed is not None:
            tried.failed()

    def on_written(self, life: int, ticket: int, position: int | None) -> None:
        tried = self.tries.pop(ticket, None) if life == self.life else None
        if tried is None:
            return
        self.heard_of = max(self.heard_of, position or 0)
        tried.then(position)
        self.settle()

    def on_refused(self, life: int, ticket: int) -> None:
        """The engine is full."""
        tried = self.tries.pop(ticket, None) if life == self.life else None
        if tried is not None and tried.failed is not None:
            self.wait(AGAIN_S, tried.failed)
        if tried is not None and tried.is_beat:
            self._look()

    def _look(self) -> None:
        look = self.log.look(self.now())
        if look is not None:
            self.tickets += 1
            self.looks = {self.tickets: look}
            server = self.servers[self.writes_to]
            self.world.send(self, server, server.on_look, self, self.life, self.tickets, f"{BEATS}/{look.slot}", look.position)

    def on_looked(self, life: int, ticket: int, position: int, is_quiet: bool) -> None:
        if life == self.life and ticket in self.looks:
            self.obey(self.log.looked(self.looks.pop(ticket), position, is_quiet=is_quiet, now=self.now()))
            self.settle()

    def write(self) -> None:
        """Write some unwritten entries. A failed write is retried. It may then happen twice, which changes nothing."""
        keys = [*self.unwritten][:BATCH]
        self.writing = True

        def written(position: int | None) -> None:
            assert position is not None
            self.writing = False
            for key in keys:
                self.unwritten.pop(key, None)
            for asked in self.receipts:
                if asked.unwritten & set(keys):
                    asked.unwritten.difference_update(keys)
                    asked.position, asked.durable_s = max(asked.position, position), self.now().boot_s

        def failed() -> None:
            self.writing = False
            self.settle()

        self.ask(Write(puts=tuple((key, encode_entry(self.unwritten[key])) for key in keys)), written, failed)

    def _plan_beat(self) -> None:
        due_s = self.log.due_s
        if due_s != self.beat_at and due_s < float("inf"):
            self.beat_at = due_s
            self.at_boot(max(due_s, self.now().boot_s), self._beat, due_s)

    def _beat(self, due_s: float) -> None:
        if self.log.due_s != due_s or self.beat_at != due_s:
            return  # it was brought forward, or put already
        sent = self.log.beat(self.now())
        write = Write(puts=((f"{BEATS}/{sent.slot}", encode_beat(sent.beat)),))
        self.ask(write, lambda position: self._beaten(sent, position), is_beat=True)
        self.settle()

    def _beaten(self, sent: Sent, position: int | None) -> None:
        assert position is not None
        self.obey(self.log.answered(sent, position))

    # Reading.

    def load(self) -> None:
        self.tickets += 1
        ticket = self.loading = self.tickets
        server = self.servers[self.follows]
        self.world.send(self, server, server.on_load, self, self.life, ticket)
        self.wait(TRY_S, self._load_again, ticket)

    def _load_again(self, ticket: int) -> None:
        if self.loading == ticket:
            self.follows = (self.follows + 1) % len(self.servers)
            self.load()

    def on_snapshot(self, life: int, ticket: int, position: int, state: dict[str, Kept]) -> None:
        if life != self.life or ticket != self.loading:
            return
        self.loading = 0
        for _ in self.log.load(_snapshot(position, state), self.now):
            pass
        self.obey(self.log.ready(self.now()))
        self.heard_of = position
        self.follow()
        self.settle()

    def follow(self) -> None:
        self.tickets += 1
        self.stream = self.tickets
        self.heard_s = self.now().boot_s
        server = self.servers[self.follows]
        start = (self.heard_of if self.world.variant.resumes_undelivered else self.log.position) + 1
        self.world.send(self, server, server.on_follow, self, self.life, self.stream, start)
        self.wait(IDLE_S, self._look_at_stream, self.stream)

    def _look_at_stream(self, number: int) -> None:
        if number != self.stream:
            return
        idle_s = self.now().boot_s - self.heard_s
        if idle_s < IDLE_S:
            self.wait(IDLE_S - idle_s + 1e-6, self._look_at_stream, number)
            return
        self.follows = (self.follows + 1) % len(self.servers)
        self.follow()

    def on_compacted(self, life: int, number: int) -> None:
        if life == self.life and number == self.stream:
            self.stream = 0
            self.load()

    def on_revisions(self, number: int, revisions: list[Revision]) -> None:
        for revision in revisions:
            if number == self.stream:
                self.heard_s = self.now().boot_s
                self.heard_of = max(self.heard_of, revision.position)
                self.obey(self.log.delivered(revision.position, _items(revision.changes), self.now()))
                self.settle()

    # Log-outs.

    def append(self, entries: list[Entry], hit: list[Session | SubjectCut]) -> None:
        self.asked_to_revoke(hit)
        self.receipts.append(Asked({entry_key(entry) for entry in entries}, hit))
        self.apply(entries)

    def seek(self) -> Callable[[], bool]:
        log, begun_s = self.log, self.now().boot_s
        log.seek_contact()
        self.settle()
        return lambda: log.standstill.beaten_s >= begun_s

    def deny(self, entries: list[Entry]) -> Callable[[], bool]:
        keys = {entry_key(entry) for entry in entries}
        self.apply(entries)
        return lambda: not keys & self.unwritten.keys()

    def apply(self, entries: list[Entry]) -> None:
        self.log.append(entries)
        self.unwritten |= {entry_key(entry): entry for entry in entries}
        self.settle()

    def _look_at_receipts(self) -> None:
        left = []
        for asked in self.receipts:
            if asked.unwritten:
                left.append(asked)
            elif self.now().boot_s >= self.log.fenced_by(asked.position, asked.durable_s):
                self.acknowledge(asked.hit)
            else:
                left.append(asked)
                self.at_boot(self.log.fenced_by(asked.position, asked.durable_s), self._fence_is_due)
        self.receipts = left

    def _fence_is_due(self) -> None:
        if self.receipts:
            self.settle()

    # The world's questions.

    def may_lose(self, cut: Cut) -> bool:
        return entry_key(cut) in self.unwritten

    @property
    def members(self) -> Members:
        return self.log.members

    @property
    def starting(self) -> bool:
        return self.log.catching_up

    @property
    def knows_the_time(self) -> bool:
        """Whether it has ever heard several members agree on the time."""
        return self.members._agreed is not None

    def is_ready(self) -> bool:
        return self.log.is_ready(self.now())


def _snapshot(position: int, state: dict[str, Kept]) -> Snapshot:
    entries, beats = [], []
    for key, kept in state.items():
        kind, _, rest = key.partition("/")
        if kind == BEATS:
            beats.append(StoredBeat(rest, decode_beat(kept.value), kept.position))
        elif key not in (LOG, FLOOR):
            entries.append(decode_entry(key, kept.value))
    return Snapshot(position, decode_log(state[LOG].value), entries, beats, decode_floor(state[FLOOR].value))


def _items(changes: tuple[Change, ...]) -> list[Item]:
    return [item for change in changes if (item := _item(change)) is not None]


def _item(change: Change) -> Item | None:
    kind, _, rest = change.key.partition("/")
    if change.key == LOG:
        return None
    if kind == BEATS:
        return BeatDeleted(rest) if change.value is None else BeatPut(rest, decode_beat(change.value))
    if change.value is None:
        return EntryDeleted(change.key)
    if change.key == FLOOR:
        return FloorRaised(decode_floor(change.value))
    return EntryPut(decode_entry(change.key, change.value), change.created)


class OrderedWorld(World[OrderedNode]):
    """Some nodes with some workers each, and an engine of three servers.

    Args:
        machines: how many nodes.
        workers: how many processes on each.
        seed: where all chance comes from.
        variant: the rules that the nodes follow.
        drift: by how much the nodes' clocks may run fast or slow.
        skew_ms: by how much their wall clocks may differ at first.
    """

    variant: OrderedVariant

    def __init__(
        self,
        machines: int,
        workers: int = 1,
        *,
        seed: int = 0,
        variant: OrderedVariant = RIGHT,
        drift: float = 0.0,
        skew_ms: float = 0.0,
    ) -> None:
        super().__init__(seed, variant)
        self.machines = [Machine(number) for number in range(machines)]
        for machine in self.machines:
            rate = 1 + self.random.uniform(-drift, drift)
            wall_off_ms = EPOCH_MS + self.random.uniform(-skew_ms, skew_ms)
            for _ in range(workers):
                self.nodes.append(OrderedNode(self, len(self.nodes), machine, rate=rate, wall_off_ms=wall_off_ms))
                self.nodes[-1].boot_off_s = machine.workers[0].boot_off_s
        self.engine = Engine(self, range(len(self.nodes), len(self.nodes) + 3))
        self.engine.commit(Write(puts=((LOG, encode_log(LogId("log", EPOCH_MS))), (FLOOR, encode_floor(0)))))

    def away(self, node: OrderedNode) -> list[tuple[int, int]]:
        """The links between a worker and the engine."""
        return [link for server in self.engine.servers for link in ((node.number, server.number), (server.number, node.number))]

    def at_life(self, node: OrderedNode, life: int, act: Callable[..., None], *args: object) -> None:
        """Have something happen to that process, if it is still there."""
        if node.life == life:
            self.at(self.time, node, act, *args)
