"""The command that shows the members, and leads through a change of their list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from .asking import KNOWS_NO_KEY, SAME_SETTINGS, ask_each, node_option, settings_of_environment, urls_of
from .tables import known_age, output, print_json, print_table, seconds

if TYPE_CHECKING:
    from ..config import Settings

BOTH = "HA_SESSION_PEERS and HA_SESSION_PEERS_NEXT"


@click.command()
@node_option
@output
def members(nodes: tuple[str, ...], output: str) -> None:
    """Show each member of the list, and how to go on changing it.

    The list is HA_SESSION_PEERS, and during a change HA_SESSION_PEERS_NEXT, too. Exits with 0 if all of them answer and one list
    stands, with 1 otherwise.

    Example: ha-session members
    """
    from .._node.admin_messages import STATUS, Nothing

    settings = settings_of_environment()
    answers = ask_each(settings, urls_of(settings, nodes), STATUS, Nothing())
    rows = [_row(url, answer) for url, answer in answers.items()]
    steps = list(next_steps(settings, rows)) if settings.cluster.scheme == "peers" else []
    if output == "json":
        print_json({"members": rows, "steps": steps})
    else:
        head = ("URL", "MEMBER", "STATE", "FRESH", "PHASE", "LIST", "NEXT LIST")
        shown = ("url", "member", "state", "age", "phase", "current", "next")
        print_table(head, [[{**row, "age": seconds(row["freshness_age_s"])}[name] for name in shown] for row in rows])
        for row in rows:
            if row["failure"]:
                click.echo(f"{row['url']}: {row['failure']}")
        for step in steps:
            click.echo(f"→ {step}")
    raise SystemExit(1 if steps or any(row["state"] != "ready" for row in rows) else 0)


def _row(url: str, answer: Any) -> dict[str, Any]:
    if isinstance(answer, Exception):
        blank = dict.fromkeys(("freshness_age_s", "phase", "current", "next"))
        return {"url": url, "member": None, "state": "silent", **blank, "failure": str(answer)}
    lists = answer["member_lists"] or {}
    return {
        "url": url,
        "member": answer["node"],
        "state": "ready" if answer["ready"] else "not ready",
        "freshness_age_s": known_age(answer),
        **{name: lists.get(name) for name in ("phase", "current", "next")},
        "failure": answer["not_ready_because"],
    }


def next_steps(settings: Settings, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Return what an operator does next, by the phases that the nodes are in; nothing if one list stands."""
    at: dict[str, list[str]] = {}
    for row in rows:
        unknown = "refusing" if KNOWS_NO_KEY in (row["failure"] or "") else "silent"
        at.setdefault(row["phase"] or unknown, []).append(row["url"])
    if "refusing" in at:
        yield f"give {_all(at['refusing'])} and this machine {SAME_SETTINGS}"
    if "silent" in at:
        yield f"start {_all(at['silent'])}, or let this machine reach it: a change of the list needs all members of the next one"
    if "waiting" in at or ("joint" in at and ("steady" in at or "waiting" in at)):
        others = _all([*at.get("steady", ()), *at.get("waiting", ())])
        yield f"give {BOTH} to {others}, restart one after another, and wait for readyz each time"
    elif "joint" in at and not at.keys() & {"silent", "refusing"}:
        yield "all nodes that answer have both lists: the next one takes over by itself, within a second or so. Ask again"
    if "sealed" in at:
        yield "the old list is being given up: ask again. If it lasts, start the nodes that are down"
    if "moved" in at:
        coming = settings.peers_next or settings.peers
        staying = [url for url in at["moved"] if url in coming]
        if leaving := [url for url in at["moved"] if url not in coming]:
            yield f"take {_all(leaving)} out of the load balancer, and stop it"
        if staying:
            yield f"set HA_SESSION_PEERS to the next list and unset HA_SESSION_PEERS_NEXT at {_all(staying)}, restart one after another"
    if "retired" in at:
        yield f"give the list of the others to {_all(at['retired'])}, and restart it"
    lists = {row["current"] for row in rows if row["phase"] == "steady"}
    if len(lists) > 1:
        yield "nodes have different lists, and each stands: stop the nodes of all lists but one, and see Grow or shrink the cluster"


def _all(urls: Sequence[str]) -> str:
    return ", ".join(urls)
