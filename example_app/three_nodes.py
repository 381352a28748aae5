"""The drill on three nodes: log-outs that hold on all of them, a crash, a lost majority, printed step by step."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import httpx2
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from .drill import LIMIT_S, POLL_S, WHOAMI, knows, log_in, refused_websocket, wait_for, was_refused
from .servers import Server
from .story import Story
from .visitor import AnswerError, Visitor, expect, told

LOG_OUTS = 50
FRESHNESS_LIMIT_S = 2
"""``FRESHNESS_LIMIT`` of the nodes: the demo waits for it several times, and the default is 5 s."""
REVOKED_CLOSE_CODE = 4401


class Nodes(NamedTuple):
    """The members of one cluster."""

    a: Server
    b: Server
    c: Server


def tell(story: Story, nodes: Nodes) -> None:
    """Run the whole drill on a ``peers://`` cluster. All three nodes are up when it ends."""
    whatever_they_share(story, nodes)
    state_on_a_node(story, nodes)
    two_nodes_freeze(story, nodes)


def whatever_they_share(story: Story, nodes: Nodes) -> None:
    """Run the part that is the same on ``peers://`` and ``etcd://``."""
    one_session(story, nodes)
    log_out(story, nodes)
    connections_that_are_open(story, nodes)
    log_out_everywhere(story, nodes)
    a_node_dies(story, nodes)


def one_session(story: Story, nodes: Nodes) -> None:
    story.chapter("One session, three nodes")
    with Visitor(nodes.a.url) as ada:
        with story.step("ada logs in on a") as step:
            step.told = f"{told(log_in(ada, 'ada'), 200)}, signed by a"
        for node in (nodes.b, nodes.c):
            with Visitor(node.url, ada.token) as elsewhere, story.step(f"uses it on {node.name}, which has never seen it") as step:
                facts = elsewhere.get(WHOAMI).json()
                subject, *names = [facts[it].partition("-")[0] for it in _FACTS]
                expect(f"ada, signed by a, answered by {node.name}", [subject, *names] == ["ada", "a", node.name])
                step.told = f"200, signed by {facts['issuer']}, answered by {facts['answered_by']}"


_FACTS = ("subject", "issuer", "answered_by")
"""On ``etcd://`` each process has a name that begins with its node's name."""


def state_on_a_node(story: Story, nodes: Nodes) -> None:
    """A room lives in the memory of one node, and each node leads its session there (``HA_SESSION_ROUTING=forward``)."""
    story.chapter("A room on one node")
    with Visitor(nodes.a.url) as ada:
        log_in(ada, "ada")
        for number, node in enumerate(nodes, 1):
            with Visitor(node.url, ada.token) as elsewhere, story.step(f"a guest enters ada's room by {node.name}") as step:
                room = elsewhere.post("/private/room", name=f"guest {number}").json()
                expect("the guests of before are there", len(room["guests"]) == number)
                step.told = f"200, the room is on {room['node']}: {', '.join(room['guests'])}"
        told(ada.post("/logout"), 200)


def log_out(story: Story, nodes: Nodes) -> None:
    story.chapter("Log-out on b, while requests go to c")
    with Visitor(nodes.a.url) as ada, Visitor(nodes.b.url) as on_b, Visitor(nodes.c.url) as thief:
        log_in(ada, "ada")
        thief.token = on_b.token = ada.token
        with story.step("a captured copy of ada's cookie, on c, before") as step:
            step.told = told(thief.get(WHOAMI), 200)
        with story.step("ada logs out on b") as step:
            found = log_out_and_watch(on_b, thief)
            expect("fenced", found.mode == "fenced")
            step.took_s = found.acknowledged_s
            step.told = f"200, cookie removed; Session-Revocation: {found.mode}"
        with story.step("the captured copy, on c, from then on") as step:
            step.told = told(thief.get(WHOAMI), 401, "session_revoked")
            step.took_s = found.refused_s
        with Visitor(nodes.a.url, thief.token) as on_a, story.step("a WebSocket with it, on a") as step:
            step.told = refused_websocket(on_a)
        with story.step(f"the same, {LOG_OUTS} times") as step:
            many = [one_more_log_out(ada, on_b, thief) for _ in range(LOG_OUTS)]
            expect("all fenced", all(each.mode == "fenced" for each in many))
            refused = spread_ms([each.refused_s for each in many])
            step.told = f"refused on c after {refused}; acknowledged after {spread_ms([each.acknowledged_s for each in many])}"


