"""Where log-outs are kept and shared. A backend is imported when it is asked for, and not before."""

from __future__ import annotations

from .._core.view import View
from ..abc import Clock, ClusterLog


def open_backend(url: str, view: View, clock: Clock) -> ClusterLog:
    """The log that a ``HA_SESSION_CLUSTER`` URL names, folding into ``view``.

    Raises:
        ValueError: no backend has this URL.
    """
    if url == "memory://":
        from .memory import MemoryLog

        return MemoryLog(view, clock)
    raise ValueError(f"no backend for {url!r}")
