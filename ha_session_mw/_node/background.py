"""A place for short tasks beside the requests, which exists as long as the node runs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVarTuple, Unpack

import anyio
import anyio.abc

Ts = TypeVarTuple("Ts")


class Background:
    """Runs functions in the background, as long as :meth:`run` does."""

    def __init__(self) -> None:
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self) -> None:
        """Run the functions until cancelled, and them with it."""
        async with anyio.create_task_group() as self._tasks:
            try:
                await anyio.sleep_forever()
            finally:
                self._tasks = None

    @property
    def is_running(self) -> bool:
        """Whether a function can be started."""
        return self._tasks is not None

    def start(self, function: Callable[[Unpack[Ts]], Coroutine[Any, Any, Any]], *args: *Ts) -> bool:
        """Start a function; return whether that was possible."""
        if self._tasks is None:
            return False
        self._tasks.start_soon(function, *args)
        return True