def connections_that_are_open(story: Story, nodes: Nodes) -> None:
    story.chapter("Open connections on c, and a log-out on b")
    with Visitor(nodes.c.url) as ada, Visitor(nodes.b.url) as on_b:
        log_in(ada, "ada")
        on_b.token = ada.token
        with ada.websocket() as socket, ThreadPoolExecutor(1) as aside, story.step("a WebSocket") as step:
            socket.recv(LIMIT_S)
            began = time.perf_counter()
            acknowledged = aside.submit(leave, on_b)
            step.told = f"closed by the node: {end_of_websocket(socket)}"
            step.took_s = time.perf_counter() - began
            acknowledged.result()
        log_in(ada, "ada")
        on_b.token = ada.token
        with ada.events() as ticks, ThreadPoolExecutor(1) as aside, story.step("an event stream") as step:
            next(ticks)
            began = time.perf_counter()
            acknowledged = aside.submit(leave, on_b)
            expect("no tick after the log-out", len(list(ticks)) <= 1)  # one may have been under way
            step.took_s = time.perf_counter() - began
            acknowledged.result()
            step.told = "ended by the node"


def end_of_websocket(socket: ClientConnection) -> str:
    """Wait for the close frame of a log-out, and return it in words."""
    try:
        raise AnswerError(f"the WebSocket is still open: {socket.recv(LIMIT_S)!r}")
    except ConnectionClosed as closed:
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (None, "no close frame")
    expect(f"close code {REVOKED_CLOSE_CODE}, not {code} {reason}", code == REVOKED_CLOSE_CODE)
    return f"{code} {reason}"


def log_out_everywhere(story: Story, nodes: Nodes) -> None:
    story.chapter("Log-out everywhere")
    with Visitor(nodes.a.url) as laptop, Visitor(nodes.b.url) as phone, Visitor(nodes.c.url) as grace:
        log_in(laptop, "ada")
        log_in(phone, "ada")
        log_in(grace, "grace")
        with Visitor(nodes.b.url, laptop.token) as on_b, story.step("all but here: from ada's laptop, on b") as step:
            response = on_b.post("/private/logout-everywhere", keep="this")
            step.told = f"{told(response, 200)}, acknowledged: {response.json()['acknowledged']}"
        with Visitor(nodes.c.url, phone.token) as on_c, story.step("her phone, on c") as step:
            step.told = told(on_c.get(WHOAMI), 401, "session_revoked")
        with story.step("her laptop, on a") as step:
            step.told = told(laptop.get(WHOAMI), 200)
        captured = laptop.token
        with story.step("all: from ada's laptop, on a") as step:
            step.told = told(laptop.post("/private/logout-everywhere"), 200)
        with Visitor(nodes.c.url, captured) as thief, story.step("a copy of the laptop's cookie, on c") as step:
            step.told = told(thief.get(WHOAMI), 401, "session_revoked")
        with story.step("grace's session, on c") as step:
            step.told = told(grace.get(WHOAMI), 200)
        with story.step("ada logs in again, on b") as step:
            log_in(phone, "ada")
            step.told = told(phone.get(WHOAMI), 200)


