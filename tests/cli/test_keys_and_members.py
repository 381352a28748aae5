"""The commands that lead through a change of keys and of members: each prints the exact next step, or says why not yet."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from ha_session_mw import Settings
from ha_session_mw._core.cluster.key_use import KeyUse
from ha_session_mw._core.token.keys import KeyRing
from ha_session_mw.cli.membering import next_steps
from ha_session_mw.testing import SECRET

from ..operators import run

OTHER = "Zt5WqM8nKx1RbJ7hPvGyLc4SdFa9UeT2"
OLD, NEW = KeyRing([SECRET.encode(), OTHER.encode()]).kids
A, B, C = "http://a.test", "http://b.test", "http://c.test"


class Members:
    """Two members with their keys, as a node that watches them tells of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kids: dict[str, tuple[str, ...]] = {"a": (OLD,), "b": (OLD,)}
        self.now_s = 0.0
        self._use = KeyUse(0.0)
        monkeypatch.setattr("ha_session_mw.cli.rotating._ask", lambda *_: self.told())

    def told(self) -> Any:
        states = self._use.states(self.kids, (), self.now_s, life_s=100.0, expected=2)
        keys = [{name: getattr(one, name) for name in one.__struct_fields__} for one in states]
        return {"node": "a", "members": [*self.kids], "hears_others": True, "keys": keys}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Members:
    return Members(monkeypatch)


def variables(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for line in text.splitlines() for part in shlex.split(line))


def test_a_rotation_by_the_commands_alone(cluster: Members) -> None:
    staged = variables(run("keys", "stage").stdout)
    new = staged["HA_SESSION_SECRET_KEY_FALLBACKS"]
    assert staged["HA_SESSION_SECRET_KEY"] == SECRET
    [kid] = KeyRing([new.encode()]).kids

    early = run("keys", "promote", kid, secret_key_fallbacks=new)
    assert (early.exit_code, early.stdout, "no member announces" in early.stderr) == (1, "", True)
    cluster.kids["a"] = (OLD, kid)
    early = run("keys", "promote", kid, secret_key_fallbacks=new)
    assert (early.exit_code, early.stdout, "not announced by b" in early.stderr) == (1, "", True)
    assert run("keys", "list").exit_code == 1
    assert "a rotation is under way" in run("keys", "stage").stderr
    cluster.kids["b"] = (OLD, kid)
    promoted = variables(run("keys", "promote", kid, secret_key_fallbacks=new).stdout)
    assert promoted == {"HA_SESSION_SECRET_KEY": new, "HA_SESSION_SECRET_KEY_FALLBACKS": SECRET}

    after: dict[str, Any] = {"secret_key": new, "secret_key_fallbacks": SECRET}
    cluster.now_s = 10.0
    assert "signs at a, b" in run("keys", "retire", OLD, **after).stderr
    cluster.kids = {"a": (kid, OLD), "b": (kid, OLD)}
    assert "may live for 100 s more" in run("keys", "retire", OLD, **after).stderr
    cluster.now_s = 110.0
    retired = run("keys", "retire", OLD, **after)
    assert variables(retired.stdout) == {"HA_SESSION_SECRET_KEY": new, "HA_SESSION_SECRET_KEY_FALLBACKS": ""}
    shown = run("keys", "list", **after)
    assert (shown.exit_code, new in shown.output, kid in shown.output) == (0, False, True)


@pytest.mark.parametrize("command", ["promote", "retire"])
def test_a_key_id_that_begins_with_a_hyphen_is_no_option(cluster: Members, command: str) -> None:
    answer = run("keys", command, "-oXb7_4-")
    assert "-oXb7_4-" in answer.stderr
    assert "no such option" not in answer.stderr.lower()


def test_keys_in_files_are_shown_as_the_lines_of_the_files(cluster: Members, tmp_path: Path) -> None:
    file, others = tmp_path / "key", tmp_path / "others"
    file.write_text(SECRET)
    others.write_text(OTHER)
    cluster.kids = {"a": (OLD, NEW), "b": (OLD, NEW)}
    found = run("keys", "promote", NEW, secret_key=None, secret_key_file=file, secret_key_fallbacks_file=others)
    assert found.stdout.splitlines()[1::2] == [OTHER, SECRET]
    assert str(file) in found.stdout.splitlines()[0]
    found = run("keys", "promote", NEW, "-o", "json", secret_key=None, secret_key_file=file, secret_key_fallbacks_file=others)
    assert json.loads(found.stdout) == {
        "HA_SESSION_SECRET_KEY_FILE": {"path": str(file), "lines": [OTHER]},
        "HA_SESSION_SECRET_KEY_FALLBACKS_FILE": {"path": str(others), "lines": [SECRET]},
    }


