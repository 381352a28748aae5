"""``python -m tests.simulation --seeds N``: many random schedules and all directed ones. Fails if a rule was seen broken."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from . import chaos
from .schedules import CAUGHT_BY, EVERY_SCHEDULE, simulated
from .variants import BROKEN, RIGHT
from .world import Findings

AT_ONCE = 20


def some(seeds: range, variant: str) -> tuple[Findings, list[int]]:
    """What these seeds brought to light together, and those of them that saw a rule broken."""
    total, bad = Findings(), []
    for seed in seeds:
        found = chaos.run(seed, variant=BROKEN.get(variant, RIGHT))
        total.add(found)
        if found.faults:
            bad.append(seed)
    return total, bad


def random_schedules(first: int, count: int, variant: str, processes: int) -> tuple[Findings, list[int]]:
    total, bad = Findings(), []
    parts = [range(start, min(start + AT_ONCE, first + count)) for start in range(first, first + count, AT_ONCE)]
    with ProcessPoolExecutor(processes) as pool:
        for done, (found, seeds) in enumerate(pool.map(some, parts, [variant] * len(parts)), 1):
            total.add(found)
            bad += seeds
            if done % 50 == 0:
                print(f"{done * AT_ONCE} seeds, broken in {bad or 'none'}", flush=True)
    return total, bad


def directed_schedules() -> int:
    """How many of the directed schedules did not show what they are to show."""
    wrong = 0
    for schedule in EVERY_SCHEDULE:
        found = schedule(simulated(RIGHT))
        wrong += found.faults > 0
        print(f"{schedule.__name__}: as the rules are, {summary(found)}")
    for name, schedule in CAUGHT_BY.items():
        found = schedule(simulated(BROKEN[name]))
        wrong += found.faults == 0
        print(f"{schedule.__name__}: {name}, {summary(found)}")
    return wrong


def summary(found: Findings) -> str:
    return (
        f"{found.accepted} acceptances, {found.accepted_revoked} of what somebody had revoked, {found.accepted_after_fence} of them "
        f"after a fenced acknowledgement; {found.refused_without_cause} of {found.refused} refusals without a cause; "
        f"{found.flipped} flips; {found.never_healed} never healed; {found.fenced} of {found.revocations} revocations fenced"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--variant", choices=BROKEN, default="", help="a broken one, to see what catches it")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    wrong = directed_schedules() if not given.variant else 0
    began = time.monotonic()
    found, bad = random_schedules(given.first, given.seeds, given.variant, given.processes)
    print(f"{given.seeds} seeds in {time.monotonic() - began:.0f} s: {summary(found)}")
    if bad:
        print(f"broken in seeds {bad}")
    return 1 if wrong or bad else 0


if __name__ == "__main__":
    sys.exit(main())
