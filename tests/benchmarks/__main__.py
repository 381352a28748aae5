"""Measure everything in one run, and print it against the budgets.

The figures decide nothing. The exit code tells whether everything was measured. A part
that fails, or lacks a program, lets the others go on.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..engines import Etcd, etcd
from . import cluster, contenders, day, idle, imports, learning, picture, report, scale, served, stored, storms
from .contenders import MissingError
from .report import Table
from .rounds import Timing, race

PART_LIMIT_S = 600
"""How long a part may take. Each takes less than half of that on two cores that do nothing else."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured."""

    requests: int = 500
    rounds: int = 60
    server_rounds: int = 15
    sessions: tuple[int, ...] = (scale.FEW, 10_000, 100_000)
    grown: int = 1_000_000
    denials: int = 1_000_000
    log_ins: int = 1_000_000
    tokens: int = 20_000
    served_starts: int = 5
    served_rounds: int = 2
    served_seconds: int = 1
    log_outs: int = 300
    storm_per_s: int = 1000
    storm_seconds: float = 4.0
    idle_seconds: float = 20.0


FULL = Effort(rounds=200, server_rounds=25, sessions=(scale.FEW, 10_000, 100_000, 1_000_000), served_starts=15, log_outs=2_000)
Timings = dict[str, Timing]
ETCD = "etcd:// on three members"
SHOWN = frozenset(("requests", "growth"))
"""The parts in the picture."""


class Measurement:
    """The parts of one run. Each yields its tables. One that lacks a program yields those that need none, and raises MissingError.

    Attributes:
        shown: the timings that the picture shows, as far as they were taken.
    """

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        self.shown: Timings = {}

    def parts(self) -> dict[str, Callable[[], Iterator[Table]]]:
        """The parts by their names, in their order."""
        return {
            "requests": self.requests,
            "growth": self.growth,
            "memory": self.memory,
            "import": self.imports,
            "stored": self.stored,
            "served": self.served,
            "idle": self.idle,
            "log-outs": self.log_outs,
            "storm": self.storm,
            "new-node": self.new_node,
        }

    def requests(self) -> Iterator[Table]:
        timings = asyncio.run(self._race(contenders.field))
        self.shown |= timings
        yield report.in_process(timings)

    async def _race(self, field: Callable[[], object]) -> Timings:
        return await race(await field(), requests=self.effort.requests, rounds=self.effort.rounds)  # type: ignore[misc]

    def growth(self) -> Iterator[Table]:
        effort = self.effort
        timings = asyncio.run(self._race(lambda: scale.contenders(effort.sessions, effort.denials)))
        self.shown |= timings
        yield report.growth(timings)

    def memory(self) -> Iterator[Table]:
        effort = self.effort
        of_tokens = [asyncio.run(scale.bytes_of_tokens(effort.tokens, reads_subject=reads)) for reads in (False, True)]
        with ThreadPoolExecutor(2) as aside:  # no time is measured
            of_day = aside.submit(day.measured, effort.log_ins)
            of_denials, of_sessions = aside.submit(scale.bytes_of_denials, effort.denials), aside.submit(scale.growth, effort.grown)
            yield report.memory(effort.denials, of_denials.result(), effort.tokens, *of_tokens)
            yield report.grown(effort.grown, of_sessions.result())
            yield report.day(effort.log_ins, *of_day.result())

    def imports(self) -> Iterator[Table]:
        yield report.imports(*imports.times_ms(self.effort.server_rounds))

    def stored(self) -> Iterator[Table]:
        # A change waits for the disk each time, so there are fewer.
        requests = max(3, self.effort.requests // 5)
        yield report.stored(asyncio.run(stored.measured(requests=requests, rounds=self.effort.server_rounds)))
        together = stored.measured_together(requests=stored.WRITERS * requests // 5, rounds=self.effort.server_rounds)
        yield report.written(asyncio.run(together))

    def served(self) -> Iterator[Table]:
        effort, servers = self.effort, served.installed()
        shape = {"starts": effort.served_starts, "rounds": effort.served_rounds, "seconds": effort.served_seconds}
        yield report.served(served.requests_per_second(servers, **shape))
        for server in served.SERVERS.keys() - servers:
            raise MissingError(f"{server} is not installed. Install it:  pip install {' '.join(served.SERVERS[server])}")

    def idle(self) -> Iterator[Table]:
        yield report.idle({members: idle.percent_of_a_core(members, self.effort.idle_seconds) for members in report.IDLE})

    def log_outs(self) -> Iterator[Table]:
        count = self.effort.log_outs
        yield report.log_outs(cluster.log_out_times(count), cluster.PEERS)
        with _etcd() as server:
            yield report.log_outs(cluster.log_out_times(count, server.cluster("log-outs")), ETCD)

    def storm(self) -> Iterator[Table]:
        per_s, seconds = self.effort.storm_per_s, self.effort.storm_seconds
        yield report.storm(storms.storm(cluster.PEERS, per_s, seconds), cluster.PEERS)
        with _etcd() as server:
            yield report.storm(storms.storm(server.cluster("storm"), per_s, seconds), ETCD)

    def new_node(self) -> Iterator[Table]:
        denials = self.effort.denials
        yield report.new_node(denials, {"sqlite://": learning.new_worker(denials)})
        yield report.new_node(denials, {cluster.PEERS: learning.new_member(denials)})
        with _etcd() as server:
            yield report.new_node(denials, {"etcd://": learning.new_node(server.cluster("denials"), denials)})


def _etcd() -> AbstractContextManager[Etcd]:
    if shutil.which("etcd") is None:
        raise MissingError("etcd is not installed. Install it:  apt-get install -y --no-install-recommends etcd-server")
    return etcd(cluster.MEMBERS)


def main() -> None:
    names = [*Measurement(Effort()).parts()]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*names, []], metavar="part", help=f"only these of: {', '.join(names)}")
    parser.add_argument("--markdown", action="store_true", help="tables for docs/reference/benchmarks.md")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw the parts requests and growth, as SVG")
    parser.add_argument("--full", action="store_true", help="up to 1,000,000 live sessions, and longer; takes some minutes more")
    options = parser.parse_args()
    if options.picture and options.parts and not {*options.parts} >= SHOWN:
        parser.error("--picture shows the parts requests and growth")
    measurement = Measurement(FULL if options.full else Effort())
    print(report.environment() + "\n", flush=True)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the servers under way are ended
    parts = {name: part for name, part in measurement.parts().items() if name in (options.parts or names)}
    failed = [name for name, part in parts.items() if not print_part(name, part, Table.markdown if options.markdown else Table.text)]
    if options.picture and not SHOWN & {*failed}:
        options.picture.write_text(picture.drawn(measurement.shown))
    if failed:
        sys.exit(f"not measured, or not all of it: {', '.join(failed)}")


def print_part(name: str, part: Callable[[], Iterator[Table]], form: Callable[[Table], str]) -> bool:
    """Print the tables of a part, and how long it took; return whether those are all."""
    begun_s = time.monotonic()
    try:
        with limited(PART_LIMIT_S):
            for table in part():
                print(form(table) + "\n", flush=True)
    except MissingError as missing:
        print(f"{missing}\n", file=sys.stderr)
        return False
    except Exception:  # noqa: BLE001 - printed, and told by the exit code
        traceback.print_exc()
        return False
    finally:
        print(f"{name}: {time.monotonic() - begun_s:.0f} s\n", file=sys.stderr, flush=True)
    return True


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block once it takes longer."""

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError(f"it took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    main()