def test_the_variables_are_json_for_programs(cluster: Members) -> None:
    staged = json.loads(run("keys", "stage", "-o", "json").stdout)
    assert staged.keys() == {"HA_SESSION_SECRET_KEY", "HA_SESSION_SECRET_KEY_FALLBACKS"}
    assert staged["HA_SESSION_SECRET_KEY"] == SECRET
    cluster.kids = {"a": (OLD, NEW), "b": (OLD, NEW)}
    promoted = json.loads(run("keys", "promote", NEW, "-ojson", secret_key_fallbacks=OTHER).stdout)
    assert promoted == {"HA_SESSION_SECRET_KEY": OTHER, "HA_SESSION_SECRET_KEY_FALLBACKS": SECRET}


@pytest.mark.usefixtures("cluster")
def test_what_the_environment_does_not_hold_is_a_wrong_use() -> None:
    for step in ("promote", "retire"):
        found = run("keys", step, "nonsense")
        assert (found.exit_code, "nonsense is not one of" in found.stderr) == (2, True)


def test_a_key_that_the_variable_cannot_hold_is_not_printed(cluster: Members) -> None:
    odd = "a,comma,in,a,key,7Qv2Xk9Lm4Rt8Wp3Zs"
    [kid] = KeyRing([odd.encode()]).kids
    cluster.kids = {"a": (kid, NEW), "b": (kid, NEW)}
    found = run("keys", "promote", NEW, secret_key=odd, secret_key_fallbacks=OTHER)
    assert (found.exit_code, "SECRET_KEY_FALLBACKS_FILE" in found.stderr, odd in found.output) == (1, True, False)


# Members


def steps(phases: dict[str, str | None], *, coming: tuple[str, ...] = (), lists: dict[str, str] | None = None) -> list[str]:
    settings = Settings(secret_key=SECRET, cluster="peers://", peers=(A, B), peers_next=coming, advertise_url=A)
    rows = [{"url": url, "phase": phase, "current": (lists or {}).get(url, "x"), "failure": None} for url, phase in phases.items()]
    return [*next_steps(settings, rows)]


@pytest.mark.parametrize(
    ("phases", "coming", "expected"),
    [
        ({A: "steady", B: "steady"}, (), []),
        ({A: "steady", B: None}, (), ["start http://b.test"]),
        ({A: "joint", B: "steady"}, (A, B, C), [f"give HA_SESSION_PEERS and HA_SESSION_PEERS_NEXT to {B}, restart"]),
        ({A: "steady", C: "waiting"}, (A, B, C), [f"give HA_SESSION_PEERS and HA_SESSION_PEERS_NEXT to {A}, {C}"]),
        ({A: "joint", B: "joint"}, (A, B, C), ["all nodes that answer have both lists"]),
        ({A: "sealed", B: "joint"}, (A, C), ["all nodes that answer have both", "the old list is being given up"]),
        (
            {A: "moved", B: "moved", C: "moved"},
            (A, C),
            [f"take {B} out of the", f"unset HA_SESSION_PEERS_NEXT at {A}, {C}"],
        ),
        ({A: "moved", C: "steady"}, (A, C), [f"unset HA_SESSION_PEERS_NEXT at {A}, restart"]),
        ({A: "steady", B: "retired"}, (), [f"give the list of the others to {B}"]),
    ],
)
def test_each_phase_has_its_next_step(phases: dict[str, str | None], coming: tuple[str, ...], expected: list[str]) -> None:
    found = steps(phases, coming=coming)
    assert len(found) == len(expected)
    for step, part in zip(found, expected, strict=True):
        assert part in step


def test_two_lists_that_stand_are_never_taken_for_one() -> None:
    [step] = steps({A: "steady", B: "steady"}, lists={A: "x", B: "y"})
    assert "each stands" in step


def test_nodes_that_are_silent_are_shown_and_a_finding() -> None:
    found = run("members", "-o", "json", "--node", "http://127.0.0.1:1")
    assert found.exit_code == 1
    [row] = json.loads(found.stdout)["members"]
    assert (row["state"], "cannot be reached" in row["failure"]) == ("silent", True)
