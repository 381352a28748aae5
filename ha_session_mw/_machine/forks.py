"""What must not be carried into a forked process: servers such as ``gunicorn --preload`` make the app before they fork."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class ForkAware(Protocol):
    """Somebody who holds what a fork must not double."""

    def before_fork(self) -> None:
        """The process is about to fork. What cannot be shared is let go."""
        ...

    def after_fork(self, *, in_child: bool) -> None:
        """It has forked, and this is the one process or the other."""
        ...


_watched: WeakSet[ForkAware] = WeakSet()
_told: list[ForkAware] = []


def watch(one: ForkAware) -> None:
    """Tell an object of forks for as long as it lives. A program that is started as a subprocess is none."""
    _watched.add(one)


def _before() -> None:
    _told[:] = _watched  # these, and no others, hear of its end
    for one in _told:
        one.before_fork()


def _after(*, in_child: bool) -> None:
    while _told:
        _told.pop().after_fork(in_child=in_child)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before,
        after_in_parent=lambda: _after(in_child=False),
        after_in_child=lambda: _after(in_child=True),
    )
