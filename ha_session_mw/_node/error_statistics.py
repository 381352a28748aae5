"""The refusals of a node, by code: how many, how often, the last one, and those that must never happen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from .._core.event_rates import WINDOWS_S, EventRates
from ..abc import Clock
from ..exceptions import InfrastructureFault, KeyNotReached, ProblemError, problem_types


class LastProblem(msgspec.Struct, frozen=True):
    """The newest refusal of one code.

    Attributes:
        at_s: when (wall clock).
        instance: names the newest answer that is in the log, as in its problem document; None if there is none.
        check: the step of the accept rule that failed; empty if none did.
    """

    at_s: float
    instance: str | None
    check: str


class ErrorStatistics:
    """Counts the refusals of one node.

    Args:
        clock: the two clocks.
        report: writes a refusal to the log; returns whether it did, because a flood of them is sampled.
        alarm: receives a refusal that ended a session because of a fault of the infrastructure.
        is_certain: whether this node can be sure of a refusal that rests on the clock, or on its knowledge of keys. It takes the step
            of the accept rule that refused.

    Attributes:
        counts: how many requests were refused, by code.
        last: the newest refusal of each code.
        logouts_by_infrastructure: how many refusals told a client to log in again because of a fault of the infrastructure. Stays 0.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        report: Callable[[ProblemError, str | None], bool],
        alarm: Callable[[ProblemError], None],
        is_certain: Callable[[str], bool],
    ) -> None:
        self._clock = clock
        self._report = report
        self._alarm = alarm
        self._is_certain = is_certain
        self._began_s = clock.boot_s()
        self.counts: Counter[str] = Counter()
        self._rates: dict[str, EventRates] = {}
        self.last: dict[str, LastProblem] = {}
        self.logouts_by_infrastructure = 0

    def note(self, problem: ProblemError, instance: str | None, *, is_counted: bool = False) -> None:
        """Count a refusal, and log it.

        Args:
            problem: the reason.
            instance: names the answer; None if the client got no problem document.
            is_counted: whether the request has been counted already, when its token was refused. Then only the instance is news.
        """
        if not is_counted:
            self._count(problem)
        if not self._report(problem, instance):
            instance = last.instance if (last := self.last.get(problem.code)) is not None else None
        self.last[problem.code] = LastProblem(self._clock.wall_s(), instance, problem.check)

    def _count(self, problem: ProblemError) -> None:
        self.counts[problem.code] += 1
        rates = self._rates.get(problem.code)
        if rates is None:
            rates = self._rates[problem.code] = EventRates(self._began_s)
        rates.add(self._clock.boot_s())
        if problem.status == 401 and self.is_by_infrastructure(problem):
            self.logouts_by_infrastructure += 1
            self._alarm(problem)

    def is_by_infrastructure(self, problem: ProblemError) -> bool:
        """Whether a refusal that ends a session rests on a fault of the infrastructure, or on knowledge that the node cannot be sure of.

        This is a second look, beside the rule that refused.
        """
        cause = problem.__cause__
        # A key that no member has is a fault of the token, if it is certain that no member has it.
        if isinstance(cause, InfrastructureFault | OSError) and not isinstance(cause, KeyNotReached):
            return True
        return not self._is_certain(problem.check)

    def told(self) -> dict[str, object]:
        """Return for each code that has occurred: its turn, the total, events per minute over 1, 5 and 15 minutes, and the last one."""
        kinds, now_s = problem_types(), self._clock.boot_s()
        return {
            code: {
                "turn": kinds[code].turn,
                "total": self.counts[code],
                "per_minute": {f"{window_s / 60:g}m": round(rates.per_second(window_s, now_s) * 60, 3) for window_s in WINDOWS_S},
                "last": self._last_of(code),
            }
            for code, rates in sorted(self._rates.items())
        }

    def _last_of(self, code: str) -> dict[str, object] | None:
        last = self.last.get(code)
        if last is None:
            return None
        at = datetime.fromtimestamp(last.at_s, UTC).isoformat(timespec="milliseconds")
        return {"at": at, "instance": last.instance, "check": last.check or None}
