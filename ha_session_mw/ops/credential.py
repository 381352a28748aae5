"""The credential of the page for operators: a password of its own, and after a log-in a short-lived signed cookie.

The cookie is signed with the cluster's keys, so each node accepts it, and with the password, so a new password ends all of them.
It opens this page and nothing else. The password never leaves this file.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable

from .._core.calls.rate_limit import RateLimiter
from .._core.token.keys import KeyRing
from ..abc import Clock

COOKIE = "ha_session_ui"
LIFE_S = 3600.0
"""How long a log-in lasts."""
TRIES_PER_S, TRIES_AT_ONCE = 1.0, 20.0
"""Log-ins that a node checks in the long run, and in a burst: at this pace nobody guesses a password of 16 characters."""
_LONGEST_COOKIE = 128
_SALT = b"ha_session_mw.ui.1"


class Credential:
    """Checks the password and the cookies of the page.

    Args:
        password: returns the password as it is now; raises OSError or UnicodeDecodeError if its file cannot be read.
        ring: returns the present key ring.
        clock: its wall clock ends the cookies.
    """

    def __init__(self, password: Callable[[], str], ring: Callable[[], KeyRing], clock: Clock) -> None:
        self._password = password
        self._ring = ring
        self._clock = clock
        self._tries = RateLimiter(TRIES_PER_S, TRIES_AT_ONCE)

    def may_try(self) -> bool:
        """Whether there is room for one more log-in now. The true password waits, too: else a refusal would tell which one it is."""
        return self._tries.spend(1, self._clock.boot_s(), patience_s=0) is not None

    def is_password(self, given: str) -> bool:
        """Whether a text is the password. Takes the same time for any text of one length.

        Raises:
            OSError, UnicodeDecodeError: the password's file cannot be read.
        """
        password = self._password()
        # Digests, because a comparison of texts of two lengths tells the length.
        same = hmac.compare_digest(_digest(given), _digest(password))
        return same and bool(password)

    def issue(self) -> str:
        """Return a new cookie's value.

        Raises:
            OSError, UnicodeDecodeError: the password's file cannot be read.
        """
        end = f"{math.ceil(self._clock.wall_s() + LIFE_S)}"
        key = next(iter(self._ring()))
        return f"{end}.{key.kid}.{self._signature(end, key.kid)}"

    def left_s(self, cookie: str) -> float:
        """Return for how many seconds a cookie's value is good; 0 if it is not.

        Raises:
            OSError, UnicodeDecodeError: the password's file cannot be read.
        """
        end, _, rest = cookie[:_LONGEST_COOKIE].partition(".")
        kid, _, signature = rest.partition(".")
        if not (end.isascii() and end.isdigit() and len(end) < 15 and signature.isascii()):
            return 0.0
        left_s = int(end) - self._clock.wall_s()
        # A cookie that ends later than any that could be issued now was issued by a clock that has been set back since.
        if not 0 < left_s <= LIFE_S + 60 or (expected := self._signature(end, kid)) is None:
            return 0.0
        return left_s if hmac.compare_digest(signature.encode(), expected.encode()) else 0.0

    def _signature(self, end: str, kid: str) -> str | None:
        key = self._ring().get(kid.encode("utf-8", "replace"))
        if key is None:
            return None
        return key.signer_for(_SALT).get_signature(end.encode() + b"\n" + _digest(self._password())).decode()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
