"""The two clocks of a node, moved by hand."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

from anyio import CancelScope, sleep_forever


class ManualClock:
    """The two clocks of a node, moved by hand: pass it as ``SessionManager(..., clock=clock)``.

    Args:
        wall_s: first reading of the wall clock, in seconds since the epoch.
        boot_s: first reading of the boot-time clock, in seconds.

    Attributes:
        rate: by how many seconds both clocks advance per second that passes. 1.01 is a clock that drifts by 1 %.

    Example:
        >>> clock = ManualClock(wall_s=1_800_000_000.0, boot_s=100.0)
        >>> clock.advance(30)
        >>> clock.boot_s(), clock.wall_s()
        (130.0, 1800000030.0)
        >>> clock.step_wall(-3600)
        >>> clock.boot_s(), clock.wall_s()
        (130.0, 1799996430.0)
    """

    __slots__ = ("_boot_s", "_frozen", "_limits", "_wall_s", "rate")

    def __init__(self, *, wall_s: float = 1_800_000_000.0, boot_s: float = 1_000.0) -> None:
        self.rate = 1.0
        self._frozen = False
        self._wall_s = wall_s
        self._boot_s = boot_s
        self._limits: dict[CancelScope, float] = {}

    def boot_s(self) -> float:
        """Return the boot-time clock: seconds that have passed; it never steps."""
        return self._boot_s

    def wall_s(self) -> float:
        """Return the wall clock: seconds since the epoch."""
        return self._wall_s

    def move_on_after(self, seconds: float) -> AbstractContextManager[CancelScope, bool]:
        """Cancel the block once the boot-time clock has advanced by ``seconds``; the scope's ``cancelled_caught`` then is true."""
        return _Limit(self._limits, self._boot_s + seconds, over=seconds <= 0)

    async def sleep(self, seconds: float) -> None:
        """Return once the boot-time clock has advanced by ``seconds``."""
        with self.move_on_after(seconds):
            await sleep_forever()

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks.

        Raises:
            ValueError: ``seconds`` is negative. Time does not run backwards; ``step_wall`` sets the wall clock back.
        """
        if seconds < 0:
            raise ValueError(f"time passes forwards only, got {seconds!r}; step_wall() sets the wall clock back")
        self._boot_s += seconds * self.rate
        self._wall_s += seconds * self.rate
        self._end_what_is_due()

    def _end_what_is_due(self) -> None:
        for scope, end_s in self._limits.items():
            if self._boot_s >= end_s and not self._frozen:
                scope.cancel()

    def until_next(self) -> float | None:
        """Return the seconds until the first wait by this clock ends; None if nothing waits."""
        ends = [end_s for scope, end_s in self._limits.items() if not scope.cancel_called]
        return max(0.0, min(ends) - self._boot_s) / self.rate if ends and not self._frozen else None

    def freeze(self) -> None:
        """Let no wait by this clock end, although time passes: its process is paused."""
        self._frozen = True

    def thaw(self) -> None:
        """Let waits end again; those that became due meanwhile end now."""
        self._frozen = False
        self._end_what_is_due()

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forwards or back, as an operator or a time server does. The boot-time clock stays as it is."""
        self._wall_s += seconds

    def __repr__(self) -> str:
        return f"<ManualClock boot {self._boot_s:g} s, wall {self._wall_s:g} s>"


class _Limit(AbstractContextManager[CancelScope, bool]):
    """A cancel scope that is registered with its clock while it is open."""

    def __init__(self, limits: dict[CancelScope, float], end_s: float, *, over: bool) -> None:
        self._limits, self._end_s, self._over = limits, end_s, over
        self._scope = CancelScope()

    def __enter__(self) -> CancelScope:
        scope = self._scope.__enter__()
        self._limits[scope] = self._end_s
        if self._over:
            scope.cancel()
        return scope

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> bool:
        del self._limits[self._scope]
        return bool(self._scope.__exit__(kind, exc, trace))
