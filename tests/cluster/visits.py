"""Browsers that visit the nodes of a cluster, one node now and another then, as a load balancer would have it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ha_session_mw import Session
from ha_session_mw.testing import Cluster, Node

from ..asgi.driver import Act, Answer, Header, call, look, obliging, scope_of, who, why

__all__ = ["Browser", "Cluster", "Node", "log_out", "logged_in", "look", "obliging", "refused_for_infrastructure", "who", "why"]


class Browser:
    """Keeps the cookie, and sends it to whichever node it is led to."""

    def __init__(self, cluster: Cluster, token: str | None = None) -> None:
        self.cluster = cluster
        self.token = token

    async def visit(
        self, node: Node, act: Act = who, path: str = "/", *, headers: Iterable[Header] = (), status: int = 200, **scope: Any
    ) -> Answer:
        sent = [*headers, *([(b"cookie", b"session=" + self.token.encode())] if self.token else [])]
        made = scope_of("http", path, headers=sent, act=act, status=status, answer_headers=[], **scope)
        answer = await self.cluster.run(call, node.middleware, made)
        answer.result = made.get("result")
        if answer.token is not None:
            self.token = answer.token or None
        return answer


async def logged_in(cluster: Cluster, node: Node, subject: str = "ada") -> Browser:
    """Return a browser that has just logged in on this node."""
    browser = Browser(cluster)
    await browser.visit(node, lambda session: session.login(subject))
    assert browser.token
    return browser


def log_out(session: Session) -> None:
    """An act."""
    session.clear()


def refused_for_infrastructure(answer: Answer, code: str, where: str) -> bool:
    """Return whether the answer has this code, blames the infrastructure and gives the client its next step."""
    problem = answer.problem
    assert answer.status == 503, (answer.status, problem)
    assert problem["code"] == code, problem
    assert problem["retryable"] is True
    assert problem["retry_where"] == where
    assert problem["action"] == "retry"
    assert answer.header("retry-after") == str(math.ceil(problem["retry_after_ms"] / 1000))
    assert answer.header("www-authenticate") is None
    assert answer.cookies() == []  # no refusal costs anybody the cookie
    return True
