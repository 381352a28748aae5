"""Session data: which values travel unchanged, and how a refusal names the place of a value that cannot."""

from __future__ import annotations

import functools
import json
import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.token.data import MAX_DEPTH, decode, encode, encode_changed, fingerprint, is_nested, keep_what_travels
from ha_session_mw.exceptions import SessionNotSerializable, UsageError
from ha_session_mw.models import Claims

from ..builders import CONTENTS


class Colour(StrEnum):
    RED = "canary"


class Level(IntEnum):
    HIGH = 7


class Plain(Enum):
    ONE = "canary"


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Share(float):
    pass


class Items(list[object]):
    pass


class Fields(dict[str, object]):
    pass


class Record(msgspec.Struct):
    name: str = "canary"


@dataclass
class Point:
    name: str = "canary"


Pair = namedtuple("Pair", "one other")


def types_of(value: object) -> object:
    """A value with its types, because True == 1 == 1.0, and a session must not confuse them."""
    if isinstance(value, dict):
        return {key: types_of(item) for key, item in value.items()}
    return [types_of(item) for item in value] if isinstance(value, list) else type(value)


@given(CONTENTS)
def test_allowed_data_comes_back_as_it_went_in(content: dict[str, Any]) -> None:
    back = decode(encode(content))

    assert back == content
    assert types_of(back) == types_of(content)
    assert list(back) == list(content)


@given(CONTENTS)
def test_equal_data_in_the_same_order_has_the_same_bytes(content: dict[str, Any]) -> None:
    assert encode(content) == encode(decode(encode(content))) == fingerprint(content)


@given(CONTENTS, CONTENTS, st.sampled_from([{}, {"a": (1,)}, {"a": Decimal(1)}, {1: "x"}, {"a": 2**70}, {"a": {"b": {3}}}]))
def test_a_change_has_the_bytes_of_the_whole_or_is_refused_like_it(
    before: dict[str, Any], new: dict[str, Any], odd: dict[Any, Any]
) -> None:
    change = {**new, **odd}
    after = {**before, **change}
    for known in (encode(before), None):
        assert outcome(partial(encode_changed, after, change, before=before, known=known)) == outcome(partial(encode, after))


def outcome(act: Callable[[], bytes]) -> bytes | str:
    try:
        return act()
    except SessionNotSerializable as refusal:
        return str(refusal)


def test_a_change_finds_what_was_changed_in_place_before_it() -> None:
    before: dict[str, Any] = {"cart": []}
    known = encode(before)
    before["cart"].append(Plain.ONE)
    with pytest.raises(SessionNotSerializable, match="cart"):
        encode_changed({**before, "visits": 1}, {"visits": 1}, before=before, known=known)


def test_data_with_the_bytes_of_data_that_travels_travels() -> None:
    assert encode({"a": (1,)}, known=encode({"a": [1]})) == encode({"a": [1]})


@given(st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=-30))])))  # noqa: DTZ001
def test_a_time_with_a_zone_comes_back_as_the_same_moment(when: datetime) -> None:
    assert decode(encode({"when": when})) == {"when": when}


def test_a_tuple_comes_back_as_a_list_as_with_starlette() -> None:
    assert decode(encode({"a": (1, ("b",))})) == {"a": [1, ["b"]]}


def test_numbers_that_are_none_and_endless_ones_come_back() -> None:
    back = decode(encode({"nan": math.nan, "inf": -math.inf}))

    assert math.isnan(back["nan"])  # type: ignore[arg-type]
    assert back["inf"] == -math.inf


def test_an_inner_dictionary_may_have_numbers_as_keys_beside_any_others() -> None:
    assert decode(encode({"a": {1: "x"}})) == {"a": {1: "x"}}
    assert decode(encode({"a": {1: "x"}, "b": (1,)})) == {"a": {1: "x"}, "b": [1]}


@pytest.mark.parametrize(
    ("value", "back"), [(Colour.RED, "canary"), (Level.HIGH, 7), (bytearray(b"raw"), b"raw"), (memoryview(b"raw"), b"raw")]
)
def test_a_value_that_equals_a_plain_one_comes_back_as_that(value: object, back: object) -> None:
    """As with Starlette, whose JSON stores an enum of str as the str."""
    assert decode(encode({"a": value, "b": (value,)})) == {"a": back, "b": [back]}
    assert type(decode(encode({"a": value}))["a"]) is type(back)


STORED_BY_STARLETTE = [
    *({"a": Text("x")}, {"a": Number(7)}, {"a": Share(1.5)}, {"a": Items([Text("x")])}, {"a": Fields(b=Number(1))}),
    *({1: "x"}, {None: "x"}, {True: "x"}, {False: "x"}, {1.5: "x"}, {Number(7): "x"}, {Text("k"): "x"}, {1: "old", "1": "new"}),
    *({"a": 2**64}, {"a": -(2**63) - 1}, {"a": [2**200, -(2**200)]}, {"a": 255 << 64}),
    *({"a": "lone \ud800"}, {"a": ["\udfff", {"b": "\ud83d"}]}, {"a": "\ud83d\ude00"}),
    *({"a": Text("x"), "b": (1, (2,))}, {"a": Text("x"), "b": {"c": math.inf}}),
]


