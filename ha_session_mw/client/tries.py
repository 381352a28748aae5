"""All tries of one request, written once for clients that block and for those that suspend.

A library brings its own way to send and read, as coroutine functions. Those of a client that blocks never suspend, so
:func:`run_blocking` runs them without an event loop.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from .between_tries import BetweenTries
from .exchange import AfterLogIn, Exchange
from .problems import Problem

Result = TypeVar("Result")


class Way(Protocol):
    """The part of a library in the tries of one request.

    Attributes:
        errors: what a try that failed raises.
    """

    errors: type[Exception]

    async def send(self, exchange: Exchange) -> Any:
        """Send the next try; return the response, with its body unread."""

    async def read_problem(self, exchange: Exchange, response: Any) -> Problem | None:
        """Return the problem in the body of a response, if there is one. The caller finds the whole body in the response all the same."""

    async def close(self, response: Any) -> None:
        """Give up a response."""

    def reason(self, error: Exception) -> BaseException:
        """Return the error that says how far a request came, given the one that a try raised."""


async def respond(exchange: Exchange, way: Way, between: BetweenTries) -> Any:
    """Return the response to a request, after as many tries as are right.

    Args:
        exchange: the request.
        way: sends it.
        between: waits and logs in between two tries.

    Raises:
        Exception: of the kind that the library raises: the last try failed.
    """
    while True:
        try:
            response = await way.send(exchange)
            problem = await way.read_problem(exchange, response)  # one that breaks off says as little as no answer
        except way.errors as error:
            step = exchange.failed(way.reason(error))
            if step is None:
                raise
        else:
            step = exchange.answered(response.status_code, response.headers, problem)
            if step is None or (isinstance(step, AfterLogIn) and not await _log_in(exchange, between)):
                return response
            await way.close(response)
        await between.sleep(step.wait_s)


async def _log_in(exchange: Exchange, between: BetweenTries) -> bool:
    """Log in unless another request has done so meanwhile; return whether there is a log-in to use."""
    async with between.one_log_in():
        if exchange.uses_log_in():
            return True
        if not exchange.may_log_in():
            return False
        with exchange.log_in():
            await between.reauthenticate()
        return True


def run_blocking(steps: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a coroutine that never suspends.

    Raises:
        RuntimeError: it has suspended.
    """
    try:
        steps.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    steps.close()
    raise RuntimeError("the way of a client that blocks has suspended")
