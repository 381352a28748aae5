"""The drill on one node: four workers on one port, which share a file, printed step by step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from .drill import LIMIT_S, WHOAMI, log_in
from .servers import Server
from .story import Story
from .three_nodes import end_of_websocket, leave, spread_ms
from .visitor import AnswerError, Visitor, expect, told

WORKERS = 4
LOG_OUTS = 50
DEVICES = "/-/session/devices"

OneEach = dict[str, Visitor]
"""For each worker's node id, a visitor whose open connection leads to that worker."""


def tell(story: Story, node: Server) -> None:
    """Run the whole drill. The node is up when it ends."""
    story.chapter(f"One port, {WORKERS} workers")
    with Visitor(node.url) as ada:
        with story.step("ada logs in") as step:
            step.told = f"{told(log_in(ada, 'ada'), 200)}, signed by {ada.get(WHOAMI).json()['issuer']}"
        with one_each(node, ada.token) as visitors:
            one_session(story, visitors)
            log_out(story, ada, visitors)
        many_log_outs(story, node)
    a_lost_device(story, node)
    an_open_connection(story, node)
    a_restart(story, node)


@contextmanager
def one_each(node: Server, token: str | None) -> Iterator[OneEach]:
    """Give a visitor with this token for each worker."""
    with ExitStack() as stack, ThreadPoolExecutor(16) as threads:
        found: OneEach = {}
        deadline = time.monotonic() + LIMIT_S
        while len(found) < WORKERS:
            if time.monotonic() > deadline:
                raise AnswerError(f"only {len(found)} of {WORKERS} workers answered within {LIMIT_S:g} s")
            visitors = [stack.enter_context(Visitor(node.url, token)) for _ in range(16)]
            # Connect all at once: one worker would accept connections that come one by one.
            for visitor, answer in zip(visitors, threads.map(lambda visitor: visitor.get(WHOAMI), visitors), strict=True):
                told(answer, 200)
                found.setdefault(answer.json()["answered_by"], visitor)
        yield found


def one_session(story: Story, visitors: OneEach) -> None:
    for worker, visitor in visitors.items():
        with story.step(f"uses it at {worker}") as step:
            step.told = told(visitor.get(WHOAMI), 200)


def log_out(story: Story, ada: Visitor, visitors: OneEach) -> None:
    story.chapter("Log-out at one of them")
    with story.step("ada logs out") as step:
        step.took_s, mode = leave(ada)
        step.told = f"200, cookie removed; Session-Revocation: {mode}"
        expect("fenced", mode == "fenced")
    for worker, visitor in visitors.items():
        with story.step(f"a captured copy, next request at {worker}") as step:
            step.told = told(visitor.get(WHOAMI), 401, "session_revoked")


def many_log_outs(story: Story, node: Server) -> None:
    with story.step(f"the same, {LOG_OUTS} times") as step, Visitor(node.url) as ada, Visitor(node.url) as grace:
        log_in(grace, "grace")
        times_s = []
        with one_each(node, grace.token) as visitors:
            for _ in range(LOG_OUTS):
                log_in(ada, "ada")
                captured = ada.token
                times_s.append(leave(ada)[0])
                for visitor in visitors.values():
                    visitor.token = captured
                    told(visitor.get(WHOAMI), 401, "session_revoked")
        step.told = f"refused by all workers at the next request; acknowledged after {spread_ms(times_s)}"


def a_lost_device(story: Story, node: Server) -> None:
    story.chapter("A lost device")
    with Visitor(node.url) as laptop, Visitor(node.url) as phone:
        log_in(laptop, "ada")
        log_in(phone, "ada")
        with story.step("ada lists her sessions") as step:
            sessions = laptop.get(DEVICES).json()["sessions"]
            step.told = f"{len(sessions)} sessions, recorded by whichever worker served the log-in"
            expect("two sessions", len(sessions) == 2)
        with story.step("ada logs out the lost device") as step:
            [lost] = [one["id"] for one in sessions if not one["current"]]
            step.told = told(laptop.delete(f"{DEVICES}/{lost}"), 200)
        with story.step("the lost device") as step:
            step.told = told(phone.get(WHOAMI), 401, "session_revoked")


def an_open_connection(story: Story, node: Server) -> None:
    with Visitor(node.url) as ada, Visitor(node.url) as elsewhere:
        log_in(ada, "ada")
        elsewhere.token = ada.token
        with ada.websocket() as socket, story.step("a WebSocket that is open at one worker") as step:
            socket.recv(LIMIT_S)
            leave(elsewhere)
            began = time.perf_counter()
            step.told = f"closed: {end_of_websocket(socket)}"
            step.took_s = time.perf_counter() - began


def a_restart(story: Story, node: Server) -> None:
    story.chapter("All workers are killed (kill -9), and started again")
    with Visitor(node.url) as ada, Visitor(node.url) as grace:
        log_in(ada, "ada")
        log_in(grace, "grace")
        captured = ada.token
        leave(ada)
        node.kill()
        with story.step("started again") as step:
            node.start()
            node.wait_until_ready()
            step.told = "ready"
    with Visitor(node.url, captured) as thief, story.step("the session that was logged out before") as step:
        step.told = told(thief.get(WHOAMI), 401, "session_revoked")
    with story.step("grace's session, at all workers") as step, one_each(node, grace.token):
        step.told = "200"
