"""Measure everything in one run, and print it against the budgets. The figures decide nothing: the exit code stays 0."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from ..engines import etcd
from . import cluster, contenders, imports, learning, report, scale, served, stored
from .report import Table
from .rounds import race


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured."""

    requests: int = 2_000
    rounds: int = 15
    sessions: tuple[int, ...] = (scale.FEW, 10_000, 100_000)
    denials: int = 100_000
    served_rounds: int = 9
    served_seconds: int = 1
    log_outs: int = 500


FULL = Effort(rounds=25, sessions=(scale.FEW, 10_000, 100_000, 1_000_000), served_rounds=15, served_seconds=2, log_outs=2_000)


async def field(effort: Effort) -> Table:
    return report.in_process(await race(await contenders.field(), requests=effort.requests, rounds=effort.rounds))


async def on_the_server(effort: Effort) -> Table:
    # A change waits for the disk each time, so there are fewer.
    return report.stored(await stored.measured(requests=max(3, effort.requests // 20), rounds=effort.rounds))


async def many(effort: Effort) -> Table:
    found = await scale.contenders(effort.sessions, effort.denials)
    return report.scale(await race(found, requests=effort.requests, rounds=effort.rounds))


async def memory(effort: Effort) -> Table:
    return report.memory(effort.denials, await scale.bytes_of_denials(effort.denials), budget_for=Effort.denials)


def tables(effort: Effort) -> Iterator[Table]:
    """All that is measured inside this process."""
    for measure in (field, many, memory):
        yield asyncio.run(measure(effort))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="tables for the documentation")
    parser.add_argument("--full", action="store_true", help="up to 1,000,000 live sessions, and longer; takes some minutes")
    options = parser.parse_args()
    effort = FULL if options.full else Effort()

    def show(table: Table) -> None:
        print((table.markdown() if options.markdown else table.text()) + "\n", flush=True)

    print(report.environment() + "\n", flush=True)
    for table in tables(effort):
        show(table)
    show(report.imports(*imports.times_ms(effort.rounds)))
    try:
        show(asyncio.run(on_the_server(effort)))
    except stored.RedisMissingError as missing:
        print(missing, file=sys.stderr)
    try:
        show(report.served(served.requests_per_second(rounds=effort.served_rounds, seconds=effort.served_seconds)))
    except served.WrkMissingError as missing:
        print(missing, file=sys.stderr)
    show(report.log_outs(cluster.log_out_times(effort.log_outs), cluster.PEERS))
    if shutil.which("etcd") is None:
        print("etcd is missing: apt-get install -y --no-install-recommends etcd-server", file=sys.stderr)
        return
    with etcd(cluster.MEMBERS) as server:
        show(report.log_outs(cluster.log_out_times(effort.log_outs, server.cluster("log-outs")), "etcd:// on three members"))
        show(report.new_node(effort.denials, *learning.new_node(server.cluster("denials"), effort.denials)))


if __name__ == "__main__":
    main()
