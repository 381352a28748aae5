"""The memory that a day of log-ins leaves behind, at the default lives: in each process of ``peers://``, which holds the most for each id.

Each log-in leaves the id of the visitor behind. Each other session takes a new id once more, and each other one logs out.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys

from ha_session_mw import Settings
from ha_session_mw._core.cluster.view import FLOOR_MARGIN_MS, View
from ha_session_mw._core.quorum.sequence import Sequence
from ha_session_mw.models import Deny

from .contenders import KEY
from .learning import resident_bytes

BEGUN_MS = 1_800_000_000_000
DAY_S = 86_400


def measured(log_ins: int) -> tuple[int, int]:
    """Return how many entries a node holds at the end of such a day, and by how many bytes it has grown."""
    done = subprocess.run([sys.executable, "-m", __name__, str(log_ins)], check=True, capture_output=True)
    entries, taken = json.loads(done.stdout)
    return entries, taken


def _live(log_ins: int) -> tuple[int, int]:
    life_ms = int(Settings(secret_key=KEY).absolute_timeout * 1000)
    view = View()
    sequence = Sequence(view)
    before, done = resident_bytes(), 0
    for second in range(DAY_S):
        now_ms = BEGUN_MS + 1000 * second
        while done < log_ins * (second + 1) // DAY_S:
            done += 1
            left_behind = [Deny(secrets.token_urlsafe(16), now_ms + life_ms, now_ms)]
            left_behind.append(Deny(secrets.token_urlsafe(16), now_ms + life_ms, now_ms if done % 2 else 0))
            for entry in left_behind:
                view.merge(entry)
                sequence.append(entry)
        view.raise_floor((now_ms - FLOOR_MARGIN_MS) // 60_000 * 60_000)
        sequence.forget_some()
        view.drop_ended()
    return len(view), resident_bytes() - before


if __name__ == "__main__":
    print(json.dumps(_live(int(sys.argv[1]))))
