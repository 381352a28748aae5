"""How the core states what must hold at all times. Tests call the ``check()`` of each part; production never does."""

from __future__ import annotations


class InvariantBroken(AssertionError):
    """A part of the core is in a state that its rules exclude."""


def ensure(holds: object, what: str) -> None:
    """Raise if an invariant does not hold.

    Args:
        holds: whether it does.
        what: the invariant, as a sentence that should be true.

    Raises:
        InvariantBroken: it does not hold.
    """
    if not holds:
        raise InvariantBroken(f"it should hold that {what}")
