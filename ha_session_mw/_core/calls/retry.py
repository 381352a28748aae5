"""When a client sends a request again, and to which node. Performs no I/O and reads no clock.

A client has one :class:`Nodes` for all its requests, and one :class:`Call` for each. The driver asks the call's node, and passes
each :class:`Failure` to :meth:`Call.next`, which returns what must be done.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .rate_limit import RateLimiter

TRIES = 3
"""How often a request is sent at most. Three find a node that is well unless two of three fail at once."""
DEADLINE_S = 10.0
"""Seconds after the first try during which another may begin. Nobody waits longer for a page."""
LONGEST_WAIT_S = 2.0
"""The longest wait before a try, in seconds. A server that demands more is asked again after this time."""
FIRST_WAIT_S = 0.05
"""The wait before a node is asked again without a hint, in seconds. Doubled with each try."""
PAUSE_S = 1.0
"""Seconds for which a node that failed is asked only if no other is left."""
RETURN_S = 5.0
"""Seconds after which a client asks the node that it has left again. Otherwise a node that was restarted would get no clients until the
others fail, and the clients would be spread ever less. Doubled each time that the node fails again."""
LONGEST_RETURN_S = 60.0
"""The longest such time. A machine that hangs may cost a read one time-out in each."""
REPEATED_SHARE = 0.2
"""How many requests may be repeated in the long run: one of five. More would keep an overloaded cluster overloaded."""
REPEATED_AT_ONCE = 10
"""How many requests may be repeated beyond that share."""

Outcome = Literal["not_executed", "executed", "unknown"]
Where = Literal["same_node", "other_node", "any"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a try brought no answer that the caller can use.

    Attributes:
        name: for the log: the code of the problem, or the kind of the error.
        outcome: whether a handler has run.
        retryable: whether another try may succeed at all.
        where: ``other_node``: the node is unwell. ``any``: another node may do better. ``same_node``: no other will.
        after_s: the wait that the server asks for, in seconds; None without such a hint.
        was_work: whether the node has worked for the try. Only such tries count against the share that may be repeated.
        is_closed: whether the node's port is closed, which is seen at once.
    """

    name: str
    outcome: Outcome
    retryable: bool = True
    where: Where = "other_node"
    after_s: float | None = None
    was_work: bool = False
    is_closed: bool = False


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Send the request again, to ``call.node``, after ``wait_s`` seconds."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Hand the failure to the caller.

    Attributes:
        why: for the log.
    """

    why: str


class Nodes:
    """The nodes of a cluster as one client knows them, and the share of requests that it may repeat.

    Args:
        count: how many nodes there are.
        roll: returns a random number from 0 up to 1.

    Attributes:
        count: how many nodes there are.
    """

    def __init__(self, count: int, roll: Callable[[], float]) -> None:
        self.count = count
        self._paused_until_s = [-math.inf] * count
        self._roll = roll
        self._preferred = self._one_of(range(count))  # clients spread over the nodes
        self._left: int | None = None
        """The node that this client left because it failed, and to which it will return."""
        self._return_at_s = math.inf
        self._return_s = RETURN_S
        self._requests = 0
        self._repeated = RateLimiter(REPEATED_SHARE, REPEATED_AT_ONCE)  # its time is the number of requests

    def call(self, now_s: float, *, repeatable: bool) -> Call:
        """Return the call for a new request.

        Args:
            now_s: the present moment.
            repeatable: whether a second execution of the request does no harm.
        """
        self._requests += 1
        node = self._returns_to(now_s) if repeatable else None
        return Call(self, self.choose(now_s) if node is None else node, now_s, repeatable=repeatable)

    def choose(self, now_s: float, tried: frozenset[int] = frozenset()) -> int:
        """Return the node to ask: the preferred one, unless it is paused or was tried for this request."""
        well = [node for node, until_s in enumerate(self._paused_until_s) if until_s <= now_s]
        fresh = [node for node in well if node not in tried]
        if self._preferred in fresh:
            return self._preferred
        if fresh or well:
            return self._one_of(fresh or well)
        untried = [node for node in range(len(self._paused_until_s)) if node not in tried]
        return min(untried or range(len(self._paused_until_s)), key=self._paused_until_s.__getitem__)

    def answered(self, node: int, *, has_moved: bool) -> None:
        """Note that a node is well. It is preferred from now on if a request has moved to it, or if the preferred one has failed.

        Args:
            node: the node.
            has_moved: whether another node was asked first. An answer that has long been under way is no reason to prefer its node.
        """
        self._paused_until_s[node] = -math.inf
        if has_moved or node == self._left or self._paused_until_s[self._preferred] > -math.inf:
            self._preferred = node
        if node == self._left:
            self._left, self._return_s = None, RETURN_S

    def failed(self, node: int, now_s: float) -> None:
        """Note that a node is unwell."""
        self._paused_until_s[node] = now_s + PAUSE_S
        if self._left is None and node == self._preferred:
            self._left, self._return_at_s = node, now_s + self._return_s

    def _returns_to(self, now_s: float) -> int | None:
        """Return the node that was left if a request is due to try it; the next one is due after twice the time. Otherwise None."""
        if self._left is None or now_s < self._return_at_s:
            return None
        self._return_s = min(2 * self._return_s, LONGEST_RETURN_S)
        self._return_at_s = now_s + self._return_s
        return self._left

    def may_repeat(self) -> bool:
        """Whether one more request may be repeated, and count it if so."""
        return self._repeated.spend(1, self._requests, patience_s=0) is not None

    def spread(self, wait_s: float) -> float:
        """Return a wait from ``wait_s`` to twice that, so that clients that were refused together do not come back together."""
        return min(wait_s * (1 + self._roll()), LONGEST_WAIT_S)

    def backoff(self, tries: int) -> float:
        """Return the wait after so many tries without a hint: full jitter."""
        return self._roll() * min(FIRST_WAIT_S * (1 << tries), LONGEST_WAIT_S)

    def _one_of(self, nodes: list[int] | range) -> int:
        return nodes[int(self._roll() * len(nodes))]


class Call:
    """One request of a client, with all its tries.

    Attributes:
        node: the node to ask now.
        tries: how often the request has been sent, this try included. A try that finds a closed port does not count, once for each node.
            A cluster that restarts may close one port while the others are slow.
    """

    __slots__ = ("_began_s", "_closed", "_first", "_nodes", "_repeatable", "_tried", "node", "tries")

    def __init__(self, nodes: Nodes, node: int, now_s: float, *, repeatable: bool) -> None:
        self._nodes = nodes
        self._began_s = now_s
        self._repeatable = repeatable
        self._tried: frozenset[int] = frozenset()
        self._closed = 0
        self.node = self._first = node
        self.tries = 1

    @property
    def is_last(self) -> bool:
        """Whether no try follows this one, unless it finds a closed port."""
        return self.tries >= TRIES

    def left_s(self, now_s: float) -> float:
        """Return the seconds in which another try may begin."""
        return self._began_s + DEADLINE_S - now_s

    def answered(self) -> None:
        """Note that the node gave an answer for the caller."""
        self._nodes.answered(self.node, has_moved=self.node != self._first)

    def next(self, failure: Failure, now_s: float, *, can_send_again: bool) -> TryAgain | GiveUp:
        """Return how to go on after a try that failed; ``node`` is then the one to ask.

        Args:
            failure: of the try.
            now_s: the present moment.
            can_send_again: whether the body of the request is still there.
        """
        if failure.where == "other_node":
            self._nodes.failed(self.node, now_s)
        if not failure.retryable:
            return GiveUp("no try would succeed")
        if failure.outcome != "not_executed" and not self._repeatable:
            return GiveUp("the request may have been executed, and must not be executed twice")
        if not can_send_again:
            return GiveUp("the body of the request was a stream, which is consumed")
        counts = not failure.is_closed or self._closed >= self._nodes.count
        if counts and self.is_last:
            return GiveUp(f"{TRIES} tries failed")
        node = self._next_node(failure, now_s)
        wait_s = self._wait_s(failure, node)
        if wait_s > self.left_s(now_s):
            return GiveUp(f"{DEADLINE_S:g} s are over")
        if failure.was_work and not self._nodes.may_repeat():
            return GiveUp("too many requests are repeated already")
        self.node = node
        self.tries += counts
        self._closed += not counts
        return TryAgain(wait_s)

    def go_to(self, node: int) -> None:
        """Ask another node, to which the first one has sent the client."""
        self.node = node

    def _next_node(self, failure: Failure, now_s: float) -> int:
        if failure.where == "same_node":
            return self.node
        self._tried |= {self.node}
        return self._nodes.choose(now_s, self._tried)

    def _wait_s(self, failure: Failure, node: int) -> float:
        if failure.where == "other_node" and node not in self._tried:
            return 0.0  # the hint says when this node may be well again
        if failure.after_s is None:
            return self._nodes.backoff(self.tries + self._closed)
        return self._nodes.spread(failure.after_s)
