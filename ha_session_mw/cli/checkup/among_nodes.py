"""The checks that ask the nodes: who can be reached, who answers at this node's URL, whose clock differs, whose settings differ."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..._core.quorum.messages import list_digest
from ..asking import KNOWS_NO_KEY, SAME_SETTINGS
from .findings import Finding, Level
from .of_keys import check_keys

if TYPE_CHECKING:
    from ...config import Settings

SKEW_ADVICE_S, SKEW_ERROR_S = 2.0, 30.0
"""Clocks that differ by more than the former are worth a look. Beyond the latter a node neither issues nor validates."""
TIMES_ASKED = 4
"""How often this node's own URL is asked, each time over a connection of its own. A balancer would lead them to several processes."""

NTP = "let NTP set the clocks of all machines"

Ask = Callable[[Sequence[str]], Mapping[str, Any]]
"""Asks each node for its state: URL to answer, or to the exception in its place."""


def check_nodes(settings: Settings, ask: Ask, wall_s: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Return the findings among the nodes that the environment names."""
    own = settings.advertise_url
    urls = list(dict.fromkeys([*settings.peers, *settings.peers_next, *([own] if own else [])]))
    if not urls:
        return
    begun_s = wall_s()
    answers = ask(urls)
    here_s = (begun_s + wall_s()) / 2
    for url, answer in answers.items():
        if isinstance(answer, Exception):
            yield _silent(url, answer, is_own=url == own)
        else:
            yield from _stated(settings, url, answer, here_s, wall_s() - begun_s)
    told = {url: answer for url, answer in answers.items() if not isinstance(answer, Exception)}
    yield from _names({url: answer["node"] for url, answer in told.items() if _here(answer)["url"] == url})
    kids: dict[str, Sequence[str]] = {}
    for answer in told.values():
        kids.update(answer.get("kids_of_members", {}))  # which an earlier build leaves out
    yield from check_keys(settings, kids)
    if own in told:
        yield from _own_url(own, [answers[own], *(ask([own])[own] for _ in range(TIMES_ASKED - 1))])


def _silent(url: str, failure: Exception, *, is_own: bool) -> Finding:
    if is_own and "cannot be reached" in str(failure):
        return Finding("advice", "own URL", f"nothing answers at HA_SESSION_ADVERTISE_URL {url} yet", "ask again once the node runs")
    remedy = "start it, and let this machine reach it"
    if KNOWS_NO_KEY in str(failure):
        remedy = f"give all nodes {SAME_SETTINGS}"
    return Finding("error", "peers", f"{url} {failure}", remedy)


def _stated(settings: Settings, url: str, answer: Mapping[str, Any], here_s: float, took_s: float) -> Iterator[Finding]:
    here = _here(answer)
    if here["url"] and here["url"] != url:
        yield Finding(
            "error",
            "peers",
            f"at {url} answers the node whose HA_SESSION_ADVERTISE_URL is {here['url']}",
            "correct the URL: it must lead to one process, past every load balancer",
        )
    skew_s = answer["wall_ms"] / 1000 - here_s
    if abs(skew_s) - took_s > SKEW_ADVICE_S:
        level: Level = "error" if abs(skew_s) - took_s > SKEW_ERROR_S else "advice"
        side = "ahead of" if skew_s > 0 else "behind"
        yield Finding(level, "clock", f"the clock of {url} is {abs(skew_s):.1f} s {side} this machine's", NTP)
    if here["freshness_limit_s"] != settings.freshness_limit:
        yield Finding(
            "error",
            "settings",
            f"HA_SESSION_FRESHNESS_LIMIT is {settings.freshness_limit:g} s here and {here['freshness_limit_s']:g} s at {url}",
            "set the same value on all nodes",
        )
    lists = answer.get("member_lists")
    if lists is not None and settings.cluster.scheme == "peers" and not {*lists.values()} & {*map(list_digest, _lists(settings))}:
        yield Finding(
            "error",
            "peers",
            f"HA_SESSION_PEERS names other members here than at {url}",
            "give all nodes the same list; to change it, see Grow or shrink the cluster",
        )
    for why in answer.get("mismatches", ()):  # which an earlier build leaves out
        yield Finding("error", "peers", f"{url} cannot work with another member: {why}", "see Troubleshoot a cluster for this reason")
    is_in_memory = settings.cluster.scheme == "peers" and settings.cluster.file is None  # a finding of its own
    if (exposed := answer.get("exposed_because")) and not is_in_memory:
        yield Finding("error", "durability", f"{url}: {exposed}", "see Backup and restore, or Troubleshoot a cluster")
    if answer["not_ready_because"]:
        yield Finding("error", "peers", f"{url} is not ready: {answer['not_ready_because']}", "see Troubleshoot a cluster for this reason")


def _lists(settings: Settings) -> list[Sequence[str]]:
    return [urls for urls in (settings.peers, settings.peers_next) if urls]


def _here(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row of the node that has answered."""
    found: Mapping[str, Any] = next(row for row in answer["members"] if row["here"])
    return found


def _names(names: Mapping[str, str]) -> Iterator[Finding]:
    for name, count in Counter(names.values()).items():
        if count > 1:
            urls = " and ".join(url for url, one in names.items() if one == name)
            yield Finding("error", "peers", f"{urls} are both named {name}", "give each node a HA_SESSION_NODE_ID of its own")


def _own_url(url: str, answers: Sequence[Any]) -> Iterator[Finding]:
    names = {answer["node"] for answer in answers if not isinstance(answer, Exception)}
    if len(names) > 1:
        yield Finding(
            "error",
            "own URL",
            f"{len(names)} processes take turns in answering at HA_SESSION_ADVERTISE_URL {url}",
            "give each process a URL of its own: no load balancer, and one worker for each node of peers://",
        )
