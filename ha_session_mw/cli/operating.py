"""The commands that ask running nodes: their state, the sessions of a subject, log-outs, drain."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from .asking import ASK_LIMIT_S, ask_each, ask_first, node_option, settings_of_environment, urls_of
from .ids import IdCommand, require_session_id
from .tables import POSITIVE, known_age, number, output, print_json, print_table, seconds

if TYPE_CHECKING:
    from ..config import Settings

DRAIN_LIMIT_S = 10.0
"""Time limit of a drain, besides the delay of the node."""
LOG_OUT_LIMIT_S = 30.0
"""Time limit of a log-out. Without a quorum it takes some ten seconds."""


@click.command()
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option("--every", type=POSITIVE, default=2.0, show_default=True, metavar="SECONDS", help="The pause with --watch.")
@node_option
@output
def status(watch: bool, every: float, nodes: tuple[str, ...], output: str) -> None:  # noqa: FBT001 - click's way to hand a flag over
    """Show the members, their freshness, and their errors.

    One node names the members, and each member that has a URL is asked. Exits with 1 if a member is not ready, or does not answer.

    Example: ha-session status --node http://10.0.0.1:8000
    """
    settings = settings_of_environment()
    urls = urls_of(settings, nodes)
    while watch:
        click.clear()
        try:
            _show(_survey(settings, urls), output)
        except click.ClickException as exc:
            exc.show()
        try:
            time.sleep(every)
        except KeyboardInterrupt:
            return
    found = _survey(settings, urls)
    _show(found, output)
    raise SystemExit(0 if all(row["state"] == "ready" and row["answers"] for row in found["members"] if row["state"] != "gone") else 1)


def _survey(settings: Settings, urls: Sequence[str]) -> dict[str, Any]:
    """Ask one node for the members, then each of those that have a URL."""
    from .._node.admin_messages import STATUS, Nothing

    asked, first = ask_first(settings, urls, STATUS, Nothing(), limit_s=ASK_LIMIT_S)
    members = first.pop("members")
    others = {row["url"] for row in members if row["url"] and not row["here"] and row["state"] != "gone"}
    answers = ask_each(settings, sorted(others), STATUS, Nothing()) if others else {}
    rows = [row_of(row, first if row["here"] else answers.get(row["url"])) for row in members]
    return {"asked": asked, "members": with_unheard(rows, settings.peers)}


def with_unheard(rows: Sequence[dict[str, Any]], listed: Sequence[str]) -> list[dict[str, Any]]:
    """Mark the members of the list that the asked node does not hear, and add those of which it remembers nothing."""
    heard = {row["url"] for row in rows if row["state"] != "gone"}
    marked = [{**row, "state": "not heard"} if row["url"] in listed and row["url"] not in heard else row for row in rows]
    named = {row["url"] for row in rows}
    return [*marked, *(_unheard(url) for url in listed if url not in named)]


def _unheard(url: str) -> dict[str, Any]:
    unknown = dict.fromkeys(("heard_ago_s", "ahead_s", "freshness_limit_s", "release", "weight", "failure", "status"))
    return {"member": None, "url": url, "state": "not heard", "here": False, "kids": [], "answers": False, **unknown}


def row_of(member: Mapping[str, Any], answer: Any) -> dict[str, Any]:
    """Return a member as the asked node sees it, with its own answer if it has one. A member without a URL cannot be asked."""
    if isinstance(answer, dict) and answer["node"] != member["member"]:
        answer = None  # of the process that was started in its place, or of another one behind the same URL
    known: dict[str, Any] = {"answers": not isinstance(answer, Exception), "failure": None, "status": None}
    if isinstance(answer, Exception):
        known["failure"] = str(answer)
    elif answer is not None:
        ready = {True: "ready", False: "draining" if member["state"] == "draining" else "not ready"}
        known["status"] = {name: value for name, value in answer.items() if name != "members"}
        known["state"] = ready[answer["ready"]]
    return {**member, **known}


def _show(found: Mapping[str, Any], output: str) -> None:
    if output == "json":
        print_json(found)
        return
    rows = []
    for row in found["members"]:
        told = row["status"] or {}
        fresh = f"{seconds(known_age(told)) or '-'} of {seconds(row['freshness_limit_s'])}" if told else None
        rows.append(
            (
                row["member"],
                row["state"],
                fresh,
                _lag(told.get("sync_lag")),
                seconds(row["heard_ago_s"]),
                seconds(row["ahead_s"]),
                told.get("revocation_entries"),
                told.get("provisional_log_outs"),
                sum(told["refused"].values()) if told else None,
                number(sum(_rate(told, code) for code in told["refused"])) if told else None,
                row["release"],
                row["url"],
            )
        )
    head = ("MEMBER", "STATE", "FRESH", "LAG", "HEARD", "CLOCK", "LOG-OUTS", "PROVISIONAL", "REFUSALS", "A MINUTE", "RELEASE", "URL")
    print_table(head, rows)
    of: dict[str, list[str]] = {}
    for row in found["members"]:
        for remark in _remarks(row):
            of.setdefault(remark, []).append(row["member"] or row["url"])
    for remark, names in of.items():
        click.echo(f"{', '.join(names)}: {remark}")


def _lag(lag: Mapping[str, float | None] | None) -> str | None:
    """The bound of 99 % of what the node has measured. A bound beyond the largest that it counts by is null in JSON."""
    if lag is None or not lag["count"]:
        return None
    bound_s = lag["p99_s"]
    return f"≤ {seconds(bound_s)}" if bound_s is not None and math.isfinite(bound_s) else "> 1 min"


def _rate(told: Mapping[str, Any], code: str) -> float:
    """How many refusals with a code there were within the last minute."""
    rate: float = told.get("errors", {}).get(code, {"per_minute": {"1m": 0.0}})["per_minute"]["1m"]
    return rate


def _remarks(row: Mapping[str, Any]) -> list[str]:
    told = row["status"] or {}
    found = [f"does not answer: it {row['failure']}"] if row["failure"] else []
    found += [f"not ready: {told['not_ready_because']}"] if told.get("not_ready_because") else []
    found += [f"not one cluster: {why}" for why in told.get("mismatches", ()) if why not in (told.get("not_ready_because") or "")]
    found += [f"exposed: {told['exposed_because']}"] if told.get("exposed_because") else []
    found += [f"task {name} was restarted {count} times" for name, count in told.get("restarted_tasks", {}).items()]
    refused = ", ".join(
        f"{code} {count} ({number(_rate(told, code))} a minute)" for code, count in sorted(told.get("refused", {}).items()) if count
    )
    return [*found, f"refused: {refused}"] if refused else found


@click.command()
@click.argument("subject")
@node_option
@output
def sessions(subject: str, nodes: tuple[str, ...], output: str) -> None:
    """List the devices on which SUBJECT is logged in.

    The newest log-in is the first. Needs HA_SESSION_TRACK=on on the nodes.

    Example: ha-session sessions ada
    """
    from .._node.admin_messages import SESSIONS, SessionsOf

    settings = settings_of_environment()
    _, found = ask_first(settings, urls_of(settings, nodes), SESSIONS, SessionsOf(subject))
    if output == "json":
        print_json(found)
        return
    times = ("created_at", "last_seen_at", "expires_at")
    rows = [(one["id"], one["label"], *(_minute(one[name]) for name in times), one["address"]) for one in found]
    print_table(("SESSION", "DEVICE", "LOGGED IN", "LAST SEEN", "EXPIRES", "ADDRESS"), rows)


def _minute(time: Any) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


@click.command(cls=IdCommand)
@click.argument("session", required=False)
@click.option("--subject", help="Log out all sessions of a subject.")
@click.option("--everybody", is_flag=True, help="Log out all sessions of all subjects and visitors.")
@node_option
@output
def revoke(session: str | None, subject: str | None, everybody: bool, nodes: tuple[str, ...], output: str) -> None:  # noqa: FBT001
    """Log out SESSION, all sessions of a subject, or everybody.

    SESSION is the id or the family of a session, as `sessions` and `inspect` show it. Prints how far the log-out has spread.
    Exits with 0 if it is fenced: in force on every node. Exits with 1 if it is provisional, in force on one node and completed
    later, or if it failed.

    Example: ha-session revoke --subject ada
    """
    from .._node.admin_messages import REVOKE, Revoke

    if [session is not None, subject is not None, everybody].count(True) != 1:
        raise click.UsageError("name one session, or --subject SUBJECT, or --everybody")
    if session is not None:
        require_session_id(session)
    settings = settings_of_environment()
    request = Revoke(session=session, subject=subject, everybody=everybody)
    url, done = ask_first(settings, urls_of(settings, nodes), REVOKE, request, limit_s=LOG_OUT_LIMIT_S)
    show_acknowledgement(url, done, output)


def show_acknowledgement(url: str, done: Mapping[str, Any], output: str) -> None:
    """Print an acknowledgement, and exit with its code."""
    if output == "json":
        print_json({**done, "node": url})
    elif done["mode"] == "fenced":
        click.echo(f"fenced: in force on every node ({seconds(done['waited_s'])})")
    else:
        click.echo(f"{done['mode']}: in force on {url}, and on the others once it reaches a majority ({seconds(done['waited_s'])})")
    raise SystemExit(0 if done["mode"] == "fenced" else 1)


@click.command()
@click.argument("url")
@click.option("--wait", is_flag=True, help="Return once the server may stop, after HA_SESSION_DRAIN_DELAY.")
@output
def drain(url: str, wait: bool, output: str) -> None:  # noqa: FBT001 - click's way to hand a flag over
    """Take the node at URL out of service, before its server stops.

    The environment must hold the secret of the nodes. Any URL that reaches the process will do. Exits with 1 if it does not answer.

    Example: ha-session drain http://127.0.0.1:8000 --wait
    """
    from .._node.admin_messages import DRAIN, Drain

    settings = settings_of_environment()
    asked, done = ask_first(
        settings, urls_of(settings, [url]), DRAIN, Drain(wait=wait), limit_s=DRAIN_LIMIT_S + settings.drain_delay * wait
    )
    if output == "json":
        print_json({**done, "node": asked})
