"""What ``ha-session inspect`` says of a token, and what it never shows; and the secrets of ``keygen``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw import SessionManager, Settings
from ha_session_mw._settings.secrets import weakness
from ha_session_mw.testing import SECRET, ManualClock, mint_session

from ..operators import run

NOW_S = 1_800_000_000.0


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def at(wall_s: float) -> None:
        monkeypatch.setattr("ha_session_mw.cli.inspecting.time.time", lambda: wall_s)

    at(NOW_S)
    return at


def token_of(data: dict[str, Any] | None = None, **settings: Any) -> str:
    given = {"secret_key": SECRET, "node_id": "web-1", **settings}
    return mint_session(SessionManager(Settings(**given), clock=ManualClock(wall_s=NOW_S)), "ada", data)


def test_each_field_is_shown_and_the_signature_is_not() -> None:
    token = token_of({"cart": [1, 2]})
    _, sid, kid, _, signature = token.split(".")
    found = run("inspect", token)
    assert found.exit_code == 0, found.output
    for text in (sid, kid, "ada", "web-1", "accepted", "cart", "12 h ahead", "30 min ahead"):
        assert text in found.output
    told = json.loads(run("inspect", token, "-o", "json").stdout)
    assert (told["subject"], told["data"], told["verdict"]["refused"]) == ("ada", {"cart": [1, 2]}, False)
    assert signature not in found.output
    assert signature not in json.dumps(told)


@pytest.mark.parametrize("form", ["{}", " {}\n", "session={}; Path=/", "Cookie: other=1; session={}", "Authorization: Bearer {}"])
def test_a_token_may_come_as_a_program_shows_it(form: str) -> None:
    token = token_of()
    assert run("inspect", form.format(token)).exit_code == 0
    assert run("inspect", stdin=form.format(token)).exit_code == 0


@pytest.mark.parametrize(
    ("later_s", "code"), [(31 * 60, "session_idle_timeout"), (13 * 3600, "session_expired"), (-90, "token_not_yet_valid"), (60, None)]
)
def test_the_times_are_compared_as_a_node_compares_them(later_s: float, code: str | None, today: Callable[[float], None]) -> None:
    token = token_of()
    today(NOW_S + later_s)
    found = run("inspect", token, "-o", "json")
    assert (found.exit_code, json.loads(found.stdout)["verdict"]["code"]) == (int(code is not None), code)


def test_another_key_another_audience_and_an_altered_token_are_refused() -> None:
    token = token_of()
    head, _, tail = token.rpartition(".")
    altered = f"{head}.{'A' if tail[0] != 'A' else 'B'}{tail[1:]}"
    for arguments, code in (
        ((token, {"secret_key": SECRET[::-1]}), "key_not_reached"),
        ((token, {"audience": "shop"}), "token_invalid"),
        ((altered, {}), "token_invalid"),
    ):
        found = run("inspect", arguments[0], "-o", "json", **arguments[1])  # type: ignore[arg-type]
        assert (found.exit_code, json.loads(found.stdout)["verdict"]["code"]) == (1, code)


def test_without_a_key_the_content_is_shown_as_unverified() -> None:
    found = run("inspect", token_of(), secret_key=None)
    assert found.exit_code == 0
    assert "unverified" in found.output


@given(st.text(max_size=300) | st.binary(max_size=80).map(lambda raw: f"hs1.a.b.{raw.hex()}.c"))
def test_what_is_no_token_is_told_without_showing_it(text: str) -> None:
    found = run("inspect", stdin=text)
    assert found.exit_code == 1
    assert found.stderr.startswith("Error: ")
    assert found.exception is None or isinstance(found.exception, SystemExit)


def test_nothing_in_a_token_reaches_the_terminal_but_what_can_be_printed() -> None:
    found = run("inspect", token_of({"name": "\x1b[31mred\x07"}))
    assert "\x1b" not in found.output


def test_a_new_secret_is_strong_and_never_the_same() -> None:
    one, other = (run("keygen").stdout.strip() for _ in range(2))
    assert one != other
    assert weakness(one.encode()) is None
    told = json.loads(run("keygen", "-o", "json").stdout)
    assert SessionManager(Settings(secret_key=told["secret"])).settings.read_keys()[0] == (told["secret"].encode(),)
    assert len(told["kid"]) == 8
