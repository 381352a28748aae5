"""Makes the things that the rules of the core are about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from typing import Any

import msgspec
from hypothesis import strategies as st

from ha_session_mw._core.accept_rule import Decision, decide
from ha_session_mw._core.cluster.view import View, new_cut_id
from ha_session_mw._core.token import data, tokens
from ha_session_mw._core.token.keys import KeyRing, SigningKey
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw.models import Claims, Cut, CutId, FamilyId, NodeId, OwnLives, SessionId

NOW_MS = 1_800_000_000_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS

KEY = SigningKey(b"a secret that only these tests know: 7fQ2")
OTHER_KEY = SigningKey(b"another one, of another key: Zk81-wPx0vL3")
RING = KeyRing([KEY.secret, OTHER_KEY.secret])


def claims(
    sid: str = "sid-of-a-session-ABCDE",
    *,
    subject: str | None = "ada",
    family: str = "family-of-it-ABCDEFGHI",
    cuts: tuple[str, ...] = (),
    issued_ms: int = NOW_MS,
    idle_end_ms: int = NOW_MS + HOUR_MS // 2,
    absolute_end_ms: int = NOW_MS + 12 * HOUR_MS,
    content: Mapping[str, Any] | None = None,
) -> Claims:
    return Claims(
        sid=SessionId(sid),
        subject=subject,
        family=FamilyId(family),
        cuts=tuple(CutId(cut) for cut in cuts),
        issued_ms=issued_ms,
        authenticated_ms=issued_ms,
        idle_end_ms=idle_end_ms,
        absolute_end_ms=absolute_end_ms,
        issuer=NodeId("node-a"),
        data=data.encode(content or {}),
    )


def seen(given: Claims, key: SigningKey = KEY) -> Verified:
    """The claims as a node sees them, verified from a signed token."""
    return tokens.verify(tokens.sign(given, key), KeyRing([key.secret]))


def fresh_view() -> View:
    return View(fresh_at=math.inf)


def judge(given: Claims | Verified, view: View, *, wall_ms: float = NOW_MS, fresh_at: float = math.inf, limit_s: float = 5.0) -> Decision:
    verified = given if isinstance(given, Verified) else seen(given)
    return decide(verified, view, fresh_at=fresh_at, boot_s=1_000.0, wall_ms=wall_ms, freshness_limit_s=limit_s)


def cut(
    name: str,
    *,
    subject: str | None = "ada",
    until_ms: int = NOW_MS + 12 * HOUR_MS,
    made_ms: int | None = None,
    spare: str | None = None,
    replaces: tuple[Cut, ...] = (),
) -> Cut:
    return Cut(
        id=new_cut_id(name, until_ms, made_ms),
        subject=subject,
        until_ms=until_ms,
        except_family=None if spare is None else FamilyId(spare),
        replaces=tuple(old.id for old in replaces),
    )


def random_id(random: Random) -> str:
    return "".join(random.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", k=22))


# Hypothesis

IDS = st.text("ABCDEFabcdef0123456789-_", min_size=22, max_size=22)
TIMES_MS = st.integers(0, 2**48)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
CONTENTS = st.dictionaries(st.text(max_size=8), VALUES, max_size=4)


@st.composite
def any_claims(draw: st.DrawFn) -> Claims:
    return Claims(
        sid=SessionId(draw(IDS)),
        subject=draw(st.none() | st.text(min_size=1, max_size=40)),
        family=FamilyId(draw(IDS)),
        cuts=tuple(CutId(new_cut_id(name, end)) for name, end in draw(st.lists(st.tuples(IDS, TIMES_MS), max_size=3))),
        issued_ms=draw(TIMES_MS),
        authenticated_ms=draw(TIMES_MS),
        idle_end_ms=draw(TIMES_MS),
        absolute_end_ms=draw(TIMES_MS),
        issuer=NodeId(draw(st.text("abc-019", max_size=12))),
        record=draw(st.integers(0, 2**40)),
        data=data.encode(draw(CONTENTS)),
        own=draw(st.just(msgspec.UNSET) | st.builds(OwnLives, st.integers(0, 2**40), st.booleans())),
    )
