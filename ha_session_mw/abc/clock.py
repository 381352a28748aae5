"""The port of a clock: the two clocks of a node."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from anyio import CancelScope


class Clock(Protocol):
    """The two clocks of a node, and waiting by the first. ``boot_s`` measures time within a node, ``wall_s`` dates what crosses nodes."""

    def boot_s(self) -> float:
        """Return the seconds since some moment, time in suspend included. Never steps."""
        ...

    def wall_s(self) -> float:
        """Return the seconds since the epoch. May be wrong, and may step."""
        ...

    def move_on_after(self, seconds: float) -> AbstractContextManager[CancelScope, bool]:
        """Return a cancel scope that ends its block after so many seconds of ``boot_s``; ``cancelled_caught`` is then true."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds of ``boot_s``. Takes less than a block that :meth:`move_on_after` ends."""
        ...
