"""Vectors of every record that a release writes into a store: decoded and encoded byte for byte."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ha_session_mw._core.records import once
from ha_session_mw._core.records.log_ins import LogIn, decode, decode_roster, encode, encode_roster, roster_id
from ha_session_mw._core.records.session_data import Stored
from ha_session_mw._core.token import data
from ha_session_mw.models import CutId, FamilyId, KeyId, SessionId

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "records.json").read_text("utf-8"))


def vectors(kind: str) -> Sequence[Any]:
    return [pytest.param(vector, id=vector["story"]) for vector in VECTORS[kind]]


def log_in_of(fields: Mapping[str, Any]) -> LogIn:
    cuts = tuple(CutId(cut) for cut in fields.get("cuts", ()))
    return LogIn(**{**fields, "sid": SessionId(fields["sid"]), "kid": KeyId(fields["kid"]), "cuts": cuts})


@pytest.mark.parametrize("vector", vectors("session_data"))
def test_session_data_is_read_and_written_byte_for_byte(vector: Mapping[str, str]) -> None:
    content = b64decode(vector["content"])
    stored = Stored(7, b64decode(vector["data"]), b64decode(vector["origin"]))

    assert Stored.decode(7, content) == stored
    assert stored.encode() == content


@pytest.mark.parametrize("vector", vectors("session_data"))
def test_the_data_in_a_record_are_read_and_written_byte_for_byte(vector: Mapping[str, str]) -> None:
    raw = b64decode(vector["data"])

    assert data.encode(data.decode(raw)) == raw


def test_the_data_of_a_record_are_those_that_an_app_stored() -> None:
    found = [data.decode(b64decode(vector["data"])) for vector in VECTORS["session_data"]]

    assert found == [
        {},
        {"name": "Zoë", "n": -1, "big": 1 << 40, "half": 1.5, "none": None, "yes": True, "cart": [1, {"id": "x", "tags": []}]},
        {"raw": b"\x00\xff", "at": datetime(2027, 1, 15, 8, tzinfo=UTC)},
        {"large": 1 << 80, "odd": "\ud800"},
        {"b": 2},
    ]


@pytest.mark.parametrize("vector", vectors("session_data")[:-1])
def test_the_origin_of_a_new_record_is_the_digest_of_the_tokens_data(vector: Mapping[str, str]) -> None:
    assert Stored.in_token(b64decode(vector["data"])).origin == b64decode(vector["origin"])


@pytest.mark.parametrize("vector", vectors("log_ins"))
def test_a_log_in_is_read_and_written_byte_for_byte(vector: Mapping[str, Any]) -> None:
    content, log_in = b64decode(vector["content"]), log_in_of(vector["log_in"])

    assert decode(content) == log_in
    assert encode(log_in) == content


@pytest.mark.parametrize("vector", vectors("rosters"))
def test_a_roster_is_read_and_written_byte_for_byte(vector: Mapping[str, Any]) -> None:
    content = b64decode(vector["content"])
    sessions = {FamilyId(family): log_in_of(fields) for family, fields in vector["sessions"].items()}

    assert decode_roster(content) == sessions
    assert encode_roster(sessions) == content
    assert roster_id(vector["subject"]) == vector["id"]


@pytest.mark.parametrize("vector", vectors("once"))
def test_the_record_of_an_idempotency_key_is_read_and_written_byte_for_byte(vector: Mapping[str, Any]) -> None:
    content, request = b64decode(vector["content"]), once.digest(b64decode(vector["request"]))
    record = once.Once(request, vector["lease_ms"], once.encode_answer(vector["answer"]))

    assert once.encode(record) == content
    assert once.record_id(vector["owner"], vector["key"]) == vector["id"]
    found = once.decide(content, request, now_ms=1_800_000_060_000)
    assert found == ("take over" if vector["lease_ms"] else record)
    assert isinstance(found, str) or once.decode_answer(found) == vector["answer"]
