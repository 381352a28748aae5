"""How long it takes to import the package, against what Starlette and the package's own dependencies take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = "import ha_session_mw"
THEIRS = "import starlette.applications, anyio.lowlevel, cachetools, itsdangerous, msgspec"
_TIMED = "import time; began = time.process_time(); {}; print(time.process_time() - began)"


def times_ms(rounds: int) -> tuple[list[float], list[float]]:
    """Return the processor time of the imports: of this package, and of the others alone, each in a process of its own.

    The two take turns, so that a change of the machine's speed hits both. The package is compiled before the first round.
    """
    _once_ms(OURS)
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(_once_ms(OURS))
        theirs.append(_once_ms(THEIRS))
    return ours, theirs


def _once_ms(statement: str) -> float:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _TIMED.format(statement)]
    return float(subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=60).stdout) * 1000
