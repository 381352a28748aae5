"""The figures as tables, against their budgets, as text or as Markdown."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from . import contenders, scale
from . import stored as in_redis
from .cluster import LogOutTimes
from .rounds import Timing
from .served import RAW, Rates
from .storms import StormTimes

MEGABYTE = 1e6


@dataclass(frozen=True)
class Budget:
    """A bound that a figure should keep.

    Attributes:
        bound: its value.
        of: the base of the comparison.
        at_least: whether it is a lower bound.
        unit: of both.
    """

    bound: float
    of: str
    at_least: bool = False
    unit: str = ""

    def judge(self, figure: float) -> list[str]:
        """The cells of a row: the figure, the budget, and whether it is kept."""
        kept = figure >= self.bound if self.at_least else figure <= self.bound
        sign = "≥" if self.at_least else "≤"
        return [f"{figure:.3f}{self.unit}", f"{sign} {self.bound:.3g}{self.unit}{self.of}", "✓" if kept else "✗"]


WARM = Budget(0.14, " of what Starlette's adds")
NESTED = Budget(0.2, " of what Starlette's adds")
COUNTED = Budget(1.03, " of the one without metrics")
FIRST_SIGHT = Budget(0.25, " of PyJWT's decode")
SERVED = Budget(0.97, " of the bare app's", at_least=True)
FLAT = {scale.BY_ZIPF: Budget(1.15, " of the first row"), scale.ALIKE: Budget(1.3, " of the first row")}
WITH_DENIALS = Budget(1.1, " of the first row")
UNSEEN_WITH_DENIALS = Budget(1.1, " of the same in a dict")
DAY = Budget(64, "", unit=" MB")
DENIAL = Budget(40, " each", unit=" bytes")
CACHED_TOKEN = Budget(725, " each", unit=" bytes")
GROWTH = Budget(400, "", unit=" MB")
PROPAGATION = Budget(50, "", unit=" ms")
ACKNOWLEDGEMENT = Budget(150, "", unit=" ms")
STORM_PROPAGATION = Budget(100, "", unit=" ms")
IN_A_STORM = Budget(2, " times that of quiet")
CHANGED = Budget(1.0, " of starsessions in Redis")
IMPORT = Budget(1.3, " of the second row")
NEW_NODE = Budget(5, "", unit=" s")
IDLE = {3: Budget(0.5, " of a core", unit=" %"), 9: Budget(1.5, " of a core", unit=" %")}
_NO_BUDGET = ["", "", ""]


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = ["  ".join(self._aligned(row, widths)).rstrip() for row in (self.columns, *self.rows)]
        return "\n".join([self.title, "", lines[0], "  ".join("-" * width for width in widths), *lines[1:]])

    def markdown(self) -> str:
        ruler = ["---", *["---:"] * (len(self.columns) - 3), "---", "---"]
        lines = ["| " + " | ".join(row) + " |" for row in (self.columns, ruler, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines])

    def _aligned(self, row: Sequence[str], widths: Sequence[int]) -> list[str]:
        last_number = len(row) - 2
        return [
            cell.rjust(width) if 0 < index < last_number else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]


def in_process(timings: Mapping[str, Timing]) -> Table:
    bare, starlette, pyjwt = (timings[name] for name in (contenders.BARE, contenders.STARLETTE, contenders.PYJWT))
    starlettes_us = starlette.best_us - bare.best_us

    def row(name: str, timing: Timing) -> list[str]:
        added_us = timing.best_us - bare.best_us
        cells = [name, f"{timing.best_us:.2f}", f"{timing.median_us:.2f}"]
        if timing in (bare, pyjwt):
            return [*cells, "", *_NO_BUDGET]
        if name == contenders.FIRST_SIGHT:
            verdict = FIRST_SIGHT.judge(added_us / pyjwt.best_us)
        elif name == contenders.WARM_COUNTED:
            verdict = COUNTED.judge(added_us / (timings[contenders.WARM].best_us - bare.best_us))
        elif name.startswith(contenders.WARM):
            verdict = (NESTED if name == contenders.WARM_NESTED else WARM).judge(added_us / starlettes_us)
        else:
            verdict = [f"{added_us / starlettes_us:.3f}", "", ""]
        return [*cells, f"{added_us:.2f}", *verdict]

    columns = ("in process, µs a request", "best", "median", "added", "ratio", "budget", "")
    return Table("What a session adds to a request", columns, [row(*item) for item in timings.items()])


def imports(ours_ms: Sequence[float], theirs_ms: Sequence[float]) -> Table:
    """The import of the package, and of Starlette with the package's dependencies alone. The best times are compared."""
    columns = ("import, processor time in ms", "best", "median", "ratio", "budget", "")
    rows = [
        ["ha_session_mw", f"{min(ours_ms):.0f}", f"{statistics.median(ours_ms):.0f}", *IMPORT.judge(min(ours_ms) / min(theirs_ms))],
        ["starlette.applications and the dependencies", f"{min(theirs_ms):.0f}", f"{statistics.median(theirs_ms):.0f}", *_NO_BUDGET],
    ]
    return Table("How long the import takes", columns, rows)


