"""Vectors of the calls of nodes and operators: this release writes them byte for byte, and reads those of an earlier release."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import httpx2
import msgspec
import pytest

from ha_session_mw._core.calls.faults import PeerFaults
from ha_session_mw._core.token.keys import KeyRing
from ha_session_mw._node import admin_messages, lookups, peer_copies, second_look
from ha_session_mw._peering.client import PeerClient
from ha_session_mw._peering.forward import Facts
from ha_session_mw._peering.server import PeerServer
from ha_session_mw._peering.signatures import Envelope, Signatures, answer_field, answer_text, parse_answer_field
from ha_session_mw.models import Claims, KeyId
from ha_session_mw.testing import ManualClock

from ..asgi.driver import call as asgi_call
from ..asgi.driver import scope_of

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "peer-calls.json").read_text("utf-8"))
RING = KeyRing([VECTORS["secret"].encode()])
SIGNATURES = Signatures(lambda: RING)
OLDER, NEWER = "older", "newer"


def vectors(kind: str) -> Sequence[Any]:
    return [pytest.param(vector, id=vector["story"]) for vector in VECTORS[kind]]


def envelope(vector: Mapping[str, Any]) -> Envelope:
    return Envelope(**vector["envelope"])


# The header fields.


@pytest.mark.parametrize("vector", vectors("calls"))
def test_the_field_of_a_call(vector: Mapping[str, Any]) -> None:
    signature = SIGNATURES.sign(RING.kids[0], envelope(vector).text(vector["name"]))
    assert envelope(vector).field(RING.kids[0], signature) == vector["field"]


@pytest.mark.parametrize("vector", vectors("calls"))
def test_the_field_of_a_call_of_an_earlier_release(vector: Mapping[str, Any]) -> None:
    parsed = Envelope.parse(vector["field"])
    assert parsed is not None
    found, kid, signature = parsed
    assert found == envelope(vector)
    assert SIGNATURES.verify(kid, found.text(vector["name"]), signature)


@pytest.mark.parametrize("vector", vectors("answers"))
def test_the_field_of_an_answer(vector: Mapping[str, Any]) -> None:
    text = answer_text(vector["call"], vector["status"], vector["nonce"], bytes.fromhex(vector["body"]))
    assert answer_field(vector["nonce"], SIGNATURES.sign(RING.kids[0], text)) == vector["field"]


@pytest.mark.parametrize("vector", vectors("answers"))
def test_the_field_of_an_answer_of_an_earlier_release(vector: Mapping[str, Any]) -> None:
    parsed = parse_answer_field(vector["field"])
    assert parsed is not None
    nonce, signature = parsed
    assert nonce == vector["nonce"]
    text = answer_text(vector["call"], vector["status"], nonce, bytes.fromhex(vector["body"]))
    assert SIGNATURES.verify(RING.kids[0], text, signature)


# Whole calls, as they travel.


class Wire(httpx2.AsyncBaseTransport):
    """Keeps a client's requests, and answers as an earlier release did."""

    def __init__(self, answers: Sequence[Mapping[str, Any]]) -> None:
        self.sent: list[dict[str, Any]] = []
        self._answers = [*answers]

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        sent = {
            "method": request.method,
            "path": request.url.path,
            "session-peer": request.headers["session-peer"],
            "content-type": request.headers["content-type"],
            "connection": request.headers.get("connection"),
            "body": (await request.aread()).hex(),
        }
        self.sent.append(sent)
        answer = self._answers.pop(0)
        return httpx2.Response(
            answer["status"], headers={"session-peer": answer["session-peer"]}, stream=httpx2.ByteStream(bytes.fromhex(answer["body"]))
        )


@pytest.mark.anyio
@pytest.mark.one_library
@pytest.mark.parametrize("vector", vectors("exchanges"))
async def test_a_client_sends_the_calls_and_reads_the_answers(vector: Mapping[str, Any], clock: ManualClock) -> None:
    wire = Wire([answer for _, answer in vector["travels"]])
    client = PeerClient(
        vector["caller"], "caller-life", lambda: RING, prefix="/-/session", clock=clock, faults=PeerFaults(), http=lambda: wire
    )
    answer = await client.call(vector["callee"], vector["name"], bytes.fromhex(vector["body"]), timeout_s=1.0)
    assert wire.sent == [sent for sent, _ in vector["travels"]]
    assert answer == bytes.fromhex(vector["travels"][-1][1]["body"])


@pytest.mark.anyio
@pytest.mark.one_library
@pytest.mark.parametrize("vector", vectors("exchanges"))
async def test_a_server_answers_the_calls(vector: Mapping[str, Any], clock: ManualClock) -> None:
    server = PeerServer(vector["callee"], "callee-life", lambda: RING, clock, PeerFaults())

    async def handler(body: bytes) -> bytes:
        await anyio.lowlevel.checkpoint()
        return bytes.fromhex(vector["says"])

    server.handle(vector["name"], handler)
    for sent, answer in vector["travels"]:
        headers = [(b"session-peer", sent["session-peer"].encode())]
        scope = scope_of("http", sent["path"], method="POST", headers=headers)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await server(vector["name"], scope, receive, send)

        got = await asgi_call(app, scope, [{"type": "http.request", "body": bytes.fromhex(sent["body"]), "more_body": False}])
        assert (got.status, got.header("session-peer"), got.body.hex()) == (answer["status"], answer["session-peer"], answer["body"])


# What the calls carry.

FORMS: dict[str, type[msgspec.Struct]] = {
    "question": lookups.Question,
    "answer": lookups.Answer,
    "record question": peer_copies.Question,
    "record copy": peer_copies.Copy,
    "fence question": second_look.Question,
    "fence ages": second_look.Ages,
    "forwarded facts": Facts,
    "operator's nothing": admin_messages.Nothing,
    "operator's sessions": admin_messages.SessionsOf,
    "operator's revoke": admin_messages.Revoke,
    "operator's drain": admin_messages.Drain,
    "operator's answer": admin_messages.Answer,
}


@pytest.mark.parametrize("vector", vectors("bodies"))
def test_a_body(vector: Mapping[str, Any]) -> None:
    assert msgspec.msgpack.encode(form_of(vector)).hex() == vector["bytes"]


@pytest.mark.parametrize("vector", vectors("bodies"))
def test_a_body_of_an_earlier_release(vector: Mapping[str, Any]) -> None:
    form = FORMS[vector["form"]]
    assert msgspec.msgpack.decode(bytes.fromhex(vector.get("earlier", vector["bytes"])), type=form) == form_of(vector)


def form_of(vector: Mapping[str, Any]) -> msgspec.Struct:
    form, given = FORMS[vector["form"]], dict(vector["is"])
    for name in ("token", "content", "raw_path", "query_string"):
        if name in given:
            given[name] = bytes.fromhex(given[name])
    for name in ("names", "client"):
        if name in given:
            given[name] = tuple(given[name])
    if "host" in given:
        given["host"] = tuple(map(bytes.fromhex, given["host"]))
    if "error" in given:
        given["error"] = admin_messages.Failure(**given["error"])
    if "claims" in given:
        given["claims"] = msgspec.msgpack.decode(bytes.fromhex(given["claims"]), type=Claims)
        given["kid"] = KeyId(given["kid"])
    return form(**given)
