"""``python -m tests.simulation --seeds N``: many random schedules and all directed ones. Fails if a rule was seen broken."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from . import (
    list_chaos,
    list_schedules,
    list_variants,
    ordered_chaos,
    ordered_schedules,
    ordered_variants,
    quorum_chaos,
    quorum_schedules,
    quorum_variants,
    version_chaos,
)
from .variants import Variant
from .world import Findings

AT_ONCE = 20


@dataclass(frozen=True)
class Kind:
    """One kind of log, and all that is known to try on it."""

    run: Callable[..., Findings]
    right: Variant
    broken: Mapping[str, Variant]
    told_of: Callable[[Any], Any]
    """The argument of a directed schedule for one set of rules."""
    every_schedule: Sequence[Callable[[Any], Findings]]
    caught_by: Mapping[str, Callable[[Any], Findings]]


KINDS = {
    "peers": Kind(
        quorum_chaos.run,
        quorum_variants.RIGHT,
        quorum_variants.BROKEN,
        quorum_schedules.simulated,
        quorum_schedules.EVERY_SCHEDULE,
        quorum_schedules.CAUGHT_BY,
    ),
    "lists": Kind(
        list_chaos.run,
        quorum_variants.RIGHT,
        list_variants.BROKEN_LISTS,
        lambda variant: variant,
        tuple(list_schedules.CAUGHT_BY.values()),
        list_schedules.CAUGHT_BY,
    ),
    "versions": Kind(
        version_chaos.run,
        quorum_variants.RIGHT,
        version_chaos.BROKEN_VERSIONS,
        quorum_schedules.simulated,
        (),
        {},
    ),
    "ordered": Kind(
        ordered_chaos.run,
        ordered_variants.RIGHT,
        ordered_variants.BROKEN,
        lambda variant: variant,
        ordered_schedules.EVERY_SCHEDULE,
        ordered_schedules.CAUGHT_BY,
    ),
}


def some(seeds: range, kind: str, variant: str) -> tuple[Findings, list[int]]:
    """The total findings of these seeds, and the seeds that saw a rule broken."""
    total, bad = Findings(), []
    for seed in seeds:
        found = KINDS[kind].run(seed, variant=KINDS[kind].broken.get(variant, KINDS[kind].right))
        total.add(found)
        if found.faults:
            bad.append(seed)
    return total, bad


def random_schedules(first: int, count: int, kind: str, variant: str, processes: int) -> tuple[Findings, list[int]]:
    total, bad = Findings(), []
    parts = [range(start, min(start + AT_ONCE, first + count)) for start in range(first, first + count, AT_ONCE)]
    with ProcessPoolExecutor(processes) as pool:
        for done, (found, seeds) in enumerate(pool.map(some, parts, [kind] * len(parts), [variant] * len(parts)), 1):
            total.add(found)
            bad += seeds
            if done % 50 == 0:
                print(f"{kind}: {done * AT_ONCE} seeds, broken in {bad or 'none'}", flush=True)
    return total, bad


def directed_schedules(kind: str) -> int:
    """Return the number of directed schedules without their expected result."""
    known, wrong = KINDS[kind], 0
    for schedule in known.every_schedule:
        found = schedule(known.told_of(known.right))
        wrong += found.faults > 0
        print(f"{kind}: {schedule.__name__}: as the rules are, {summary(found)}")
    for name, schedule in known.caught_by.items():
        found = schedule(known.told_of(known.broken[name]))
        wrong += found.faults == 0
        print(f"{kind}: {schedule.__name__}: {name}, {summary(found)}")
    return wrong


def summary(found: Findings) -> str:
    return (
        f"{found.accepted} acceptances, {found.accepted_revoked} of what somebody had revoked, {found.accepted_after_fence} of them "
        f"after a fenced acknowledgement; {found.refused_without_cause} of {found.refused} refusals without a cause; "
        f"{found.flipped} flips; {found.turned_back} of {found.superseded} replacements told after a log-out; "
        f"{found.never_healed} never healed; {found.fenced} of {found.revocations} revocations fenced"
    )


def prove(kind: str, given: argparse.Namespace) -> bool:
    """Whether one kind of log came through."""
    wrong = directed_schedules(kind) if not given.variant else 0
    began = time.monotonic()
    found, bad = random_schedules(given.first, given.seeds, kind, given.variant, given.processes)
    print(f"{kind}: {given.seeds} seeds in {time.monotonic() - began:.0f} s: {summary(found)}")
    if bad:
        print(f"{kind}: broken in seeds {bad}")
    return not wrong and not bad


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--log", choices=KINDS, default="", help="one kind of log; by default all of them, or peers with a variant")
    parser.add_argument("--variant", default="", help="a broken one of that log, to see what catches it")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    kinds = [given.log] if given.log else ["peers"] if given.variant else [*KINDS]
    if given.variant and given.variant not in KINDS[kinds[0]].broken:
        parser.error(f"--variant: of --log {kinds[0]}, one of {', '.join(KINDS[kinds[0]].broken)}")
    came_through = [prove(kind, given) for kind in kinds]  # all of them, whatever the first one shows
    return 0 if all(came_through) else 1


if __name__ == "__main__":
    sys.exit(main())