def stored(timings: Mapping[str, Timing]) -> Table:
    """Reading against reading in Redis, changing against changing there."""
    bare_us = timings[contenders.BARE].best_us

    def row(name: str, timing: Timing) -> list[str]:
        if name == contenders.BARE:
            return [name, f"{timing.best_us:.2f}", f"{timing.median_us:.2f}", "", *_NO_BUDGET]
        theirs = timings[in_redis.REDIS_CHANGE if name.endswith("changed") or in_redis.CHANGE in name else in_redis.REDIS]
        added_us, ratio = timing.best_us - bare_us, (timing.best_us - bare_us) / (theirs.best_us - bare_us)
        return [name, f"{timing.best_us:.2f}", f"{timing.median_us:.2f}", f"{added_us:.2f}", f"{ratio:.3f}", "", ""]

    columns = ("in process, µs a request", "best", "median", "added", "ratio", "budget", "")
    return Table("A session of 4 kB on the server, the ratio to starsessions in Redis", columns, [row(*item) for item in timings.items()])


def written(timings: Mapping[str, Timing]) -> Table:
    """Writers at the same time. The medians are compared: a write to a disk is as slow as the disk is."""
    theirs_us = timings[in_redis.REDIS_CHANGE].median_us

    def row(name: str, timing: Timing) -> list[str]:
        verdict = CHANGED.judge(timing.median_us / theirs_us) if name.endswith(in_redis.IN_FILE) else _NO_BUDGET
        return [name, f"{timing.best_us:.2f}", f"{timing.median_us:.2f}", *verdict]

    columns = (f"{in_redis.WRITERS} writers in process, µs a change", "best", "median", "ratio", "budget", "")
    return Table("Sessions of 4 kB on the server, changed at the same time", columns, [row(*item) for item in timings.items()])


def growth(timings: Mapping[str, Timing]) -> Table:
    """Each row against the first one with the same draw, a look-up in packed denials against one in a dict.

    The cost of the keys alone has no budget: it is the machine's own. Nor has that of the dict.
    """
    first: dict[str, Timing] = {}
    (in_a_dict,) = (timing for name, timing in timings.items() if scale.IN_A_DICT in name)

    def row(name: str, timing: Timing) -> list[str]:
        draw = name.rpartition(", ")[2]
        ratio = timing.best_us / first.setdefault(draw, timing).best_us
        if timing is first[draw]:
            verdict = _NO_BUDGET
        elif scale.ONE_BEHIND_ALL in name or timing is in_a_dict:
            verdict = [f"{ratio:.3f}", "", ""]
        elif draw == scale.UNSEEN:
            verdict = UNSEEN_WITH_DENIALS.judge(timing.best_us / in_a_dict.best_us)
        else:
            verdict = (WITH_DENIALS if "denials" in name else FLAT[draw]).judge(ratio)
        return [name, f"{timing.best_us:.2f}", f"{timing.median_us:.2f}", *verdict]

    columns = ("ours in process, µs a request", "best", "median", "ratio", "budget", "")
    return Table("Many sessions, many denials", columns, [row(*item) for item in timings.items()])


def memory(denials: int, of_denials: int, tokens: int, of_tokens: int, of_tokens_with_subject: int) -> Table:
    with_subject = [f"{of_tokens_with_subject:,}", f"{of_tokens_with_subject / tokens:.3f} bytes", "", ""]
    rows = [
        [f"{tokens:,} tokens in the cache", f"{of_tokens:,}", *CACHED_TOKEN.judge(of_tokens / tokens)],
        [f"{tokens:,} tokens whose subject the app reads", *with_subject],
        [f"{denials:,} denials", f"{of_denials:,}", *DENIAL.judge(of_denials / denials)],
    ]
    return Table("What is kept of a session, and of a log-out", ("memory", "bytes", "each", "budget", ""), rows)


def grown(sessions: int, taken: int) -> Table:
    cells = [f"{sessions:,} sessions, the cache as by default", f"{taken:,}", *GROWTH.judge(taken / MEGABYTE)]
    return Table("A process that sees many sessions", ("resident memory", "bytes", "grows by", "budget", ""), [cells])


