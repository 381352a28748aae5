"""Every order of log-ins and one log-out everywhere, with every error that trusted clocks may have."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from ha_session_mw._core.accept_rule import Accept, decide
from ha_session_mw._core.cluster.view import CUT_TOLERANCE_MS, View, new_cut_id
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw.models import Claims, Cut, FamilyId, KeyId, NodeId, SessionId

STEP_MS = 10_000
TRUSTED_MS = 30_000
"""Largest error of a trusted clock."""
START_MS = 1_800_000_000_000
END_MS = START_MS + 3_600_000
SPAN = 16
"""Steps in which a session may begin, with the log-out in the middle: more than the tolerance and both errors on either side."""
ERRORS_MS = range(-TRUSTED_MS, TRUSTED_MS + 1, STEP_MS)


class Case(NamedTuple):
    """One order: by how many steps the session began after the log-out, and the errors of the two clocks.

    Attributes:
        after: steps of true time from the log-out to the log-in; negative if the session began first.
        issuer_ms: error of the clock that dates the session.
        writer_ms: error of the clock that dates the log-out.
    """

    after: int
    issuer_ms: int
    writer_ms: int


def cases() -> Iterator[Case]:
    """All orders."""
    return (Case(*found) for found in product(range(-SPAN, SPAN + 1), ERRORS_MS, ERRORS_MS))


def accepts(case: Case, *, tolerance_ms: int = CUT_TOLERANCE_MS, dated: bool = True) -> bool:
    """Whether a node that knows the log-out accepts the session, which could not list it."""
    made_ms = START_MS + case.writer_ms + tolerance_ms - CUT_TOLERANCE_MS
    began_ms = START_MS + case.after * STEP_MS + case.issuer_ms
    view = View(fresh_at=0.0)
    view.merge(Cut(new_cut_id("cut", END_MS, made_ms if dated else None), "ada", END_MS))
    claims = Claims(
        sid=SessionId("session"),
        subject="ada",
        family=FamilyId("family"),
        cuts=(),
        issued_ms=began_ms,
        authenticated_ms=began_ms,
        idle_end_ms=END_MS,
        absolute_end_ms=END_MS,
        issuer=NodeId("n0"),
    )
    verified = Verified.of(claims, KeyId("key"))
    return isinstance(decide(verified, view, 0.0, 0.0, float(began_ms), 1.0), Accept)


def wrongly_accepted(**rule: bool | int) -> list[Case]:
    """The orders in which a session that began first is accepted."""
    return [case for case in cases() if case.after <= 0 and accepts(case, **rule)]  # type: ignore[arg-type]


def wrongly_refused(**rule: bool | int) -> list[Case]:
    """The orders in which a session is refused that began after the log-out by more than the tolerance and both errors."""
    certain = (CUT_TOLERANCE_MS + 2 * TRUSTED_MS) // STEP_MS
    return [case for case in cases() if case.after > certain and not accepts(case, **rule)]  # type: ignore[arg-type]
