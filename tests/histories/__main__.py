"""``python -m tests.histories``: the long histories, on real processes. Fails if an answer was wrong.

Prints for each trouble how long log-outs took, until they were acknowledged as fenced, and until the session was accepted nowhere.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import anyio

from .checker import faults
from .places import PLACES, Place, libfaketime
from .troubles import LONG, Trouble, history_of, summary


def told(place: Place, name: str, trouble: Trouble, seed: int) -> bool:
    """Run one history, print its result, and return whether every answer was right."""
    began = time.monotonic()
    history = anyio.run(history_of, place, trouble, seed)
    found = faults(history)
    print(f"{place.kind}: {name} ({time.monotonic() - began:.0f} s)\n  {summary(history)}", flush=True)
    for fault in found:
        print(f"  WRONG: {fault}", flush=True)
    return not found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.histories")
    parser.add_argument("--place", choices=PLACES, help="by default each")
    parser.add_argument("--trouble", default="", help="only those whose name has this in it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--freshness-limit", type=float, default=5.0, help="seconds; by default the default")
    given = parser.parse_args()
    if shutil.which("etcd") is None or libfaketime() is None:
        print("The histories need etcd and libfaketime:\n  apt-get install -y --no-install-recommends etcd-server etcd-client faketime")
        return 2
    right = True
    for kind in [given.place] if given.place else PLACES:
        with tempfile.TemporaryDirectory() as folder, PLACES[kind](Path(folder), given.freshness_limit) as place:
            for name, trouble in LONG[kind].items():
                if given.trouble in name:
                    right &= told(place, name, trouble, given.seed)
    print("every answer was right" if right else "there were wrong answers")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
