"""Listeners to the cluster: each receives all events in order, at its own pace, and learns how many it has missed.

Publishing an event costs one step for each listener. It never waits, calls no listener and never raises, so a listener can
neither break nor slow down the node.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from threading import get_ident
from types import TracebackType
from typing import Self, assert_never
from weakref import WeakSet

import anyio
import anyio.abc
import anyio.lowlevel

from .._core.cluster.view import NO_SESSION, View
from .._core.ticks import until_tick_s
from ..abc import Clock, ClusterLog
from ..events import (
    ClockDoubted,
    ClockTrusted,
    ClusterEvent,
    EverybodyRevoked,
    IdRevoked,
    KeyRevoked,
    Missed,
    SubjectRevoked,
    ViewFresh,
    ViewStale,
)
from ..models import Cut, Deny, DenyKey, Entry

logger = logging.getLogger("ha_session_mw")

ROOM = 1000
"""Default number of events kept for a busy listener: more than happen in a second, and some 100 kB."""

Callback = Callable[[ClusterEvent], Awaitable[None] | None]
"""The callback of :meth:`SessionManager.on_event`: a function or a coroutine function."""


class EventStream:
    """The events from now on, in order: ``async for event in stream``. The stream ends only when it is closed.

    A busy listener loses nothing while at most ``room`` events wait for it. Later events are counted, and a
    :class:`~ha_session_mw.events.Missed` in their place reports the count. Leaving a ``with`` block closes the stream. A stream
    without references is forgotten.

    Attributes:
        missed: how many events were lost so far.

    Raises:
        ValueError: there is no room for a single event.
    """

    __slots__ = ("__weakref__", "_closed", "_events", "_kept", "_news", "_room", "_thread", "missed")

    def __init__(self, room: int = ROOM) -> None:
        if room < 1:
            raise ValueError(f"room must be 1 or more, got {room!r}")
        self.missed = 0
        self._room = room
        self._events: deque[ClusterEvent] = deque()
        self._kept = 0  # events other than ``Missed``
        self._closed = False
        self._news: anyio.Event | None = None  # set while a listener waits, in ``_thread``
        self._thread = 0

    def put(self, event: ClusterEvent) -> None:
        """Keep an event for the listener, if there is room."""
        if self._kept < self._room:
            self._kept += 1
            self._events.append(event)
        else:
            self.missed += 1
            last = self._events[-1]
            if isinstance(last, Missed):
                self._events[-1] = Missed(last.count + 1)
            else:
                self._events.append(Missed(1))
        self.wake()

    def wake(self) -> None:
        """Wake a waiting listener. In a thread other than its event loop's, do nothing: the node's task wakes it later."""
        if self._news is not None and self._thread == get_ident() and (self._events or self._closed):
            self._news.set()
            self._news = None

    def close(self) -> None:
        """End the stream and drop its unread events. Closing it again changes nothing."""
        self._closed = True
        self._events.clear()
        self.wake()

    @property
    def is_closed(self) -> bool:
        """Whether the stream was closed."""
        return self._closed

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ClusterEvent:
        await anyio.lowlevel.checkpoint()  # a flood of events must not keep other tasks from running
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            if self._news is None:
                self._news, self._thread = anyio.Event(), get_ident()
            news = self._news
            try:
                await news.wait()
            finally:
                # The anyio event belongs to this event loop, which may end before the stream does.
                news.set()
                self._news = None if self._news is news else self._news
        event = self._events.popleft()
        self._kept -= not isinstance(event, Missed)
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EventStream, {'closed' if self._closed else f'{len(self._events)} events wait'}>"


class Listeners:
    """All listeners of one node.

    Args:
        view: this node's knowledge.
        clock: the two clocks.
        every_s: interval between looks at whether the view has become stale, or the clock untrusted.

    Attributes:
        missed: how many events slow listeners have lost, listeners that are gone included.
        failures: how often a callback raised.
    """

    def __init__(self, view: View, clock: Clock, *, every_s: float) -> None:
        self._view = view
        self._clock = clock
        self._every_s = every_s
        self._streams: WeakSet[EventStream] = WeakSet()
        self._calls: dict[EventStream, Callback] = {}
        self._log: ClusterLog
        self._follows = False
        self._tasks: anyio.abc.TaskGroup | None = None
        self._thread = 0
        self._opened = anyio.Event()
        self.missed = 0
        self.failures = 0

    def follow(self, log: ClusterLog) -> None:
        """Report from now on whether the view is fresh and the clock trusted, by this log. Call it before anything else."""
        self._log, self._follows = log, True
        self._fresh = self._is_fresh()
        self._trusted = True

    # Listening

    def open(self, room: int) -> EventStream:
        """Return a stream of the events from now on."""
        if self._follows and not self._streams:
            self.look()  # while nobody listened, it was seldom time to
        stream = EventStream(room)
        self._streams.add(stream)
        if self._thread == get_ident():  # in another one, the task finds the stream a little later
            self._opened.set()
        return stream

    def call(self, callback: Callback, room: int) -> Callable[[], None]:
        """Call a callback with each event, one at a time, while the node runs; return a function that ends this."""
        if not callable(callback):
            raise TypeError(f"callback must be callable, got {type(callback).__name__}")
        stream = self.open(room)
        self._calls[stream] = callback
        if self._tasks is not None:
            self._tasks.start_soon(self._carry, stream, callback)

        def stop() -> None:
            stream.close()
            self._calls.pop(stream, None)

        return stop

    async def _carry(self, stream: EventStream, callback: Callback) -> None:
        async for event in stream:
            try:
                result = callback(event)
                if inspect.isawaitable(result):
                    await result
            except (Exception, anyio.get_cancelled_exc_class()):
                # On asyncio, this may be the cancellation of something that the callback waited for, and not of this task.
                await anyio.lowlevel.checkpoint_if_cancelled()
                self.failures += 1
                logger.exception("a callback that listens to the cluster has failed on %s, and is called again", type(event).__name__)

    def __len__(self) -> int:
        return sum(not stream.is_closed for stream in self._streams)

    # Publishing

    def tell(self, event: ClusterEvent) -> None:
        """Keep an event for each listener."""
        for stream in [*self._streams]:
            if not stream.is_closed:
                missed = stream.missed
                stream.put(event)
                self.missed += stream.missed - missed

    def on_event(self, event: ClusterEvent) -> None:
        """Pass an event of the log on, and look again: the event may have changed how fresh this node is."""
        self.tell(event)
        if self._follows:  # else the log is just being opened
            self.look()

    def on_news(self, entries: Sequence[Entry]) -> None:
        """Publish log-outs that are news to the view."""
        if self._streams:
            for entry in entries:
                if not (isinstance(entry, Deny) and entry.id.startswith(NO_SESSION)):
                    self.tell(_event_of(entry))

    def look(self) -> None:
        """Publish whether freshness or the trust in the clock has changed since the last look."""
        if (fresh := self._is_fresh()) != self._fresh:
            self._fresh = fresh
            self.tell(ViewFresh() if fresh else ViewStale())
        # A starting node has heard too few others to tell, and reports that by other means.
        if not self._log.is_starting() and (trusted := self._log.trusts_clock()) != self._trusted:
            self._trusted = trusted
            self.tell(ClockTrusted() if trusted else ClockDoubted())

    def _is_fresh(self) -> bool:
        return self._clock.boot_s() - self._view.fresh_at <= self._log.freshness_limit_s

    async def run(self) -> None:
        """Look regularly, and call the callbacks, until cancelled."""
        self._thread = get_ident()
        async with anyio.create_task_group() as self._tasks:
            try:
                for stream, callback in self._calls.items():
                    self._tasks.start_soon(self._carry, stream, callback)
                while True:
                    self.look()
                    for stream in self._streams:
                        stream.wake()  # another thread may have put an event into it
                    await self._wait()
            finally:
                self._tasks, self._thread = None, 0

    async def _wait(self) -> None:
        if not self._streams:
            self._opened = anyio.Event()
            await self._opened.wait()
            return
        wait_s = until_tick_s(self._clock.boot_s(), self._every_s)
        if self._fresh:  # a view becomes stale by time alone, and fresh by news
            await self._clock.sleep(wait_s)
            return
        with self._clock.move_on_after(wait_s):
            await self._log.wait_changed()

    def find(self) -> None:
        """Find the streams that other threads have opened. Called about once a second."""
        if self._streams:
            self._opened.set()


def _event_of(entry: Entry) -> ClusterEvent:
    match entry:
        case Deny(id=id, until_ms=until_ms, replaced_ms=replaced_ms):
            return IdRevoked(id, until_ms, superseded=bool(replaced_ms))
        case Cut(subject=subject, until_ms=until_ms, except_family=family):
            return EverybodyRevoked(until_ms) if subject is None else SubjectRevoked(subject, until_ms, family)
        case DenyKey(kid=kid, until_ms=until_ms):
            return KeyRevoked(kid, until_ms)
        case _:
            assert_never(entry)
