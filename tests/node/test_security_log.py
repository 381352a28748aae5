"""The security log: each event once, with facts for machines, sampled in a flood, and never a secret or a raw name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from ha_session_mw import Session
from ha_session_mw._node.security_log import AT_ONCE
from ha_session_mw.exceptions import TokenInvalid
from ha_session_mw.manager import node_of
from ha_session_mw.models import Cut, CutId, Deny, DenyKey, Entry, FamilyId, KeyId
from ha_session_mw.testing import ManualClock

from ..asgi.driver import OTHER_SECRET, SECRET, Node

pytestmark = [pytest.mark.anyio, pytest.mark.one_library]

STANDARD = {*logging.makeLogRecord({}).__dict__, "message", "asctime"}
"""Attributes of any record. A formatter adds the last two, and other tests of this process may have installed one."""


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Any:
    """Returns the facts of the records since the last call."""
    caplog.set_level(logging.INFO, "ha_session_mw.security")

    def since() -> list[dict[str, Any]]:
        records = [record for record in caplog.records if record.name == "ha_session_mw.security"]
        found = [{name: value for name, value in record.__dict__.items() if name not in STANDARD} for record in records]
        for record, facts in zip(records, found, strict=True):
            assert record.getMessage() == " ".join(f"{name}={value}" for name, value in facts.items())
        caplog.clear()
        return found

    return since


async def test_a_log_in_and_its_log_out_have_the_same_pseudonyms(told: Any) -> None:
    node = Node()
    ada = await node.logged_in("ada.lovelace")
    [log_in] = told()
    assert log_in["event"] == "log_in"
    assert log_in["node"] == node.manager.node_id
    assert log_in["subject_hash"] == node.manager.pseudonym("ada.lovelace")
    assert "ada.lovelace" not in str(log_in)

    await ada.visit(lambda session: session.clear())
    [log_out] = told()
    assert {name: log_out[name] for name in ("event", "reach", "mode", "session_hash")} == {
        "event": "log_out",
        "reach": "session",
        "mode": "fenced",
        "session_hash": log_in["session_hash"],
    }


async def test_a_log_out_says_how_far_it_reaches(told: Any) -> None:
    node = Node()
    ada = await node.logged_in("ada")
    told()
    await ada.visit(lambda session: node.manager.revoke_subject("ada", except_session=session))
    await node.manager.revoke_subject("ada")
    await node.manager.revoke_everybody()
    found = told()

    assert [facts["reach"] for facts in found] == ["others", "subject", "everybody"]
    assert [facts.get("subject_hash") for facts in found] == [node.manager.pseudonym("ada")] * 2 + [None]


async def test_a_new_id_of_a_session_is_no_log_out_and_a_second_log_in_ends_the_first_session(told: Any) -> None:
    ada = await Node().logged_in("ada")
    told()
    await ada.visit(lambda session: session.cycle())
    await ada.visit(lambda session: session.update(a=1))
    assert told() == []

    await ada.visit(lambda session: session.login("bob"))
    assert [facts["event"] for facts in told()] == ["log_out", "log_in"]


async def test_a_visitor_is_neither_logged_in_nor_logged_out(told: Any) -> None:
    visitor = Node().visitor()
    await visitor.visit(lambda session: session.update(a=1))
    assert told() == []


async def test_an_incident_that_a_user_reports_is_found_by_its_instance(told: Any) -> None:
    node = Node(protect="/private/*")
    answer = await node.request(path="/private/x", bearer="hs1.a.b.c.d")
    [facts] = told()

    assert facts["instance"] == answer.problem["instance"]
    assert (facts["event"], facts["code"], facts["status"]) == ("refusal", answer.code, answer.status)


async def test_a_token_that_is_ignored_on_an_open_path_is_told_without_an_instance(told: Any) -> None:
    await Node().request(bearer="hs1.a.b.c.d")
    [facts] = told()

    assert (facts["event"], "instance" in facts) == ("refusal", False)


async def test_a_limit_is_told_as_one(told: Any) -> None:
    await Node(protect="/private/*").request(path="/private/x", bearer="hs1." + "x" * 5000)
    [facts] = told()

    assert (facts["event"], facts["code"]) == ("limit_hit", "token_too_large")


async def test_a_flood_is_sampled_and_says_how_much_is_missing(told: Any, clock: ManualClock) -> None:
    node = Node(protect="/private/*", clock=clock)
    for _ in range(int(AT_ONCE) + 50):
        await node.request(path="/private/x")
    seen = len(told())
    assert seen == pytest.approx(AT_ONCE, abs=1)
    await node.request(path="/private/x", bearer="hs1.?")
    assert [facts["code"] for facts in told()] == ["token_malformed"]  # other kinds do not suffer

    clock.advance(60)
    await node.request(path="/private/x")
    assert [facts["suppressed"] for facts in told()] == [AT_ONCE + 50 - seen]


async def test_changed_and_revoked_keys_are_told_by_their_ids(told: Any, tmp_path: Path, clock: ManualClock) -> None:
    file = tmp_path / "keys"
    file.write_text(SECRET)
    node = Node(secret_key=None, secret_key_file=file, clock=clock)
    file.write_text(f"{OTHER_SECRET}\n{SECRET}\n")
    clock.advance(2)
    node_of(node.manager).refresh()
    [facts] = told()
    kids = node_of(node.manager).keys.ring.kids
    assert (facts["event"], facts["key_ids"]) == ("keys_changed", " ".join(kids))

    await node.manager.revoke_key(kids[1])
    [facts] = told()
    assert (facts["event"], facts["key_id"], facts["mode"]) == ("key_revoked", kids[1], "fenced")


@pytest.mark.parametrize("call", ["poll", "forward/request", "forward/who"])
async def test_a_refused_call_of_a_node_is_told(call: str, told: Any) -> None:
    cluster: dict[str, Any] = {"cluster": "peers://", "advertise_url": "http://a:1", "peers": "http://a:1,http://b:1,http://c:1"}
    await Node(**cluster, routing="forward", owned="/game/*").request(path=f"/-/session/peer/{call}", method="POST")
    [facts] = told()

    assert (facts["event"], facts["peer"], facts["fault"]) == ("peer_refused", "others", "unsigned")


async def test_a_peer_that_lies_is_told_by_its_place_and_one_that_is_gone_is_not(told: Any) -> None:
    cluster: dict[str, Any] = {"cluster": "peers://", "advertise_url": "http://a:1", "peers": "http://a:1,http://b:1,http://c:1"}
    peering = node_of(Node(**cluster).manager).peering
    assert peering is not None
    for fault in ("lied", "unreachable", "stalled"):
        peering.faults.note("http://b:1", fault)
    [facts] = told()

    assert (facts["event"], facts["peer"], facts["fault"]) == ("peer_refused", "member 2", "lied")


async def test_nothing_in_it_is_a_raw_name(told: Any, caplog: pytest.LogCaptureFixture) -> None:
    node = Node()
    security = node_of(node.manager).security
    entries: list[Entry] = [
        *(Deny("canary-id", 0), DenyKey(KeyId("key-id"), 0)),
        *(Cut(CutId("c"), "canary-subject", 0, None, ()), Cut(CutId("c"), "canary-subject", 0, FamilyId("canary-family"), ())),
    ]
    for entry in entries:
        for mode in ("fenced", "provisional", "durable", "failed"):
            security.logged_out(entry, mode)
    security.refused(TokenInvalid("canary-reason", check="signature"), None)
    assert "canary" not in caplog.text
    assert len(told()) == 17


async def test_one_subject_has_one_pseudonym_on_all_nodes_and_another_under_another_key() -> None:
    one, two, other = Node().manager, Node().manager, Node(secret_key=OTHER_SECRET).manager

    assert one.pseudonym("ada") == two.pseudonym("ada") != other.pseudonym("ada")
    assert one.pseudonym("ada") != one.pseudonym("bob")
    assert one.pseudonym("\ud800")


def log_in(session: Session) -> None:
    session.login("ada")


async def test_without_a_listener_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()
    monkeypatch.setattr(node_of(node.manager).security, "pseudonym", None)
    logging.getLogger("ha_session_mw.security").setLevel(logging.ERROR)
    try:
        assert (await node.request(log_in)).status == 200
    finally:
        logging.getLogger("ha_session_mw.security").setLevel(logging.NOTSET)
