"""Keep the key ring up to date with the files from which it was read, so that keys rotate without a restart."""

from __future__ import annotations

import logging
from pathlib import Path

from .._core.token.keys import KeyRing
from ..config import Settings
from ..exceptions import ConfigurationError

logger = logging.getLogger("ha_session_mw.keys")

LOOK_EVERY_S = 1.0
"""Interval between looks at the key files. Two ``stat`` calls a second cost nothing, and no operator rotates keys faster."""


class KeySource:
    """The node's key ring, read again when one of its files changes. An unusable file leaves the ring as it is.

    Args:
        settings: name the files, and read the keys.
        now_s: the boot-time clock.

    Attributes:
        ring: the present key ring.
        signing_since_s: since when this process has known the key that is the newest now (boot-time clock).
    """

    def __init__(self, settings: Settings, now_s: float) -> None:
        self._settings = settings
        self._files = [Path(file) for file in (settings.secret_key_file, settings.secret_key_fallbacks_file) if file is not None]
        self._seen = self._stamp()
        self._look_at_s = now_s + LOOK_EVERY_S
        self.signing_since_s = now_s
        self.ring = KeyRing(*settings.read_keys(), audience=settings.audience)

    def _stamp(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(file) for file in self._files]

    def refresh(self, now_s: float) -> bool:
        """Look at the files if it is time to; return whether the keys have changed."""
        if not self._files or now_s < self._look_at_s:
            return False
        self._look_at_s = now_s + LOOK_EVERY_S
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        try:
            ring = KeyRing(*self._settings.read_keys(), audience=self._settings.audience)
        except ConfigurationError as exc:
            # A half-written file must not log all users out. The next look reads it again, because its stamp still differs.
            logger.error("the keys stay as they are, because the changed key files cannot be used: %s", "; ".join(exc.faults))
            return False
        self._seen = stamp
        changed = ring.kids != self.ring.kids
        if changed:
            if next(iter(ring.kids)) != next(iter(self.ring.kids)):
                self.signing_since_s = now_s
            logger.info("keys re-read: %s", ring)
            self.ring = ring
        return changed

    def signing_age_s(self, now_s: float, wall_s: float) -> float:
        """Return how long the newest key has been in use, at least: since this process, or its file if it is older, has it.

        Args:
            now_s: the boot-time clock.
            wall_s: the wall clock.
        """
        file = self._settings.secret_key_file
        stamp = self._seen[0] if file is not None and self._seen else None
        written_ago_s = 0.0 if stamp is None else wall_s - stamp[0] / 1e9
        return max(0.0, now_s - self.signing_since_s, written_ago_s)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    # The inode is compared, too: a secret that Kubernetes swaps by renaming a link may keep its time and size.
    return found.st_mtime_ns, found.st_size, found.st_ino