def a_node_dies(story: Story, nodes: Nodes) -> None:
    story.chapter("Node a is killed (kill -9), and its sessions stay valid")
    with Visitor(nodes.a.url) as ada, Visitor(nodes.b.url) as grace, Visitor(nodes.b.url) as leslie:
        log_in(ada, "ada")
        log_in(grace, "grace")
        log_in(leslie, "leslie")
        captured = {"grace": grace.token, "leslie": leslie.token}
        nodes.a.kill()
        for node in (nodes.b, nodes.c):
            with Visitor(node.url, ada.token) as elsewhere, story.step(f"ada's session, signed by a, on {node.name}") as step:
                step.told = told(elsewhere.get(WHOAMI), 200)
        with story.step("grace logs out on b, the first log-out without a") as step:
            step.took_s, mode = leave(grace)
            expect("fenced", mode == "fenced")
            step.told = f"200, {mode}: waited until a's lease was over"
        with story.step("leslie logs out on b, the next log-out") as step:
            step.took_s, mode = leave(leslie)
            expect("fenced at once", mode == "fenced" and step.took_s < FRESHNESS_LIMIT_S)
            step.told = f"200, {mode}: no second wait"
        come_back(story, nodes.a, captured)
        with story.step("ada's session, on a") as step:
            nodes.a.wait_until_ready()
            step.told = told(ada.get(WHOAMI), 200)
        with Visitor(nodes.a.url, ada.token) as on_a, story.step("ada logs out on a, just restarted") as step:
            step.took_s, mode = leave(on_a)
            expect("fenced", mode == "fenced")
            # On etcd, node a finds the last heartbeat of the killed process, and cannot know how old it is.
            waited = ": waited for the lease of the killed process" if step.took_s > FRESHNESS_LIMIT_S / 2 else ""
            step.told = f"200, {mode}{waited}"


def come_back(story: Story, node: Server, captured: Mapping[str, str | None]) -> None:
    """Start a node, and send it copies of sessions that were logged out meanwhile. It must never accept one."""
    started = time.perf_counter()
    node.start()
    for name, token in captured.items():
        with Visitor(node.url, token) as thief, story.step(f"{node.name} starts again: a copy of {name}'s cookie") as step:
            answers = asked_until(thief, lambda response: response.status_code == 401, allowed=(401, 503))
            step.told = told_before(answers) + told(answers[-1], 401, "session_revoked")
            step.took_s = time.perf_counter() - started


def two_nodes_freeze(story: Story, nodes: Nodes) -> None:
    story.chapter("b and c are frozen (kill -STOP), and a is alone")

    def freeze() -> None:
        nodes.b.freeze()
        nodes.c.freeze()

    def thaw() -> None:
        nodes.b.thaw()
        nodes.c.thaw()

    out_of_contact(story, nodes, freeze, thaw, "thawed (kill -CONT)")


def out_of_contact(story: Story, nodes: Nodes, begin: Callable[[], None], end: Callable[[], None], ended: str) -> None:
    """Show what node a does without a majority, and how all three nodes recover.

    Args:
        begin: takes the majority away.
        end: gives it back.
        ended: the latter, in words.
    """
    with Visitor(nodes.a.url) as ada, Visitor(nodes.a.url) as grace, Visitor(nodes.a.url) as thief, ThreadPoolExecutor(1) as aside:
        log_in(ada, "ada")
        log_in(grace, "grace")
        thief.token = grace.token
        begin()
        stale = aside.submit(refused_at, ada, time.perf_counter())
        with story.step("a log-out on a") as step:
            step.took_s, mode = leave(grace)
            expect("provisional", mode == "provisional")
            step.told = f"200, {mode}: in a's journal, to be replicated later"
        with story.step("a copy of the cookie, on a") as step:
            step.told = told(thief.get(WHOAMI), 401, "session_revoked")
        with story.step(f"ada's session on a, stale after {FRESHNESS_LIMIT_S} s") as step:
            refusal, step.took_s = stale.result()
            step.told = told(refusal, 503, "state_stale")
        probes(story, ada, "a")
        end()
        served_again(story, nodes, ada, ended)
        with Visitor(nodes.c.url, thief.token) as on_c, story.step("the session logged out on a, on c") as step:
            step.told = told(wait_for(lambda: on_c.get(WHOAMI), knows), 401, "session_revoked")


def refused_at(visitor: Visitor, began: float) -> tuple[httpx2.Response, float]:
    """Return the first answer that refuses the session, and the seconds from ``began`` until then."""
    answers = asked_until(visitor, was_refused, allowed=(200, 503))
    return answers[-1], time.perf_counter() - began


