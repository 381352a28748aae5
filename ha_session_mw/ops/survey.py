"""The cluster as one node sees it, and as each member that can be asked sees itself: what the page for operators shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import anyio
import httpx2
import msgspec

from .._machine.tls import tls_context
from .._node.admin_call import Operator, Refused
from .._node.admin_messages import STATUS, Nothing
from .._node.members_told import members_of
from .._node.node import Node
from .._node.status import status_of
from ..abc import PeerFailure
from .lost_members import LostMembers
from .propagation import Propagation, ToldLogOut

ASK_LIMIT_S = 0.4
"""How long a member may take to answer. It answers from what it knows, in some milliseconds; one that is frozen costs all of this."""
KEPT_S = 0.5
"""How long a survey is good for other readers: all of them together cause two a second at most."""
MOST_ASKED = 32
"""Members that are asked. A page shows no more, and more answers at once would be a burden."""


class ToldErrors(msgspec.Struct):
    """The refusals of one code, see :meth:`ha_session_mw._node.error_statistics.ErrorStatistics.told`."""

    turn: str
    total: int
    per_minute: dict[str, float]
    last: dict[str, str | None] | None = None


class ToldLag(msgspec.Struct):
    """The sync lag, see :meth:`ha_session_mw._core.tally.Tally.told`."""

    count: int
    p50_s: float | None
    p99_s: float | None


class ToldStatus(msgspec.Struct):
    """The part of a node's state that the page shows. A field that another release lacks has its default; further ones are left out."""

    node: str
    ready: bool
    cluster: str = ""
    not_ready_because: str | None = None
    exposed_because: str | None = None
    freshness_age_s: float | None = None
    sync_lag: ToldLag | None = None
    revocation_entries: int = 0
    provisional_log_outs: int = 0
    revocations_per_minute: int = 0
    accepted: int = 0
    cache_hits: int | None = None
    cache_misses: int | None = None
    cached_tokens: int = 0
    accepts_after_revocation: int = 0
    logouts_by_infrastructure: int = 0
    errors: dict[str, ToldErrors] = {}  # msgspec copies it
    restarted_tasks: dict[str, int] = {}
    recent_log_outs: list[ToldLogOut] | None = None


