"""The shortest way to a wrong state, as a story."""

from __future__ import annotations

from .ordered_log import OrderedLog, OrderedState
from .quorum_log import QuorumLog, QuorumState
from .search import Action, Found

_STANDINGS = ("", "", "durable", "fenced")


def told(model: QuorumLog | OrderedLog, found: Found) -> str:
    """Return the steps of a path, each progress of a log-out, and the fault at the end."""
    lines, before = [], model.start()
    for count, (action, state) in enumerate(found.path, 1):
        lines.append(f"  {count:2}. {_sentence(action)}{_progress(before, state)}")
        before = state
    return "\n".join([*lines, f"      Now {found.fault}."])


def _sentence(action: Action) -> str:
    verb, *who = action
    return f"{who[0]} {verb} {' '.join(map(str, who[1:]))}".strip() if who else str(verb)


def _progress(before: QuorumState | OrderedState, after: QuorumState | OrderedState) -> str:
    """How much further the log-outs have got."""
    steps = zip(before.log_outs, after.log_outs, strict=True)
    got = [_STANDINGS[now.standing] for was, now in steps if now.standing > was.standing and _STANDINGS[now.standing]]
    return f" (the log-out is now {' and '.join(got)})" if got else ""
