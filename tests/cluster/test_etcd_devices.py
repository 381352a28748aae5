"""On a real etcd: the listeners' events, and devices that several nodes record at once."""

from __future__ import annotations

import secrets
from typing import Any

import anyio
import pytest

from ha_session_mw import SessionManager, SessionMiddleware, Settings
from ha_session_mw.events import ClusterEvent, FoundQuorum, LostQuorum, MemberJoined, MemberLeft, SubjectRevoked, ViewFresh, ViewStale
from ha_session_mw.manager import node_of
from ha_session_mw.testing import SECRET, who_is_there

from ..asgi.driver import Answer, call, scope_of
from ..engines import Etcd, patient
from ..waiting import eventually
from .test_etcd import FRESHNESS_LIMIT_S, HEARTBEAT_S, ready, running

pytestmark = [pytest.mark.anyio, pytest.mark.one_library, pytest.mark.real]


def nodes_on(server: Etcd, count: int, **settings: Any) -> list[SessionManager]:
    found = Settings(
        secret_key=SECRET,
        cluster=server.cluster(f"t{secrets.token_hex(4)}"),
        heartbeat=HEARTBEAT_S,
        freshness_limit=FRESHNESS_LIMIT_S,
        **settings,
    )
    return [SessionManager(found) for _ in range(count)]


async def test_members_log_outs_and_the_loss_of_etcd_are_events(one_etcd: Etcd) -> None:
    a, b = nodes_on(one_etcd, 2)
    seen: list[ClusterEvent] = []
    a.on_event(seen.append)
    async with running(a):
        async with running(b):
            await ready(a, b)
            await b.revoke_subject("ada")
        await eventually(lambda: MemberLeft(b.node_id) in seen)
        told = [event for event in seen if not isinstance(event, SubjectRevoked)]
        assert sorted(map(repr, told)) == sorted(map(repr, [ViewFresh(), MemberJoined(b.node_id), MemberLeft(b.node_id)]))
        assert [event.subject for event in seen if isinstance(event, SubjectRevoked)] == ["ada"]
        seen.clear()
        one_etcd.members[0].freeze()
        try:
            await eventually(lambda: {LostQuorum(), ViewStale()} <= {*seen})
        finally:
            one_etcd.members[0].thaw()
        await eventually(lambda: {FoundQuorum(), ViewFresh()} <= {*seen})
        assert len(seen) == 4


@pytest.mark.parametrize("when_full", ["end_oldest", "refuse"])
async def test_log_ins_at_once_on_several_nodes_keep_to_the_limit(one_etcd: Etcd, when_full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)
    nodes = nodes_on(one_etcd, 3, track="on", max_sessions=2, when_full=when_full)
    apps = [SessionMiddleware(who_is_there, manager=node) for node in nodes]
    answers: list[Answer] = []

    async def log_in(app: SessionMiddleware) -> None:
        answers.append(await call(app, scope_of("http", "/login/ada", method="POST")))

    async with running(*nodes):
        await ready(*nodes)
        async with anyio.create_task_group() as tasks:
            for app in apps * 2:
                tasks.start_soon(log_in, app)
        tokens = [answer.token for answer in answers if answer.token]
        await eventually(lambda: all(sum(_is_good(node, token) for token in tokens) == 2 for node in nodes))
        for node in nodes:
            assert len(await node.sessions_of("ada")) == 2
    assert sorted(answer.status for answer in answers) == ([200] * 6 if when_full == "end_oldest" else [200] * 2 + [403] * 4)


def _is_good(node: SessionManager, token: str) -> bool:
    verified = node_of(node).validator.verify(token.encode())
    return verified is not None and node_of(node).validator.may_be_valid(verified)