def probes(story: Story, visitor: Visitor, name: str) -> None:
    with story.step(f"{name}'s probes") as step:
        alive, ready = (told(visitor.get(f"/-/session/{probe}"), status) for probe, status in (("livez", 200), ("readyz", 503)))
        step.told = f"livez {alive}, readyz {ready}: no restart, no traffic"


def served_again(story: Story, nodes: Nodes, ada: Visitor, ended: str) -> None:
    """Send ada's session to each node until it is accepted."""
    began = time.perf_counter()

    def asked(visitor: Visitor) -> tuple[list[httpx2.Response], float]:
        answers = asked_until(visitor, lambda response: response.status_code == 200, allowed=(200, 503))
        return answers, time.perf_counter() - began

    with Visitor(nodes.b.url, ada.token) as on_b, Visitor(nodes.c.url, ada.token) as on_c, ThreadPoolExecutor(3) as aside:
        found = [aside.submit(asked, visitor) for visitor in (ada, on_b, on_c)]
        for node, future in zip(nodes, found, strict=True):
            with story.step(f"{ended}: ada's session on {node.name}") as step:
                answers, step.took_s = future.result()
                step.told = f"{told_before(answers)}200, by itself"


# What the steps share.


class LogOut(NamedTuple):
    """The outcome of a log-out. Times run from the sending of its request.

    Attributes:
        refused_s: until another node, asked without a pause, refused the session.
        acknowledged_s: until the answer to the log-out.
        mode: ``fenced`` or ``provisional``.
    """

    refused_s: float
    acknowledged_s: float
    mode: str


def log_out_and_watch(visitor: Visitor, thief: Visitor) -> LogOut:
    """Log a visitor out on one node, while a thief with the same token asks another node without a pause."""
    with ThreadPoolExecutor(1) as aside:
        began = time.perf_counter()
        acknowledged = aside.submit(leave, visitor)
        refusal = wait_for(lambda: thief.get(WHOAMI), knows, pause_s=0)
        refused_s = time.perf_counter() - began
        told(refusal, 401, "session_revoked")
        return LogOut(refused_s, *acknowledged.result())


def one_more_log_out(ada: Visitor, on_b: Visitor, thief: Visitor) -> LogOut:
    log_in(ada, "ada")
    thief.token = on_b.token = ada.token
    told(wait_for(lambda: thief.get(WHOAMI), lambda answer: answer.status_code != 503), 200)
    return log_out_and_watch(on_b, thief)


def leave(visitor: Visitor) -> tuple[float, str]:
    """Log out; return the seconds until the acknowledgement, and its mode."""
    began = time.perf_counter()
    response = visitor.post("/logout")
    took_s = time.perf_counter() - began
    told(response, 200)
    expect("a removed cookie", visitor.token is None)
    return took_s, response.headers["session-revocation"]


def asked_until(visitor: Visitor, is_it: Callable[[httpx2.Response], bool], *, allowed: tuple[int, ...]) -> list[httpx2.Response]:
    """Return the answers of a node, which may not listen yet, up to the first that fulfils the condition.

    Raises:
        AnswerError: an answer has a status that is not allowed, or none fulfils the condition in time.
    """
    answers: list[httpx2.Response] = []
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            answers.append(visitor.get(WHOAMI))
        except httpx2.ConnectError:
            time.sleep(POLL_S / 10)
            continue
        expect(f"an answer of {allowed}, not {answers[-1].status_code}", answers[-1].status_code in allowed)
        if is_it(answers[-1]):
            return answers
        time.sleep(POLL_S / 10)
    raise AnswerError(f"not within {LIMIT_S:g} s; the last answers were {[answer.status_code for answer in answers[-3:]]}")


def told_before(answers: Sequence[httpx2.Response]) -> str:
    """Return the refusals before the last answer, in words."""
    codes = Counter(f"{answer.status_code} {answer.json()['code']}" for answer in answers[:-1])
    return "".join(f"{code} ({count} times), then " if count > 1 else f"{code}, then " for code, count in codes.items())


def spread_ms(times_s: Sequence[float]) -> str:
    return f"{statistics.median(times_s) * 1000:.1f} ms (median), {max(times_s) * 1000:.1f} (worst)"
