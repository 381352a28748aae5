"""Vectors of all that ``peers://`` sends and keeps: this release writes them byte for byte, and reads those of an earlier release."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ha_session_mw._core.quorum.membership import Change, Standing
from ha_session_mw._core.quorum.messages import (
    Answer,
    Batch,
    Poll,
    Push,
    decode_answer,
    decode_batch,
    decode_poll,
    decode_push,
    encode,
    list_digest,
)
from ha_session_mw.models import Deny

_pack = msgspec.msgpack.encode

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "peers.json").read_text("utf-8"))


def vectors(kind: str) -> list[Any]:
    return [pytest.param(vector, id=vector["story"]) for vector in VECTORS[kind]]


@pytest.mark.parametrize("vector", vectors("lists"))
def test_a_digest_of_a_member_list(vector: Mapping[str, Any]) -> None:
    assert list_digest(vector["is"]) == vector["digest"]


@pytest.mark.parametrize("vector", vectors("polls"))
def test_a_poll(vector: Mapping[str, Any]) -> None:
    poll = msgspec.convert(vector["is"], Poll)
    assert encode(poll).hex() == vector["stored"]
    assert decode_poll(bytes.fromhex(vector["stored"])) == poll


@pytest.mark.parametrize("vector", vectors("answers") + vectors("answers with an age"))
def test_an_answer(vector: Mapping[str, Any]) -> None:
    answer = msgspec.convert(vector["is"], Answer)
    assert encode(answer).hex() == vector["stored"]
    assert decode_answer(bytes.fromhex(vector["stored"])) == answer


@pytest.mark.parametrize("vector", vectors("pushes"))
def test_a_push(vector: Mapping[str, Any]) -> None:
    push = msgspec.convert(vector["is"], Push)
    assert encode(push).hex() == vector["stored"]
    assert decode_push(bytes.fromhex(vector["stored"])) == push


@pytest.mark.parametrize("vector", vectors("batches"))
def test_a_batch_of_the_file(vector: Mapping[str, Any]) -> None:
    batch = msgspec.convert(vector["is"], Batch)
    assert encode(batch).hex() == vector["stored"]
    assert decode_batch(bytes.fromhex(vector["stored"])) == batch


@pytest.mark.parametrize("vector", vectors("batches of releases without lists"))
def test_a_batch_of_an_earlier_release_was_written_under_no_list(vector: Mapping[str, Any]) -> None:
    batch = decode_batch(bytes.fromhex(vector["stored"]))
    assert batch == msgspec.convert(vector["is"], Batch)
    assert batch.lists == ()


@pytest.mark.parametrize("vector", vectors("batches"))
def test_an_earlier_release_reads_a_batch_without_its_lists(vector: Mapping[str, Any]) -> None:
    *known, _ = msgspec.msgpack.decode(bytes.fromhex(vector["stored"]))
    assert msgspec.convert(known, Batch).entries == msgspec.convert(vector["is"], Batch).entries


@pytest.mark.parametrize("vector", vectors("changes"))
def test_an_act_that_changes_the_list(vector: Mapping[str, Any]) -> None:
    change = Change(*vector["is"])
    assert change.id == vector["id"]
    assert Change.parse(vector["id"]) == change


@pytest.mark.parametrize("vector", vectors("standings"))
def test_how_a_node_stands_to_its_lists(vector: Mapping[str, Any]) -> None:
    standing = Standing(tuple(vector["lists"]), vector["stage"])
    assert standing.text == vector["digest"]
    assert Standing.parse(vector["digest"]) == standing


def with_a_field_more(stored: str) -> bytes:
    """Return the message as a later release may write it: with another field at the end."""
    fields = msgspec.msgpack.decode(bytes.fromhex(stored))
    return msgspec.msgpack.encode([*fields, "a field of a later release"])


@pytest.mark.parametrize("vector", vectors("polls"))
def test_a_poll_with_a_field_of_a_later_release_is_read_without_it(vector: Mapping[str, Any]) -> None:
    whole = _pack(msgspec.convert(vector["is"], Poll)).hex()  # with the field that is not sent where it says nothing
    assert decode_poll(with_a_field_more(whole)) == msgspec.convert(vector["is"], Poll)


def check_last_field(vector: Mapping[str, Any], field: str) -> None:
    """Check a poll as it is stored, and as a release reads it that does not know its last field."""
    poll = msgspec.convert(vector["is"], Poll)
    assert encode(poll).hex() == vector["stored"]
    assert decode_poll(bytes.fromhex(vector["stored"])) == poll
    *known, _ = msgspec.msgpack.decode(bytes.fromhex(vector["stored"]))
    assert msgspec.convert(known, Poll) == msgspec.structs.replace(poll, **{field: None})


@pytest.mark.parametrize("vector", vectors("polls in a quiet time"))
def test_a_poll_in_a_quiet_time_says_for_how_long_it_may_be_held(vector: Mapping[str, Any]) -> None:
    check_last_field(vector, "hold_s")


@pytest.mark.parametrize("vector", vectors("polls of a member that cannot keep all"))
def test_a_poll_of_a_member_that_cannot_keep_all_says_what_it_enforces(vector: Mapping[str, Any]) -> None:
    check_last_field(vector, "applied")


@pytest.mark.parametrize("vector", vectors("polls of a node that has much to read"))
def test_a_poll_of_a_node_that_has_much_to_read_says_what_it_has(vector: Mapping[str, Any]) -> None:
    poll = msgspec.convert(vector["is"], Poll)
    assert encode(poll).hex() == vector["stored"]
    assert decode_poll(bytes.fromhex(vector["stored"])) == poll
    *known, _ = msgspec.msgpack.decode(bytes.fromhex(vector["stored"]))
    assert msgspec.convert(known, Poll) == msgspec.structs.replace(poll, read=None)  # as an earlier release reads it


@pytest.mark.parametrize("vector", vectors("answers to a node that has much to read"))
def test_an_answer_to_a_node_that_has_much_to_read_says_what_its_sender_has(vector: Mapping[str, Any]) -> None:
    answer = msgspec.convert(vector["is"], Answer)
    assert encode(answer).hex() == vector["stored"]
    assert decode_answer(bytes.fromhex(vector["stored"])) == answer
    *known, _ = msgspec.msgpack.decode(bytes.fromhex(vector["stored"]))
    assert msgspec.convert(known, Answer) == msgspec.structs.replace(answer, read=())  # as an earlier release reads it


@pytest.mark.parametrize("vector", vectors("polls of a node that reads by column"))
def test_a_poll_of_a_node_that_reads_by_column_says_so(vector: Mapping[str, Any]) -> None:
    check_last_field(vector, "by_column")


@pytest.mark.parametrize("vector", vectors("answers by column"))
def test_an_answer_by_column(vector: Mapping[str, Any]) -> None:
    answer = msgspec.convert(vector["is"], Answer)
    assert encode(answer).hex() == vector["stored"]
    assert decode_answer(bytes.fromhex(vector["stored"])) == answer
    assert [*answer.log_outs] == [Deny(vector["is"][-3][at : at + 22], vector["is"][-2][at // 22] * 60_000) for at in (0, 22)]


@pytest.mark.parametrize("vector", vectors("answers"))
def test_an_answer_with_a_field_of_a_later_release_is_read_without_it(vector: Mapping[str, Any]) -> None:
    whole = _pack(msgspec.convert(vector["is"], Answer)).hex()  # with the fields that are not sent where they say nothing
    assert decode_answer(with_a_field_more(whole)) == msgspec.convert(vector["is"], Answer)


@pytest.mark.parametrize("vector", vectors("answers with an age"))
def test_an_earlier_release_reads_an_answer_without_its_age(vector: Mapping[str, Any]) -> None:
    *known, _, _ = msgspec.msgpack.decode(bytes.fromhex(vector["stored"]))
    assert len(known) == len(msgspec.msgpack.decode(bytes.fromhex(VECTORS["answers"][0]["stored"])))
    assert msgspec.convert(known, Answer).entries == msgspec.convert(vector["is"], Answer).entries
