"""The refusals of a cluster, as its clients get them: problem documents (RFC 9457) as values and as errors."""

from __future__ import annotations

from typing import Any

import msgspec

from ..exceptions import Action

MEDIA_TYPE = "application/problem+json"
LONGEST = 65_536
"""The longest problem document that a client reads, in bytes. Those of this package have less than 2,000."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal of this package's middleware.

    Attributes:
        code: the name of the problem; see the error reference.
        status: the HTTP status.
        title, detail: texts for people.
        type: where the problem is explained.
        instance: names this occurrence, for the operator's log.
        action: what the client should do.
        retryable: whether the same request may be sent again.
        retry_where: where: ``same_node``, ``other_node``, ``any`` or ``none``.
        retry_after_ms: after how many milliseconds; None if the server gives no hint.
        outcome: whether a handler has run: ``not_executed``, ``executed`` or ``unknown``.
        max_age: how many seconds ago the user may have logged in; None if that does not matter.
    """

    code: str
    status: int
    action: str
    retryable: bool
    title: str = ""
    detail: str = ""
    type: str = "about:blank"
    instance: str = ""
    retry_where: str = "any"
    retry_after_ms: float | None = None
    outcome: str = "unknown"
    max_age: float | None = None


class ProblemAnswered(Exception):
    """A node refused a request. The subclass says what the client should do.

    Attributes:
        problem: the refusal.
        response: the response that carried it.
    """

    def __init__(self, problem: Problem, response: Any = None) -> None:
        super().__init__(f"{problem.status} {problem.code}: {problem.detail or problem.title}")
        self.problem = problem
        self.response = response


class LogInAgain(ProblemAnswered):
    """There is no valid session, or the log-in is not recent enough. A new log-in helps."""


class TryLater(ProblemAnswered):
    """The infrastructure failed. The session is not logged out, and the same request may succeed later."""


class RequestRefused(ProblemAnswered):
    """The request is wrong, or somebody must look into the matter. Sending it again does not help."""


_BY_ACTION: dict[Action, type[ProblemAnswered]] = {"reauthenticate": LogInAgain, "renew": LogInAgain, "retry": TryLater}
_decode = msgspec.json.Decoder(Problem).decode


def parse(content_type: str, body: bytes) -> Problem | None:
    """Return the problem in the body of a response; None if it is no problem of this package."""
    if content_type.partition(";")[0].strip().lower() != MEDIA_TYPE or len(body) > LONGEST:
        return None
    try:
        return _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def problem_of(response: Any) -> Problem | None:
    """Return the problem that a response of httpx, httpx2 or requests carries; None if it carries none of this package."""
    return parse(response.headers.get("content-type", ""), response.content)


def raise_for_problem(response: Any) -> None:
    """Raise if a response carries a problem of this package.

    Raises:
        LogInAgain, TryLater, RequestRefused: by what the client should do.
    """
    problem = problem_of(response)
    if problem is not None:
        kind = next((kind for action, kind in _BY_ACTION.items() if action == problem.action), RequestRefused)
        raise kind(problem, response)
