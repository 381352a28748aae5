"""The drill on one node: the life of a session, over HTTP against a real server, printed step by step."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import httpx2
from websockets.exceptions import InvalidStatus

from . import users
from .servers import Server
from .story import Story
from .visitor import AnswerError, Visitor, expect, told, told_problem

WHOAMI = "/api/private/session"
USES = 200
IDLE_S, ABSOLUTE_S = 4, 6
"""Timeouts of the hasty node: far enough apart for a busy machine, and short enough to wait for both."""
LIMIT_S = 30.0
POLL_S = 0.05
TRIES = 3
"""On a machine that is busy for a second, a session of the hasty node is over before it is used."""


def tell(story: Story, node: Server, hasty: Server) -> None:
    """Run the whole drill.

    Args:
        node: a node with the default settings.
        hasty: a node with another secret, whose timeouts are ``IDLE_S`` and ``ABSOLUTE_S``.
    """
    a_session(story, node)
    tokens_that_are_not_good(story, node, hasty)
    the_end_of_a_session(story, hasty)


def a_session(story: Story, node: Server) -> None:
    story.chapter("A session")
    with Visitor(node.url) as ada:
        with story.step("the open page, without a session") as step:
            response = ada.get("/", Accept="text/html")
            expect("no cookie for a visitor without a session", ada.token is None)
            step.told = f"{told(response, 200)}, no cookie set"
        with story.step("the protected part, without a session") as step:
            step.told = told(ada.get(WHOAMI), 401, "token_missing")
        with story.step("a wrong password") as step:
            step.told = f"{told(ada.log_in('ada', 'guess'), 403)} from the app"
        with story.step("ada logs in") as step:
            response = log_in(ada, "ada")
            attributes = response.headers["set-cookie"].lower()
            expect("HttpOnly and SameSite=lax", "httponly" in attributes and "samesite=lax" in attributes)
            step.told = f"200, a cookie of {len(ada.token or '')} bytes, HttpOnly, SameSite=lax"
        with story.step(f"uses it, {USES} times") as step:
            times_s = [timed(ada) for _ in range(USES)]
            step.told = f"median {statistics.median(times_s) * 1000:.1f} ms a request, over HTTP; no new cookie"
            expect("no new cookie for a request that changes nothing", not ada.token_changed)
        with story.step("changes something deep inside it") as step:
            told(ada.post("/private/notes/0/toggle"), 200)
            expect("a note that is done", ada.get(WHOAMI).json()["notes"][0]["done"])
            step.told = "200, and the next request sees it"
        with Visitor(node.url) as program, story.step("sends it as a bearer token") as step:
            response = program.get(WHOAMI, Authorization=f"Bearer {ada.token}")
            expect("ada's session", response.json()["subject"] == "ada")
            step.told = f"{told(response, 200)}, the same session"
        with story.step("follows the event stream") as step, ada.events() as ticks:
            tick = next(ticks)
            expect("a tick for ada", tick["subject"] == "ada")
            step.told = f"tick {tick['tick']}, for {tick['subject']}"
        with story.step("talks over a WebSocket") as step, ada.websocket() as socket:
            expect("a greeting for ada", json.loads(socket.recv(LIMIT_S))["subject"] == "ada")
            socket.send("hello")
            expect("an echo", json.loads(socket.recv(LIMIT_S))["echo"] == "hello")
            step.told = "greeted by name, and echoed"


def tokens_that_are_not_good(story: Story, node: Server, hasty: Server) -> None:
    story.chapter("Bad tokens, and what each is told")
    with Visitor(node.url) as ada, Visitor(node.url) as grace, Visitor(hasty.url) as stranger:
        log_in(ada, "ada")
        log_in(grace, "grace")
        log_in(stranger, "ada")
        good = ada.token or ""
        refused(story, node, "one character of the payload altered", altered(good, part=3), 401, "token_invalid")
        refused(story, node, "one character of the signature altered", altered(good, part=4), 401, "token_invalid")
        refused(story, node, "signed with another key", stranger.token or "", 401, "token_invalid")
        refused(story, node, "cut off in the middle", good[: len(good) // 2], 400, "token_malformed")
        refused(story, node, "five kilobytes long", good + "A" * 5000, 400, "token_too_large")
        with story.step("ada's cookie and grace's bearer token at once") as step:
            response = ada.get(WHOAMI, Authorization=f"Bearer {grace.token}")
            step.told = told(response, 400, "request_ambiguous")
        with Visitor(node.url, altered(good, part=4)) as mallory, story.step("an altered token on the open page") as step:
            answer = mallory.get("/").json()
            expect("an anonymous visitor and the reason", (answer["subject"], answer["problem"]) == (None, "token_invalid"))
            step.told = "200, anonymous, and the app knows the reason"
        with story.step("the page that a refusal's type points to") as step:
            response = ada.get("/-/session/problems/token_invalid", Accept="text/html")
            expect("a page", response.headers["content-type"].startswith("text/html"))
            step.told = f"{told(response, 200)}, it explains the refusal"
        with story.step("ada's own token, after all that") as step:
            step.told = f"{told(ada.get(WHOAMI), 200)}, still accepted"


def the_end_of_a_session(story: Story, hasty: Server) -> None:
    story.chapter(f"Timeouts: a node with an idle timeout of {IDLE_S} s and an absolute one of {ABSOLUTE_S} s")
    with Visitor(hasty.url) as ada:
        with story.step("ada keeps using her session, and it is renewed") as step:
            began, first = used_until_renewed(ada)
            expect("the same session id after the renewal", session_id(ada.token) == session_id(first))
            step.took_s = time.perf_counter() - began
            step.told = "200 and a new cookie, at half the idle timeout"
        with story.step("her first token, unused since then") as step:
            step.told = told(wait_for(lambda: replay(hasty, first), was_refused), 401, "session_idle_timeout")
            step.took_s = time.perf_counter() - began
        with story.step("the renewed token, at the absolute timeout") as step:
            step.told = told(wait_for(lambda: ada.get(WHOAMI), was_refused), 401, "session_expired")
            step.took_s = time.perf_counter() - began


def used_until_renewed(visitor: Visitor) -> tuple[float, str | None]:
    """Log in, and use the session until it is renewed; return when it began, and its first token."""
    for _ in range(TRIES):
        log_in(visitor, "ada")
        began, first = time.perf_counter(), visitor.token
        response = wait_for(lambda: visitor.get(WHOAMI), lambda answer: visitor.token_changed or was_refused(answer))
        if response.status_code == 200:
            break
    told(response, 200)
    return began, first


# What the steps share.


def log_in(visitor: Visitor, username: str) -> httpx2.Response:
    password = users.USERS[username].password
    response = wait_for(lambda: visitor.log_in(username, password), lambda answer: answer.status_code != 503)  # a busy node may be stale
    told(response, 200)
    expect("a token in the cookie", (visitor.token or "").startswith("hs1."))
    return response


def timed(visitor: Visitor) -> float:
    began = time.perf_counter()
    told(visitor.get(WHOAMI), 200)
    return time.perf_counter() - began


def altered(token: str, *, part: int) -> str:
    """Return the token with one character in the middle of one part replaced by another legal character."""
    parts = token.split(".")
    text = parts[part]
    middle = len(text) // 2
    parts[part] = text[:middle] + ("A" if text[middle] != "A" else "B") + text[middle + 1 :]
    return ".".join(parts)


def session_id(token: str | None) -> str:
    return (token or "..").split(".")[1]


def replay(node: Server, token: str | None) -> httpx2.Response:
    """Send a captured token in a request of its own."""
    with Visitor(node.url, token) as thief:
        return thief.get(WHOAMI)


def was_refused(response: httpx2.Response) -> bool:
    return response.status_code != 200


def knows(response: httpx2.Response) -> bool:
    """Return whether a node has heard of the log-out, and is not out of contact: a busy machine may keep one waiting for too long."""
    return response.status_code not in (200, 503)


def refused(story: Story, node: Server, what: str, token: str, status: int, code: str) -> None:
    with Visitor(node.url, token) as mallory, story.step(what) as step:
        step.told = told(mallory.get(WHOAMI), status, code)


def refused_websocket(visitor: Visitor) -> str:
    try:
        with visitor.websocket():
            raise AnswerError("the WebSocket opened")
    except InvalidStatus as exc:
        return told_problem(json.loads(exc.response.body), 401, "session_revoked") + ", before it opened"


def wait_for(ask: Callable[[], httpx2.Response], is_it: Callable[[httpx2.Response], bool], *, pause_s: float = POLL_S) -> httpx2.Response:
    """Return the first answer that fulfils the condition.

    Raises:
        AnswerError: there was none within ``LIMIT_S``.
    """
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        response = ask()
        if is_it(response):
            return response
        time.sleep(pause_s)
    raise AnswerError(f"not within {LIMIT_S:g} s; the last answer was {response.status_code}")
