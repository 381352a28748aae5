"""A request that is cancelled at any moment has changed the client's session as a whole, or not at all.

Servers cancel the task of a request whose client has gone, and apps cancel what exceeds their time limit: by anyio's scopes, or by
asyncio's own ``Task.cancel()``, which no shielded scope holds back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message

from ha_session_mw import Session
from ha_session_mw._node.uncancelled import Uncancelled
from ha_session_mw.abc import Receipt
from ha_session_mw.manager import node_of
from ha_session_mw.models import Entry

from ..asgi.driver import Act, Visitor, cycle, log_in_again, prove_again, scope_of, who
from .test_left_behind import Alone, Log, clear_and_log_in, is_as_before

pytestmark = pytest.mark.anyio

Request = Callable[[], Coroutine[Any, Any, None]]
Cancel = Callable[[Request, int], Awaitable[None]]


async def by_asyncio(request: Request, moment: int) -> None:
    """As uvicorn, hypercorn and Starlette cancel the task of a request."""
    task = asyncio.ensure_future(request())
    for _ in range(moment):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def by_asyncio_twice(request: Request, moment: int) -> None:
    """As a server that loses its patience."""
    task = asyncio.ensure_future(request())
    for _ in range(moment):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def by_anyio(request: Request, moment: int) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request)
        for _ in range(moment):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


every_way = pytest.mark.parametrize("cancel", [by_asyncio, by_asyncio_twice, by_anyio], ids=lambda cancel: cancel.__name__)
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


def request_of(node: Alone, visitor: Visitor, act: Act, sent: list[Message]) -> Request:
    headers = [(b"cookie", f"session={visitor.token}".encode())]
    scope = scope_of("http", "/", headers=headers, act=act, status=200, answer_headers=[])

    async def send(message: Message) -> None:  # uvicorn's waits for nothing; those of hypercorn and of some middleware do
        await anyio.lowlevel.checkpoint()
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    async def request() -> None:
        with suppress(KeyError):
            await node.app(scope, receive, send)

    return request


def token_in(sent: Sequence[Message]) -> str | None:
    for message in sent:
        for name, value in message.get("headers", ()):
            if name == b"set-cookie":
                return str(value.decode().split(";")[0].partition("=")[2])
    return None


async def cycle_under_a_lock(session: Session) -> None:
    async with session.lock():
        cycle(session)


# A new id


@on_asyncio
@every_way
@pytest.mark.parametrize("change", [cycle, cycle_under_a_lock, log_in_again, prove_again, clear_and_log_in], ids=lambda c: c.__name__)
async def test_the_client_has_its_old_session_or_the_new_one(change: Any, cancel: Cancel) -> None:
    outcomes = set()
    for moment in range(1, 30):
        node = Alone(data="store", track="on")
        visitor, sent = await node.logged_in(cart=[1]), list[Message]()
        node.backend.store._records.require_held = lambda _: None
        await cancel(request_of(node, visitor, change, sent), moment)
        new = token_in(sent)
        if new is None:
            assert (await visitor.visit(who)).result == "ada", moment
        else:
            visitor.token = new
            data: dict[str, Any] = {"role": "admin"} if change is clear_and_log_in else {"cart": [1], "role": "admin"}
            assert await is_as_before(visitor, data), moment
        outcomes.add(new is None)
    assert outcomes == {True, False}


# A log-out


def clear(session: Session) -> None:
    session.clear()


async def revoke(session: Session) -> None:
    await session.revoke()


async def clear_and_fail(session: Session) -> None:
    session.clear()
    raise KeyError("of the app's own")


class Noted(Log):
    """A log that tells which entries have become durable."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.durable: list[Entry] = []

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        receipt = await super().append(entries)
        self.durable += entries
        return receipt

    async def fence(self, receipt: Receipt) -> None:
        await self._wait()


@on_asyncio
@every_way
@pytest.mark.parametrize("act", [clear, revoke, clear_and_fail], ids=lambda act: act.__name__)
async def test_a_log_out_is_carried_out_to_its_end(act: Act, cancel: Cancel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.session.test_left_behind.Log", Noted)
    for moment in range(1, 20):
        node = Alone(data="store")
        ada, bob = await node.logged_in("ada", cart=[1]), await node.logged_in("bob", cart=[2])
        both = node.visitor()
        both.token = f"{ada.token}; session={bob.token}"  # a log-out ends both
        await cancel(request_of(node, both, act, []), moment)
        assert isinstance(node.log, Noted)
        assert len({*node.log.durable}) == len(node.log.durable) == 2, moment
        assert not node.backend.store._records._records, moment


@on_asyncio
@pytest.mark.parametrize("act", [clear, revoke], ids=lambda act: act.__name__)
async def test_a_log_out_without_a_majority_is_written_down(act: Act, tmp_path: Path) -> None:
    for moment in range(1, 20, 3):
        node = Alone(state_dir=tmp_path / f"{moment}")
        visitor = await node.logged_in()
        node.log.takes = False
        await by_asyncio(request_of(node, visitor, act, []), moment)
        assert len(node_of(node.manager).revoker.provisional) == 1, moment


# What holds the cancellations back


@on_asyncio
async def test_a_time_limit_of_asyncio_that_passes_meanwhile_is_told_as_such() -> None:
    done = []

    async def step() -> str:
        await asyncio.sleep(0.02)
        done.append(1)
        return "done"

    async def request() -> None:
        async with asyncio.timeout(0.01):
            with Uncancelled() as uncancelled:
                assert await uncancelled.run(step) == "done"
            await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        await request()
    assert done == [1]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@every_way
@on_asyncio
async def test_the_error_of_a_step_is_raised_and_the_cancellation_comes_after_it(cancel: Cancel) -> None:
    seen = []

    async def step() -> None:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        raise KeyError("of the step")

    async def request() -> None:
        try:
            with Uncancelled() as uncancelled:
                await uncancelled.run(step)
        except KeyError:
            seen.append("error")
        await anyio.lowlevel.checkpoint()
        seen.append("went on")  # pragma: no cover - it is cancelled before

    await cancel(request, 2)
    assert seen == ["error"]


async def test_a_step_that_exceeds_its_limit_is_cancelled() -> None:
    ended = []

    async def step() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(1)

    with pytest.raises(TimeoutError), Uncancelled() as uncancelled:
        await uncancelled.run(step, limit_s=0.01)
    assert ended == [1]


async def test_the_context_of_the_caller_is_that_of_its_steps() -> None:
    """A tracer finds its span there."""
    from contextvars import ContextVar

    span: ContextVar[str] = ContextVar("span")
    span.set("request")

    async def step() -> str:
        return span.get()

    with Uncancelled() as uncancelled:
        assert await uncancelled.run(step) == "request"