class Survey:
    """Asks the members, on behalf of a node.

    Args:
        node: the node. Its own state is read, and needs no network.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._http: httpx2.AsyncBaseTransport | None = None
        self._operator: Operator | None = None
        self._propagation = Propagation()
        self._lost = LostMembers()
        node.on_tick(lambda _: self._lost.look(members_of(node), node.clock.boot_s()))  # also while nobody reads the page
        self._lock = anyio.Lock()
        self._newest: dict[str, Any] = {}
        self._newest_s = -math.inf

    async def run(self) -> None:
        """Keep the connections to the members until cancelled."""
        node, settings = self._node, self._node.settings
        if (http := node.peer_transport) is None:
            https = any(url.startswith("https:") for url in (*settings.peers, *settings.peers_next, settings.advertise_url or ""))
            verify = tls_context(settings.peer_ca_file, settings.peer_cert_file, settings.peer_key_file) if https else False
            http = httpx2.AsyncHTTPTransport(verify=verify, trust_env=False)
        self._operator = Operator(settings, http, ring=node.peer_keys, clock=node.clock)
        try:
            await anyio.sleep_forever()
        finally:
            self._operator = None
            with anyio.move_on_after(5, shield=True):
                await http.aclose()

    async def newest(self) -> dict[str, Any]:
        """Return a survey that is at most half a second old. Takes as long as ``ASK_LIMIT_S`` at most, whatever the members do."""
        async with self._lock:
            if self._node.clock.boot_s() - self._newest_s > KEPT_S:
                self._newest = await self._survey()
                self._newest_s = self._node.clock.boot_s()
            return self._newest

    async def _survey(self) -> dict[str, Any]:
        node = self._node
        rows, began_s = members_of(node), node.clock.boot_s()
        own = self._learn(status_of(node), began_s)
        answers = await self._ask({row["url"] for row in rows if not row["here"] and row["state"] != "gone" and row["url"]})
        lost = self._lost.told(rows, node.clock.boot_s())
        heard = {row["url"] for row in (*rows, *lost)}
        unheard = [*lost, *(_unheard(url) for url in dict.fromkeys((*node.settings.peers, *node.settings.peers_next)) if url not in heard)]
        members = [_member(row, own if row["here"] else _answer_for(row, answers)) for row in (*rows, *unheard)]
        return {
            "node": node.node_id,
            "cluster": node.backend.scheme,
            "draining": node.draining.begun,
            "members": members,
            "log_outs": self._propagation.told(node.clock.boot_s()),
            "errors": _errors([told for told in (own, *answers.values()) if isinstance(told, ToldStatus)]),
        }

    async def _ask(self, urls: set[str]) -> dict[str, ToldStatus | str]:
        """Return the answer of each member by its URL, or in a few words why there is none."""
        operator, answers = self._operator, dict[str, ToldStatus | str]()
        if operator is None:
            return dict.fromkeys(urls, "nothing has started this node, so it asks nobody")

        async def ask(url: str) -> None:
            sent_s = self._node.clock.boot_s()
            try:
                answers[url] = self._learn(await operator.ask(url, STATUS, Nothing(), limit_s=ASK_LIMIT_S), sent_s)
            except msgspec.ValidationError:
                answers[url] = "answered something that this release cannot read"
            except (PeerFailure, Refused) as failure:
                answers[url] = str(failure)

        async with anyio.create_task_group() as tasks:
            for url in sorted(urls)[:MOST_ASKED]:
                tasks.start_soon(ask, url)
        return answers

    def _learn(self, answer: object, sent_s: float) -> ToldStatus:
        told = msgspec.convert(answer, ToldStatus)
        self._propagation.learn(told.node, told.recent_log_outs or (), sent_s=sent_s, received_s=self._node.clock.boot_s())
        return told


def _answer_for(row: Mapping[str, Any], answers: Mapping[str, ToldStatus | str]) -> ToldStatus | str | None:
    """Return the answer of a member; None if it cannot be asked. Of several processes behind one URL, one has answered."""
    answer = answers.get(row["url"])
    if isinstance(answer, ToldStatus) and answer.node != row["member"]:
        return None
    return answer


def _unheard(url: str) -> dict[str, Any]:
    """A member of the list that this node does not hear."""
    unknown = dict.fromkeys(("heard_ago_s", "ahead_s", "freshness_limit_s", "release"))
    return {"member": None, "url": url, "state": "not heard", "here": False, **unknown}


def _member(row: Mapping[str, Any], told: ToldStatus | str | None) -> dict[str, Any]:
    """Return one member: what this node hears of it, and what it tells of itself."""
    seen = {name: row[name] for name in ("member", "url", "state", "here", "heard_ago_s", "ahead_s", "freshness_limit_s", "release")}
    if not isinstance(told, ToldStatus):
        if told is not None:  # what it said before is no news
            seen["state"] = "silent"
        return {**seen, "status": None, "failure": told}
    if told.ready or row["state"] == "ready":
        seen["state"] = "ready" if told.ready else "not ready"
    state = {name: value for name, value in msgspec.to_builtins(told).items() if name not in ("errors", "recent_log_outs")}
    state["told_log_outs"] = told.recent_log_outs is not None
    return {**seen, "status": state, "failure": None}


def _errors(told: list[ToldStatus]) -> list[dict[str, Any]]:
    """Return the refusals of all nodes that answered, by code, the most frequent of late first."""
    found: dict[str, dict[str, Any]] = {}
    for status in told:
        for code, errors in status.errors.items():
            one = found.setdefault(code, {"code": code, "turn": errors.turn, "total": 0, "per_minute": Counter(), "last": None})
            one["total"] += errors.total
            one["per_minute"].update(errors.per_minute)
            if errors.last is not None and (one["last"] is None or (errors.last["at"] or "") > one["last"]["at"]):
                one["last"] = {"node": status.node, "at": errors.last["at"] or "", "instance": errors.last["instance"]}
    return sorted(found.values(), key=lambda one: (-one["per_minute"].get("5m", 0), -one["total"], one["code"]))