def served(rates: Rates) -> Table:
    def row(server: str, app: str, name: str) -> list[str]:
        rate, bare = rates[server, app, name], rates[server, app, contenders.BARE]
        # Round by round, because the contenders of a round ran in close succession: a slow machine slowed them all.
        ratio = statistics.median(one.per_processor_s / other.per_processor_s for one, other in zip(rate, bare, strict=True))
        per_s = [one.per_s for one in rate]
        verdict = SERVED.judge(ratio) if (app, name) == (RAW, contenders.WARM) else [f"{ratio:.3f}", "", ""]
        return [
            f"{server}{'' if app == RAW else ', an app of FastAPI'}: {name}",
            f"{max(per_s):.0f}",
            f"{statistics.median(per_s):.0f}",
            *(_NO_BUDGET if rate is bare else verdict),
        ]

    columns = ("one process under wrk, requests a second", "best", "median", "ratio", "budget", "")
    return Table("Served", columns, [row(*key) for key in rates])


def log_outs(times: LogOutTimes, cluster: str) -> Table:
    def row(name: str, times_s: Sequence[float], budget: Budget | None) -> list[str]:
        times_ms = sorted(time_s * 1000 for time_s in times_s)
        p99_ms = percentile(times_ms, 99)
        judged = [f"{p99_ms:.3f} ms", "", ""] if budget is None else budget.judge(p99_ms)
        return [name, f"{percentile(times_ms, 50):.1f}", f"{times_ms[-1]:.1f}", *judged]

    rows = [
        row("until another node refuses the session", times.refused_s, PROPAGATION),
        row("until it is acknowledged as fenced", times.acknowledged_s, ACKNOWLEDGEMENT),
        row("a new id, from its request until it is there", times.cycled_s, None),
    ]
    columns = ("from sending a log-out, ms", "p50", "worst", "p99", "budget", "")
    return Table(f"{len(times.acknowledged_s)} log-outs, three nodes on loopback, {cluster}", columns, rows)


def storm(times: StormTimes, cluster: str) -> Table:
    def times_of(quiet_s: Sequence[float]) -> Callable[[float], float]:
        return lambda p99_ms: p99_ms / (percentile(sorted(quiet_s), 99) * 1000)

    in_storm, beside = times_of(times.quiet_s), times_of(times.beside_quiet_s)

    def row(name: str, times_s: Sequence[float], judge: Callable[[float], list[str]]) -> list[str]:
        times_ms = sorted(time_s * 1000 for time_s in times_s)
        p99_ms = percentile(times_ms, 99)
        return [name, f"{percentile(times_ms, 50):.1f}", f"{p99_ms:.1f}", *judge(p99_ms)]

    rows = [
        row("until each other node enforces a log-out", times.propagated_s, STORM_PROPAGATION.judge),
        row("until it is acknowledged as fenced", times.acknowledged_s, lambda _: _NO_BUDGET),
        row("a warm request before the storm", times.quiet_s, lambda _: _NO_BUDGET),
        row("a warm request in the storm", times.storm_s, lambda p99_ms: IN_A_STORM.judge(in_storm(p99_ms))),
        row("an app without sessions beside it, before the storm", times.beside_quiet_s, lambda _: _NO_BUDGET),
        row("an app without sessions beside it, in the storm", times.beside_storm_s, lambda p99_ms: [f"{beside(p99_ms):.3f}", "", ""]),
    ]
    title = (
        f"A storm of {times.per_s} log-outs a second, three nodes on loopback, {cluster}. "
        f"{times.fenced / times.seconds:.0f} acknowledged a second; {times.node_ms:.2f} ms of processor a node and log-out, "
        f"and {times.generator:.2f} processors for the generator"
    )
    return Table(title, ("in ms", "p50", "p99", "", "budget", ""), rows)


def idle(percents: Mapping[int, float]) -> Table:
    """The processor time of a node that nobody uses, by the number of nodes."""
    rows = [[f"a node of {members}", *IDLE[members].judge(percent)] for members, percent in percents.items()]
    return Table("A cluster that nobody uses, peers://, each node with its uvicorn", ("a process", "processor", "budget", ""), rows)


def new_node(denials: int, learned: Mapping[str, tuple[float, int]]) -> Table:
    """The seconds and the bytes that a new node needs on each cluster."""
    rows = [
        [cluster, f"{taken / MEGABYTE:.1f} MB", *DENIAL.judge(taken / denials), *NEW_NODE.judge(ready_s)]
        for cluster, (ready_s, taken) in learned.items()
    ]
    columns = ("a new node", "grows by", "each", "budget", "", "ready after", "budget", "")
    return Table(f"A node that has {denials:,} denials to learn", columns, rows)


def day(log_ins: int, entries: int, taken: int) -> Table:
    """The memory at the end of a day."""
    cells = [f"{log_ins:,} log-ins", f"{entries:,}", f"{taken / entries:.0f}", *DAY.judge(taken / MEGABYTE)]
    columns = ("a day with the default lives", "entries", "bytes each", "grows by", "budget", "")
    return Table("The ids that log-ins leave behind", columns, [cells])


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The least value that so many percent do not exceed."""
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


def environment() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("starlette", "starsessions", "PyJWT", "uvicorn", "granian"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {cores} cores, {platform.system()} {platform.machine()}; {packages}"
