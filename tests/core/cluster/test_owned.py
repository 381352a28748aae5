"""Where a request is answered whose handler keeps state on a node."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.calls.origins import origin_of
from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.cluster.owned import MAX_FOLLOWS_BYTES, Forward, Redirect, ServeHere, decide, follows_of
from ha_session_mw.models import NodeId

ME = "http://10.0.0.1:8000"


def member(url: str = "http://10.0.0.2:8000") -> Heartbeat:
    return Heartbeat(NodeId("b"), "life", url, "ready", 1, 0, (), 5.0, 1000)


def test_the_owner_answers_by_itself() -> None:
    assert decide("redirect", None, own_url=ME, is_forwarded=False, follows=()) == ServeHere("owner")


@pytest.mark.parametrize(
    "url", ["", "http://10.0.0.1:8000", "HTTP://10.0.0.1:8000/", "ftp://10.0.0.2", "http://a@b", "//b", "http://b/path"]
)
def test_an_owner_without_a_url_of_its_own_is_no_target(url: str) -> None:
    assert decide("redirect", member(url), own_url=ME, is_forwarded=False, follows=["http://b:80"]) == ServeHere("no_target")


def test_only_a_sender_that_follows_there_is_redirected() -> None:
    def decided(field: bytes) -> object:
        return decide("redirect", member("http://B"), own_url=ME, is_forwarded=False, follows=follows_of([(b"session-follows", field)]))

    assert decided(b"http://a:80,http://b:80") == Redirect("http://b:80")
    assert decided(b"http://a:80") == decided(b"") == decided(b"*") == decided(b"http://b:80/") == ServeHere("not_followed")
    assert decided(b"http://b:80," + b"x" * MAX_FOLLOWS_BYTES) == ServeHere("not_followed")


NAMES = [b"host", b"forwarded", b"x-forwarded-host", b"x-forwarded-for", b"x-accel-redirect", b"session-follows", b"session-peer", b"via"]
EVIL = st.sampled_from(
    [b"http://evil:80", b"@http://evil:80", b"evil", b"http://10.0.0.1:8000", b"http://10.0.0.3:8000", b"host=evil;by=evil"]
)
MEMBER = st.sampled_from([b"http://10.0.0.2:8000", b"http://10.0.0.3:8000"])


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.lists(EVIL | MEMBER | st.binary(max_size=40), max_size=4).map(b", ".join)), max_size=8)
)
def test_no_header_field_is_ever_a_target(headers: list[tuple[bytes, bytes]]) -> None:
    decision = decide("redirect", member(), own_url=ME, is_forwarded=False, follows=follows_of(headers))

    assert decision in (Redirect("http://10.0.0.2:8000"), ServeHere("not_followed"))
    assert decide("forward", member(), own_url=ME, is_forwarded=False, follows=follows_of(headers)) == Forward(member())


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://A", "http://a:80"),
        ("https://a:8443/", "https://a:8443"),
        ("http://[FD00::3]:8000", "http://[fd00::3]:8000"),
        ("http://a:x", None),
    ],
)
def test_an_origin_has_one_spelling(url: str, origin: str | None) -> None:
    assert origin_of(url) == origin
