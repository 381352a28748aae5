"""Callbacks around a fork, for objects that a forked process must not share: ``gunicorn --preload`` makes the app before it forks."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class ForkAware(Protocol):
    """An object with a resource that a fork must not double."""

    def before_fork(self) -> None:
        """Release all resources that a fork must not share. Called before the process forks."""
        ...

    def after_fork(self, *, in_child: bool) -> None:
        """Take it back, or begin anew: the process has forked, and this is the child or the parent."""
        ...


_watched: WeakSet[ForkAware] = WeakSet()
_called: list[ForkAware] = []


def watch(one: ForkAware) -> None:
    """Call an object around each fork for as long as it lives. Starting a program as a subprocess is no fork."""
    _watched.add(one)


def _before() -> None:
    _called[:] = _watched  # exactly these are called after the fork
    for one in _called:
        one.before_fork()


def _after(*, in_child: bool) -> None:
    while _called:
        _called.pop().after_fork(in_child=in_child)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before,
        after_in_parent=lambda: _after(in_child=False),
        after_in_child=lambda: _after(in_child=True),
    )
