"""Workers of one machine with another secret, or with another one than before: each worker knows whose keys are whose."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ha_session_mw import KeyNotReached
from ha_session_mw._core.token.keys import SigningKey
from ha_session_mw._node.keys_told import keys_of
from ha_session_mw.manager import node_of
from ha_session_mw.ops.health import checks_of
from ha_session_mw.testing import SECRET, ManualClock

from .test_log import Worker, path, running

__all__ = ["path"]

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

OTHER = "Xy7Kd2LmQ9vRtB4nWpZ8sHcJ6gFe3UaT"
THIRD = "bT9xKw3VnQ7pLzR5YhD1sXjG8fCmUe4A"


def forged(token: str) -> str:
    """The token, as if a key that nobody has had signed it."""
    parts = token.split(".")
    return ".".join((*parts[:2], SigningKey(THIRD.encode()).kid, *parts[3:]))


@asynccontextmanager
async def three(path: Path, clock: ManualClock) -> AsyncIterator[tuple[Worker, Worker, Worker]]:
    """Three workers, the last of which has another secret."""
    a, b, odd = (Worker(path, clock=clock, secret_key=secret) for secret in (SECRET, SECRET, OTHER))
    async with running(a, b, odd):
        for worker in (a, b, odd):
            worker.log.poll_now()
        yield a, b, odd


async def test_a_good_session_is_503_at_a_worker_with_another_secret_and_a_forged_one_stays_401(path: Path, clock: ManualClock) -> None:
    async with three(path, clock) as (a, b, odd):
        token = a.log_in()
        assert [worker.says(token) for worker in (a, b, odd)] == ["yes", "yes", "key_not_reached"]
        assert [worker.says(forged(token)) for worker in (a, b, odd)] == ["token_invalid"] * 3
        refused = await odd.request("GET", "/private", token)
        assert (refused.status_code, refused.json()["code"]) == (503, "key_not_reached")


async def test_an_operator_who_asks_one_worker_sees_the_keys_of_all(path: Path, clock: ManualClock) -> None:
    async with three(path, clock) as workers:
        told: Any = keys_of(node_of(workers[0].manager))
        assert told["members"] == sorted(node_of(worker.manager).node_id for worker in workers)
        assert (told["hears_others"], len(told["keys"])) == (True, 2)


async def test_the_odd_worker_issues_nothing_and_is_not_ready_and_the_others_go_on(path: Path, clock: ManualClock) -> None:
    async with three(path, clock) as (a, b, odd):
        with pytest.raises(KeyNotReached):
            odd.log_in()
        assert "HA_SESSION_SECRET_KEY" in str(odd.manager.why_not_ready())
        for worker in (a, b):
            assert worker.manager.why_not_ready() is None
            worker.log_in()
            [keys] = [check for check in checks_of(node_of(worker.manager)) if check.name == "keys"]
            assert keys.status == "warn"
            assert str(node_of(odd.manager).node_id) in keys.output
            assert "HA_SESSION_SECRET_KEY" in keys.remedy


async def test_without_what_workers_tell_each_other_a_good_session_would_be_401(path: Path, clock: ManualClock) -> None:
    async with three(path, clock) as (a, _, odd):
        odd.log.kids_of_others = dict
        assert odd.says(a.log_in()) == "token_invalid"


async def test_the_log_names_the_member(path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    async with three(path, clock) as (a, _, odd):
        node_of(a.manager).standing.look()
        own = f"member {node_of(odd.manager).node_id} and this node cannot validate each other's tokens"
        assert [record.levelno for record in caplog.records if record.getMessage().startswith(own)] == [logging.ERROR]


async def test_a_worker_that_was_killed_is_forgotten_and_its_key_a_minute_later(path: Path, clock: ManualClock) -> None:
    async with three(path, clock) as (a, _, odd):
        use = node_of(a.manager).key_use
        kid = SigningKey(OTHER.encode()).kid
        use.look(node_of(a.manager).kids_of_members(), (), clock.boot_s())
        odd.log._keys.sign = lambda: None  # it is killed here
        for passed_s in (20, 30):
            clock.advance(passed_s)
            a.log.poll_now()
            assert node_of(odd.manager).node_id not in a.log.kids_of_others()
            assert use.remembers(kid, clock.boot_s())
        clock.advance(11)
        assert not use.remembers(kid, clock.boot_s())


async def test_a_worker_that_starts_after_all_were_killed_and_the_secret_changed_serves_at_once(path: Path, clock: ManualClock) -> None:
    before = [Worker(path, clock=clock) for _ in range(2)]
    for worker in before:
        worker.log.poll_now()
        worker.log._keys.let_go()  # it is killed here
    after = Worker(path, clock=clock, secret_key=OTHER)
    async with running(after):
        assert after.says(after.log_in()) == "yes"
        assert after.manager.why_not_ready() is None


async def test_without_the_locks_it_would_be_out_of_service_while_their_files_are_new(path: Path, clock: ManualClock) -> None:
    before = [Worker(path, clock=clock) for _ in range(2)]
    for worker in before:
        worker.log.poll_now()
        worker.log._keys.let_go()
        worker.log._keys._own.rename(path.with_name("sessions.db-keys") / str(id(worker)))  # as of an earlier build
    after = Worker(path, clock=clock, secret_key=OTHER)
    async with running(after):
        assert after.manager.why_not_ready() is not None
        clock.advance(16)
        after.log.poll_now()
        assert after.manager.why_not_ready() is None


def test_a_child_that_serves_nothing_does_not_speak_for_its_parent(path: Path, clock: ManualClock) -> None:
    """gunicorn forks each worker from a parent, and programs fork from workers."""
    one, other = Worker(path, clock=clock), Worker(path, clock=clock)
    one.log.poll_now()
    here, there = socket.socketpair()
    if (child := os.fork()) == 0:
        there.send(b"forked")
        here.close()
        there.recv(1)  # the end of the parent's side
        os._exit(0)
    try:
        there.close()
        here.recv(6)
        one.log._keys.let_go()  # it is killed here
        other.log.poll_now()
        assert other.log.kids_of_others() == {}
    finally:
        here.close()
        os.waitpid(child, 0)


async def test_a_worker_alone_with_a_new_secret_knows_old_tokens_for_what_they_are(path: Path, clock: ManualClock) -> None:
    before = Worker(path, clock=clock)
    async with running(before):
        token = before.log_in()
    after = Worker(path, clock=clock, secret_key=OTHER)
    async with running(after):
        assert after.says(token) == "token_invalid"


async def test_a_key_that_is_added_in_the_file_is_told_at_once(path: Path, clock: ManualClock, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET)
    a, b = Worker(path, clock=clock, secret_key=(), secret_key_file=str(file)), Worker(path, clock=clock)
    async with running(a, b):
        for worker in (a, b):
            worker.log.poll_now()
        file.write_text(f"{OTHER}\n{SECRET}\n")
        clock.advance(1.1)
        node_of(a.manager).refresh()
        assert [kid for kids in b.log.announced_kids() for kid in kids] == [SigningKey(key.encode()).kid for key in (OTHER, SECRET)]
        assert b.says(a.log_in()) == "yes"  # it signs with the key that both have


async def test_a_folder_that_cannot_be_made_is_told_once_and_stops_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.with_name("sessions.db-keys").write_text("in the way")
    a = Worker(path)
    async with running(a):
        assert a.says(a.log_in()) == "yes"
        a.log._keys.announce(a.log._keys._kids)
    assert caplog.text.count("another secret at another process goes unnoticed") == 1


async def restarted(path: Path, *, step_s: float) -> tuple[Worker, str, ManualClock]:
    """A worker whose clock was set while none ran, and a token from before."""
    clock = ManualClock()
    before = Worker(path, clock=clock, idle_timeout="12h")
    async with running(before):
        clock.advance(6)
        token = before.log_in()
        before.log.poll_now()
    clock.step_wall(step_s)
    return Worker(path, clock=clock, idle_timeout="12h"), token, clock


@pytest.mark.parametrize("back_s", [90, 600, 6 * 3600])
async def test_a_clock_that_was_set_back_before_the_start_makes_no_good_session_401(path: Path, back_s: float) -> None:
    after, token, clock = await restarted(path, step_s=-back_s)
    async with running(after):
        said = []
        for _ in range(70):
            clock.advance(1)
            after.log.poll_now()
            said.append(after.says(token))
        assert set(said) == {"clock_untrusted", "yes"}
        assert said[-1] == "yes"  # the clock has kept its new time for a minute


async def test_a_clock_that_is_ahead_of_the_last_start_is_right(path: Path) -> None:
    after, token, _ = await restarted(path, step_s=3600)
    async with running(after):
        assert after.says(token) == "yes"


async def test_without_the_latest_time_a_good_session_would_be_401(path: Path) -> None:
    after, token, _ = await restarted(path, step_s=-600)
    path.with_name("sessions.db-keys").joinpath("latest").unlink()
    unknowing = Worker(path, clock=after.clock, idle_timeout="12h")
    async with running(unknowing):
        assert unknowing.says(token) == "token_not_yet_valid"


async def test_a_clock_that_was_far_ahead_for_a_while_costs_a_start_a_minute(path: Path) -> None:
    after, _, clock = await restarted(path, step_s=-400 * 24 * 3600)
    async with running(after):
        assert after.manager.why_not_ready() is not None
        clock.advance(61)
        after.log.poll_now()
        assert after.manager.why_not_ready() is None
        assert after.says(after.log_in()) == "yes"
        assert node_of(after.manager).view.latest_ms <= (clock.wall_s() + 13 * 3600) * 1000


async def test_half_written_and_foreign_files_in_the_folder_are_no_members(path: Path) -> None:
    a = Worker(path)
    async with running(a):
        a.log_in()
        folder = path.with_name("sessions.db-keys")
        (folder / "half.new").write_text("b\nkid")
        (folder / "bytes").write_bytes(b"\xff\xfe")
        assert a.log.kids_of_others() == {}
