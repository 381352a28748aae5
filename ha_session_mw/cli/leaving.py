"""The operator's part in a restart that nobody sees: the balancer's checks, the delay of a drain, and the time until SIGKILL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..asgi.last_requests import IDLE_S
from ..asgi.sigterm import LEAVE_AFTER_S
from ..config import Settings
from .balanced import CHECK_EVERY_S, FALL
from .balancers import Kind

UNDER_WAY_S = 1.0
"""Seconds between the last check that fails and the moment at which the balancer sends no request any more."""
START_WAIT_S = 10.0
"""How long a balancer without checks may have to wait for a node that starts, on a busy machine."""
GOOD_BYE_S = 5.0
"""How long a node may take to hand its entries over, twice, and to say good-bye."""


class Lack(NamedTuple):
    """A setting that does not suit a planned restart.

    Attributes:
        fact: what is wrong, as a sentence without its full stop.
        remedy: what to do, in the same form.
    """

    fact: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Leaving:
    """The needs of a restart, in seconds.

    Attributes:
        delay_s: the least ``HA_SESSION_DRAIN_DELAY``.
        grace_s: the least time between SIGTERM and SIGKILL, for requests that take ``longest_request_s``.
        lacks: what the settings lack; empty if all is well.
    """

    delay_s: float
    grace_s: float
    lacks: tuple[Lack, ...]


def leaving(
    settings: Settings,
    *,
    kind: Kind | None = None,
    check_every_s: float = CHECK_EVERY_S,
    fall: int = FALL,
    grace_s: float | None = None,
    longest_request_s: float = 0.0,
) -> Leaving:
    """Return what a planned restart behind a balancer needs, and what these settings lack.

    Args:
        settings: of the nodes.
        kind: the balancer; None for one that asks ``readyz``. nginx does not ask.
        check_every_s: seconds between two checks of a node; by default those of ``lb-config``.
        fall: how many checks in a row take a node out.
        grace_s: seconds between SIGTERM and SIGKILL; None if unknown.
        longest_request_s: how long a request may take that is under way at the end of the drain.
    """
    delay_s = check_every_s * fall + UNDER_WAY_S
    # A listener that closes lets idle connections end; then the server ends its requests, and the node leaves.
    stop_s = max(settings.drain_delay, delay_s)
    needed_s = max(stop_s, IDLE_S) + max(longest_request_s, LEAVE_AFTER_S) + GOOD_BYE_S
    return Leaving(delay_s, needed_s, tuple(_lacks(settings, kind, delay_s, (check_every_s, fall), (grace_s, needed_s))))


def _lacks(
    settings: Settings, kind: Kind | None, delay_s: float, checks: tuple[float, int], grace: tuple[float | None, float]
) -> Iterator[Lack]:
    every_s, fall = checks
    grace_s, needed_s = grace
    if settings.drain_delay < delay_s:
        yield Lack(
            f"HA_SESSION_DRAIN_DELAY={settings.drain_delay:g}s is too short. A balancer that asks readyz every {every_s:g} s, and takes "
            f"a node out after {fall} failed checks, needs {every_s * fall:g} s, and {UNDER_WAY_S:g} s more for what is under way",
            f"set HA_SESSION_DRAIN_DELAY={delay_s:g}s or more, or check more often",
        )
    if kind == "nginx" and settings.drain_refuse != "safe":
        yield Lack(
            "HA_SESSION_DRAIN_REFUSE=off does not suit nginx, which never asks readyz. It learns of a drain by refusals",
            "set HA_SESSION_DRAIN_REFUSE=safe",
        )
    if kind == "nginx" and settings.start_wait < START_WAIT_S:
        yield Lack(
            f"HA_SESSION_START_WAIT={settings.start_wait:g}s does not suit nginx, which sends requests to a node that is still starting",
            f"set HA_SESSION_START_WAIT={START_WAIT_S:g}s",
        )
    if grace_s is not None and grace_s < needed_s:
        yield Lack(
            f"SIGKILL comes {grace_s:g} s after SIGTERM, and a node may need {needed_s:g} s to leave: the drain, idle connections, "
            "requests under way, and the good-bye",
            f"raise what applies (terminationGracePeriodSeconds, TimeoutStopSec=, --graceful-timeout) to {needed_s:g} or more",
        )
