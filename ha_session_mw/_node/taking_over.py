"""Take over cookies of Starlette's middleware during a migration."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from .._core.token.tokens import Verified
from ..config import Settings


def taking_over(settings: Settings, *, began_ms: float) -> Callable[..., Verified] | None:
    """Return what verifies a cookie of Starlette's middleware; None unless such cookies are taken over."""
    if settings.legacy_cookies == "off":
        return None
    from .._core.token.legacy import TakeOver, take_over  # only for a migration

    until = settings.legacy_until
    rules = TakeOver(
        idle_ms=int(settings.idle_timeout * 1000),
        absolute_ms=int(settings.absolute_timeout * 1000),
        began_ms=began_ms,
        until_ms=math.inf if until is None else until.timestamp() * 1000,
    )
    return partial(take_over, rules=rules)