@pytest.mark.parametrize("content", STORED_BY_STARLETTE, ids=repr)
def test_values_that_starlette_stores_come_back_as_starlette_reads_them(content: dict[Any, Any]) -> None:
    as_starlette = json.loads(json.dumps(content))
    back = decode(encode(content))

    assert back == as_starlette
    assert types_of(back) == types_of(as_starlette)
    assert encode(content) == encode(back)
    assert fingerprint(content) is not None


@given(CONTENTS)
def test_a_value_of_a_subclass_changes_nothing_about_the_others(content: dict[str, Any]) -> None:
    assert decode(encode({**content, "sub": Text("x")})) == {**decode(encode(content)), "sub": "x"}


def test_lists_that_hold_each_other_are_refused_at_once() -> None:
    """They have too many paths to walk each of them."""
    knot: list[Any] = [Text("x")]
    knot.extend([knot] * 10)

    with pytest.raises(SessionNotSerializable):
        encode({"a": knot})


def test_only_values_that_cannot_be_encoded_are_left_out() -> None:
    assert decode(keep_what_travels({"a": 1, "b": {1j}, "c": {"d": 2**64}, "\ud800": 2})) == {"a": 1, "c": {"d": 2**64}}
    assert decode(keep_what_travels({"a": 1})) == {"a": 1}


def test_a_session_begins_empty() -> None:
    [begun_with] = [field.default for field in msgspec.structs.fields(Claims) if field.name == "data"]
    assert encode({}) == begun_with
    assert decode(begun_with) == {}


def test_decoding_gives_a_new_dictionary_each_time() -> None:
    raw = encode({"a": [1]})
    decode(raw)["a"] = 2

    assert decode(raw) == {"a": [1]}


ROUND: dict[str, Any] = {}
ROUND["self"] = ROUND


@pytest.mark.parametrize(
    "value",
    [
        *({"canary"}, frozenset({"canary"}), object(), Plain.ONE, Record(), Point()),
        *(Decimal("3.14159"), UUID(int=314159), datetime(2027, 1, 1), date(2027, 1, 1), time(12, 30), timedelta(seconds=314159)),  # noqa: DTZ001
        *(1 + 2j, iter("canary"), len, ValueError("canary")),
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_a_value_that_would_not_come_back_is_refused_with_its_place_and_never_the_value(value: object) -> None:
    for content, place in (
        ({"fine": 1, "bad": value}, "session['bad']"),
        ({"a": {"b": [0, {"c": value}]}}, "session['a']['b'][1]['c']"),
        ({"a": (1, value)}, "session['a'][1]"),
    ):
        with pytest.raises(SessionNotSerializable) as caught:
            encode(content)
        message = str(caught.value)
        assert message.startswith(f"{place} cannot travel")
        assert "canary" not in message
        assert "314159" not in message


@pytest.mark.parametrize("content", [{("a",): "canary"}, {b"a": "canary"}, {"\ud800": "canary"}])
def test_a_key_of_the_session_that_json_has_no_form_for_is_refused(content: Mapping[Any, Any]) -> None:
    with pytest.raises(SessionNotSerializable) as caught:
        encode(content)

    assert str(caught.value).startswith("session cannot travel")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("content", [ROUND, {"a": [ROUND]}], ids=["round", "round inside"])
def test_data_without_end_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(SessionNotSerializable):
        encode(content)
    assert fingerprint(content) is None


@pytest.mark.parametrize("around", [lambda inner: [inner], lambda inner: (1, inner), lambda inner: {"b": 1, "c": inner}])
def test_containers_lie_in_each_other_up_to_a_depth_that_all_pythons_bear(around: Callable[[Any], Any]) -> None:
    deepest: Any = 1
    for _ in range(MAX_DEPTH):
        deepest = around(deepest)
    too_deep = around(deepest)
    beyond_all: Any = functools.reduce(lambda inner, _: around(inner), range(5_000), 1)

    assert decode(encode({"a": deepest})).keys() == {"a"}
    for content in (too_deep, beyond_all):
        with pytest.raises(SessionNotSerializable, match="up to 100 deep"):
            encode({"a": content})


def test_a_refusal_is_a_bug_of_the_app_and_a_type_error_as_with_starlette() -> None:
    assert issubclass(SessionNotSerializable, UsageError)
    assert issubclass(SessionNotSerializable, TypeError)


def test_a_dictionary_of_another_kind_is_a_dictionary() -> None:
    assert decode(encode(OrderedDict(b=1, a=2))) == {"b": 1, "a": 2}
    assert decode(encode({"pair": Pair(1, 2)})) == {"pair": [1, 2]}


@pytest.mark.parametrize(
    ("content", "nested"),
    [
        ({}, False),
        ({"a": 1, "b": "text", "c": None}, False),
        ({"a": []}, True),
        ({"a": 1, "b": {}}, True),
        ({"a": b"[]"}, False),
        ({"a": OrderedDict()}, True),
    ],
)
def test_data_is_nested_where_a_value_is_a_container(content: dict[str, Any], nested: bool) -> None:
    assert is_nested(content) is nested


def test_a_fingerprint_tells_a_change_inside() -> None:
    content: dict[str, Any] = {"cart": {"items": [1, 2]}}
    before = fingerprint(content)
    content["cart"]["items"].append(3)

    assert fingerprint(content) != before


def test_a_value_that_cannot_be_encoded_has_no_fingerprint() -> None:
    assert fingerprint({"a": object()}) is None
    assert fingerprint({"a": {1j}}) is None
