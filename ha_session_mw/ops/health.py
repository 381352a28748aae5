"""The health of a node: every check with its value, its limit and the remedy (draft-inadarei-api-health-check). Waits for nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .._node.node import Node
from .._node.standing import WARN_SKEW_S
from .figures import freshness_age_s, skews_of

Status = Literal["pass", "warn", "fail"]

UNTRUSTED_SKEW_S = 30.0
"""Skew from the median of the members at which a node neither issues nor validates tokens."""
_ORDER: tuple[Status, ...] = ("pass", "warn", "fail")


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: a closed set of names.
        status: how it went.
        value: what was found.
        limit: from where on the check warns or fails; None if there is no number for it.
        unit: of both; empty if they are counts or words.
        output: why it did not pass; empty if it did.
        remedy: what an operator can do; empty if it passed.
    """

    name: str
    status: Status
    value: object
    limit: object = None
    unit: str = ""
    output: str = ""
    remedy: str = ""


def health_of(node: Node) -> tuple[Status, dict[str, object]]:
    """Return the status of a node as a whole, and the body that tells of it. A node that cannot validate sessions fails."""
    checks = [*checks_of(node)]
    status = max((check.status for check in checks), key=_ORDER.index)
    return status, {"status": status, "checks": {check.name: [_told(check)] for check in checks}}


def _told(check: Check) -> dict[str, object]:
    told = {
        "status": check.status,
        "observedValue": check.value,
        "observedUnit": check.unit,
        "limit": check.limit,
        "output": check.output,
        "remedy": check.remedy,
    }
    return {name: value for name, value in told.items() if value not in ("", None)}


def checks_of(node: Node) -> Iterator[Check]:
    """Yield all checks."""
    why = node.why_not_ready()
    yield Check("ready", "pass" if why is None else "fail", why is None, output=why or "",
                remedy="" if why is None else "act on the reason given; see the runbook, Not ready")  # fmt: skip
    yield _freshness(node)
    yield from _clocks(node)
    yield _quorum(node)
    yield _mismatches(node)
    yield _pending(node)
    exposed = node.log.exposure()
    yield Check("durability", "warn" if exposed else "pass", exposed is None, output=exposed or "",
                remedy="do what the sentence says" if exposed else "")  # fmt: skip
    yield _tasks(node)
    yield _zero("accepts_after_revocation", node.second_look.accepts_after_revocation if node.second_look is not None else 0)
    yield _zero("logouts_by_infrastructure", node.errors.logouts_by_infrastructure)
    age_days = node.keys.signing_age_s(node.clock.boot_s(), node.clock.wall_s()) / 86400
    yield _keys(node)
    yield Check("signing_key_age", "pass", round(age_days, 2), unit="d")


def _freshness(node: Node) -> Check:
    age_s, limit_s = freshness_age_s(node), node.log.freshness_limit_s
    status: Status = "fail" if age_s > limit_s else "warn" if age_s > limit_s * 0.8 else "pass"
    return Check(
        "freshness",
        status,
        round(age_s, 3) if age_s < math.inf else None,
        limit_s,
        "s",
        "" if status == "pass" else "the node's knowledge is old" if age_s < math.inf else "the node has not learned the log yet",
        "" if status == "pass" else "look at the network to the other members, or to the cluster's server",
    )


def _clocks(node: Node) -> Iterator[Check]:
    trusted = node.log.trusts_clock()
    yield Check(
        "clock",
        "pass" if trusted or node.log.is_starting() else "fail",
        trusted,
        output="" if trusted else "the cluster does not vouch for this node's clock",
        remedy="" if trusted else "set the clock by NTP; a node alone trusts a clock that was set after a minute",
    )
    for peer, ahead_s in skews_of(node).items():
        status = skew_status(ahead_s)
        yield Check(
            f"clock_skew:{peer}",
            status,
            round(ahead_s, 3),
            WARN_SKEW_S,
            "s",
            "" if status == "pass" else f"the clocks differ by {abs(ahead_s):.1f} s; from {UNTRUSTED_SKEW_S:.0f} s on, one is not trusted",
            "" if status == "pass" else "run NTP on both machines",
        )


def skew_status(ahead_s: float) -> Status:
    """Return how far a skew is from harm."""
    return "fail" if abs(ahead_s) > UNTRUSTED_SKEW_S else "warn" if abs(ahead_s) > WARN_SKEW_S else "pass"


def _quorum(node: Node) -> Check:
    lives, needed = 1 + len(node.log.members()), node.log.quorum_size()
    available = node.log.has_quorum()
    return Check(
        "quorum",
        "pass" if available else "warn",
        lives,
        needed,
        "members",
        "" if available else "log-outs do not become durable: they are provisional, or refused with 503",
        "" if available else "bring members back until a majority hears this node, or the cluster's server",
    )


def _mismatches(node: Node) -> Check:
    told = node.log.mismatches()
    return Check("mismatched_members", "warn" if told else "pass", len(told), 0, output="; ".join(told),
                 remedy="do what the sentence says; see Troubleshoot a cluster" if told else "")  # fmt: skip


def _pending(node: Node) -> Check:
    pending = len(node.revoker.provisional)
    return Check(
        "pending_revocations",
        "warn" if pending else "pass",
        pending,
        0,
        "",
        "log-outs count on this node only" if pending else "",
        "do not delete HA_SESSION_STATE_DIR; restore the majority" if pending else "",
    )


def _tasks(node: Node) -> Check:
    crashes = sum(node.supervisor.crashes.values())
    return Check("tasks", "warn" if crashes else "pass", crashes, 0, output="background tasks have crashed" if crashes else "",
                 remedy="report the traceback in the log as a fault of this package" if crashes else "")  # fmt: skip


def _keys(node: Node) -> Check:
    fit = node.key_fit()
    faults = [f"this node and {', '.join(fit.apart)} cannot validate each other's tokens"] if fit.apart else []
    faults += node.lacked_keys()
    return Check("keys", "fail" if fit.is_odd else "warn" if faults else "pass", len(node.keys.ring.kids), output="; ".join(faults),
                 remedy="give all nodes the same HA_SESSION_SECRET_KEY and fallbacks; see Rotate keys" if faults else "")  # fmt: skip


def _zero(name: str, count: int) -> Check:
    return Check(name, "warn" if count else "pass", count, 0, output="a promise was broken" if count else "",
                 remedy="see the runbook, and report it" if count else "")  # fmt: skip
