"""The names of devices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw._core.records.user_agents import _PROGRAMS, _SYSTEMS, UNKNOWN, label

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
SAID = {
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0": "Firefox on Linux",
    f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/138.0.0.0 Safari/537.36": "Chrome on Windows",
    f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/138.0.0.0 Safari/537.36 Edg/138.0.0.0": "Edge on Windows",
    f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/137.0.0.0 Safari/537.36 OPR/122.0.0.0": "Opera on Windows",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15": (
        "Safari on macOS"
    ),
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Version/18.5 Mobile/15E148 Safari/604.1": "Safari on iOS",
    "Mozilla/5.0 (iPad; CPU OS 18_5 like Mac OS X) AppleWebKit/605.1.15 CriOS/138.0 Mobile/15E148 Safari/604.1": "Chrome on iPadOS",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 FxiOS/140.0 Mobile/15E148 Safari/605.1.15": (
        "Firefox on iOS"
    ),
    f"Mozilla/5.0 (Linux; Android 10; K) {WEBKIT} SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36": "Samsung Internet on Android",
    f"Mozilla/5.0 (Linux; Android 10; K) {WEBKIT} Chrome/138.0.0.0 Mobile Safari/537.36": "Chrome on Android",
    f"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {WEBKIT} Chrome/138.0.0.0 Safari/537.36": "Chrome on ChromeOS",
    "curl/8.5.0": "curl",
    "python-httpx/0.28.1": "httpx",
    "Dalvik/2.1.0 (Linux; U; Android 15)": "Android",
    "": UNKNOWN,
    "something else": UNKNOWN,
}


@pytest.mark.parametrize("said", SAID, ids=SAID.get)
def test_a_device_is_called_after_its_browser_and_its_system(said: str) -> None:
    assert label(said) == SAID[said]


@given(st.text() | st.lists(st.sampled_from([*SAID, "<script>", "\r\n"])).map(" ".join))
def test_nothing_that_a_client_says_gets_into_the_text(said: str) -> None:
    programs, systems = ({name for _, name in table} for table in (_PROGRAMS, _SYSTEMS))

    assert label(said) in {UNKNOWN, *programs, *systems, *(f"{program} on {system}" for program in programs for system in systems)}


def test_only_a_bounded_prefix_is_read() -> None:
    assert label("x" * 10_000 + "Firefox/140.0") == UNKNOWN
