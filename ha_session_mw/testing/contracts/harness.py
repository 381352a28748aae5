"""The base of the contracts of logs, stores and locks: opens nodes, lets time pass, and expects exceptions.

Any test runner works that runs ``async def`` methods of classes, such as pytest with anyio's plugin.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import Generic, ParamSpec, TypeVar

import anyio

P = ParamSpec("P")


class Harness:
    """The nodes on which a contract is tested.

    Attributes:
        can_break: whether ``break_off`` and ``mend`` work.
        limit_s: how long one test may take.
        wait_s: how long :meth:`wait_until` waits.
    """

    can_break = False
    limit_s = 60.0
    wait_s = 10.0

    async def run(self, function: Callable[[], Awaitable[None]]) -> None:
        """Call an async function while time passes. Override it where time does not pass by itself."""
        with anyio.fail_after(self.limit_s):
            await function()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until a condition holds. Override it where time does not pass by itself."""
        with anyio.fail_after(self.wait_s):
            while not condition():
                await anyio.sleep(0.01)


HarnessT = TypeVar("HarnessT", bound=Harness)


class Contract(ABC, Generic[HarnessT]):
    """Tests of one port. Inherit from a contract, implement :meth:`opened`, and have a test runner run each ``test_…``."""

    _numbers = count()
    """Makes the names of each test new, because several tests may share an engine."""

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[HarnessT]:
        """Open nodes of a new cluster, two or more if the backend has them. They run until the context ends."""


async def raises(kind: type[Exception], function: Callable[P, Awaitable[object]], *args: P.args, **kwargs: P.kwargs) -> bool:
    """Return whether a call raises an exception of this kind."""
    try:
        await function(*args, **kwargs)
    except kind:
        return True
    return False
