"""The commands that ask running nodes, against real servers of ``peers://``."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import Result

from example_app.no_tls import NO_TLS
from ha_session_mw import SessionManager, SessionMiddleware, Settings
from ha_session_mw.cli.commands import COMMANDS
from ha_session_mw.cli.operating import row_of, with_unheard
from ha_session_mw.cli.tables import known_age, number, seconds
from ha_session_mw.testing import SECRET, mint_session, who_is_there

from ..operators import listeners, run, served
from ..waiting import until

pytestmark = pytest.mark.real


FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


class Nodes:
    """Three nodes, and another one that is alone and records log-ins; and the environment of an operator."""

    def __init__(self, urls: list[str], managers: list[SessionManager], alone: str) -> None:
        self.urls = urls
        self.alone = alone
        self.managers = managers
        self.settings = {"cluster": "peers://", "peers": ",".join(urls), "advertise_url": urls[0]}

    def run(self, *arguments: str, **settings: Any) -> Result:
        return run(*arguments, **{**self.settings, **settings})

    def subjects(self, token: str) -> list[Any]:
        headers = {"authorization": f"Bearer {token}"}
        return [httpx2.get(url, headers=headers, trust_env=False, verify=NO_TLS).json()["subject"] for url in self.urls]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    found = listeners(4)
    *urls, alone = [url for url, _ in found]
    managers = [
        SessionManager(Settings(secret_key=SECRET, cluster="peers://", peers=urls, advertise_url=url, node_id=name, heartbeat="200ms"))
        for name, url in zip("abc", urls, strict=True)
    ]
    managers.append(SessionManager(Settings(secret_key=SECRET, track="on")))
    apps = {bound: SessionMiddleware(who_is_there, manager=manager) for (_, bound), manager in zip(found, managers, strict=True)}
    with served(apps):
        until(lambda: all(manager.why_not_ready() is None for manager in managers), "ready")
        yield Nodes(urls, managers, alone)
    for _, bound in found:
        bound.close()


def test_the_status_shows_each_member(nodes: Nodes) -> None:
    found = nodes.run("status")
    assert found.exit_code == 0, found.output
    head, *rows = found.output.splitlines()
    assert head.split()[:4] == ["MEMBER", "STATE", "FRESH", "LAG"]
    assert [row.split()[:2] for row in rows[:3]] == [["a", "ready"], ["b", "ready"], ["c", "ready"]]
    told = json.loads(nodes.run("status", "-o", "json").stdout)
    assert told["asked"] == nodes.urls[0]
    assert all(row["status"]["freshness_age_s"] < 5 and row["answers"] for row in told["members"])


def test_the_status_tells_the_measured_lag_and_the_rate_of_refusals(nodes: Nodes) -> None:
    token = mint_session(nodes.managers[0], "bea")
    assert nodes.run("revoke", "--subject", "bea").exit_code == 0
    assert nodes.subjects(token) == [None] * 3
    rows = json.loads(nodes.run("status", "-o", "json").stdout)["members"]
    assert all(row["status"]["sync_lag"]["count"] >= 1 for row in rows[1:])
    assert all(row["status"]["errors"]["session_revoked"]["per_minute"]["1m"] >= 1 for row in rows)
    shown = nodes.run("status").output
    assert re.search(r"≤ \d+ ms|> 1 min", shown)
    assert re.search(r"refused: session_revoked \d+ \([\d.]+ a minute\)", shown)


def test_the_status_is_shown_again_and_again_until_ctrl_c(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []

    def pause(seconds: float) -> None:
        paused.append(seconds)
        if len(paused) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("ha_session_mw.cli.operating.time.sleep", pause)
    found = nodes.run("status", "--watch", "--every", "0.5")
    assert (found.exit_code, found.output.count("MEMBER"), paused) == (0, 3, [0.5] * 3)


def test_the_status_names_what_is_wrong(nodes: Nodes) -> None:
    with closing(listeners(1)[0][1]) as nobody:
        silent = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    found = nodes.run("status", "--node", silent)
    assert (found.exit_code, found.stdout) == (1, "")
    assert f"{silent} cannot be reached" in found.stderr
    assert nodes.run("status", "--node", silent, "--node", nodes.urls[1]).exit_code == 0
    stranger = nodes.run("status", secret_key=SECRET[::-1])
    assert "knows none of our keys" in stranger.stderr
    stranger = nodes.run("members", secret_key=SECRET[::-1])
    assert ("one HA_SESSION_SECRET_KEY" in stranger.output, "start" in stranger.output) == (True, False)


def test_a_member_of_the_list_that_nobody_hears_is_a_finding(nodes: Nodes) -> None:
    found = nodes.run("status", peers=",".join([*nodes.urls, "http://127.0.0.1:1"]))
    assert found.exit_code == 1
    [row] = [line for line in found.output.splitlines() if "not heard" in line]
    assert row.endswith("http://127.0.0.1:1")


def test_a_member_of_the_list_that_has_just_left_has_one_row() -> None:
    seen = [
        ("a", "http://a.test", "ready"),
        ("b", "http://b.test", "gone"),
        ("c", "http://c.test", "gone"),
        ("c", "http://c.test", "ready"),
    ]
    rows = [{"member": member, "url": url, "state": state} for member, url, state in seen]
    found = with_unheard(rows, ["http://a.test", "http://b.test", "http://c.test", "http://d.test"])
    assert [row["state"] for row in found] == ["ready", "not heard", "gone", "ready", "not heard"]
    assert [row["url"] for row in found[-1:]] == ["http://d.test"]


def test_a_member_gets_no_answer_of_the_process_that_was_started_in_its_place() -> None:
    before = {"member": "a-0a568a13", "url": "http://a.test", "state": "ready"}
    answer = {"node": "a-77aa01f2", "ready": False}
    assert (row_of(before, answer)["state"], row_of(before, answer)["status"]) == ("ready", None)
    assert (row_of({**before, "member": "a-77aa01f2"}, answer)["state"]) == "not ready"


def test_a_flood_has_no_exponent() -> None:
    assert [number(value) for value in (0.0, 1.234, 99.96, 3360.4, 1_234_567.0)] == ["0", "1.23", "100", "3360", "1234567"]
    assert seconds(1500 * 86400) == "1500 d"


def test_a_node_that_has_learned_nothing_has_no_age() -> None:
    assert known_age({"freshness_age_s": math.inf}) is known_age({"freshness_age_s": None}) is None
    assert known_age({"freshness_age_s": 0.5}) == 0.5


@pytest.mark.parametrize("by", ["session", "subject", "everybody"])
def test_a_log_out_by_a_script_is_in_force_on_every_node_when_it_returns(nodes: Nodes, by: str) -> None:
    token = mint_session(nodes.managers[0], "ada")
    assert nodes.subjects(token) == ["ada"] * 3
    what = {"session": [token.split(".")[1]], "subject": ["--subject", "ada"], "everybody": ["--everybody"]}
    done = nodes.run("revoke", *what[by], "--node", nodes.urls[1])
    assert (done.exit_code, done.output.partition(":")[0]) == (0, "fenced")
    assert nodes.subjects(token) == [None] * 3


def test_the_acknowledgement_is_there_for_programs(nodes: Nodes) -> None:
    done = json.loads(nodes.run("revoke", "--subject", "ada", "-o", "json").stdout)
    assert (done["mode"], done["node"]) == ("fenced", nodes.urls[0])


def test_what_the_nodes_cannot_do_is_said_in_their_words(nodes: Nodes) -> None:
    found = nodes.run("sessions", "ada")
    assert found.exit_code == 1
    assert "HA_SESSION_TRACK=on" in found.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "revoke",
        "revoke x --everybody",
        "revoke --subject ada --everybody",
        "nonsense",
        "status --node x",
        "status --watch --every -1",
        "status --watch --every nan",
        "doctor --check-every 0",
        "doctor --fall 0",
        "doctor --grace inf",
    ],
)
def test_a_wrong_use_is_told_from_a_finding(arguments: str, nodes: Nodes) -> None:
    assert nodes.run(*arguments.split()).exit_code == 2


@pytest.mark.parametrize("other", ["ada", "hs1.AAECAwQFBgcICQoLDA0ODw.AAECAwQF.AAEC", "AAECAwQFBgcICQoLDA0OD", "AAECAwQFBgcICQoLDA0OD!"])
def test_what_is_the_id_of_no_session_is_not_logged_out(nodes: Nodes, other: str) -> None:
    """Else a misspelt id, a subject or a token would be answered as a log-out that is in force, and nobody would be logged out."""
    found = nodes.run("revoke", other)
    assert (found.exit_code, found.stdout, "--subject" in found.stderr, other in found.stderr) == (2, "", True, False)


def test_a_command_without_an_address_or_a_credential_says_which_one() -> None:
    found = run("status")
    assert (found.exit_code, "--node" in found.stderr) == (2, True)
    found = run("status", secret_key=None)
    assert (found.exit_code, "HA_SESSION_SECRET_KEY" in found.stderr) == (2, True)


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_reference_shows_what_the_commands_print(nodes: Nodes) -> None:
    text = PAGE.read_text("utf-8")
    shown = ("http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://10.0.0.3:8000", "http://127.0.0.1:8000")
    for example, url in zip(shown, [*nodes.urls, nodes.alone], strict=True):
        text = text.replace(example, url)
    httpx2.post(nodes.alone + "/login/ada", headers={"user-agent": FIREFOX}, trust_env=False, verify=NO_TLS)
    ran = set()
    for command, prints in re.findall(r"^\$ ha-session (.*)\n((?:(?!```|\$ ).*\n)*)", text, re.MULTILINE):
        arguments = shlex.split(command)
        if arguments[0] == "drain":
            continue  # below, because the node would be gone
        ran.add(arguments[0])
        if arguments[-2:] == ["<", "token.txt"]:
            arguments[-2:] = [mint_session(nodes.managers[0], "ada")]
        found = nodes.run(*arguments)
        pattern = re.escape(" ".join(prints.split())).replace("…", ".*").replace(r"\ ", r"\s+")
        pattern = pattern.replace(r".*\s+ms", r".*\s+m?s")  # of a busy machine
        assert re.fullmatch(pattern, " ".join(found.output.split()), re.DOTALL), f"{command}: {found.output}"
        assert found.exit_code == (arguments[0] == "doctor"), found.output
    assert ran >= COMMANDS.keys() - {"drain", "completion"}


def test_each_command_has_a_section_and_a_help_with_an_example() -> None:
    text = PAGE.read_text("utf-8")
    for name in COMMANDS:
        assert f"\n## {name}\n" in text or name == "completion"
        told = run(name, "--help")
        assert (told.exit_code, f"Example: ha-session {name}" in told.output) == (0, True), told.output


def test_the_help_names_each_command() -> None:
    told = run("--help").output
    assert [name for name in COMMANDS if f"\n  {name} " not in told] == []


@pytest.mark.parametrize("group", ["", "keys"])
def test_no_line_of_the_help_is_cut(group: str) -> None:
    _, _, commands = run(*group.split(), "--help").output.partition("Commands:")
    assert (commands.count("\n") > 5, "..." in commands) == (True, False)


def test_a_shell_gets_its_completion() -> None:
    assert "_HA_SESSION_COMPLETE=bash_complete" in run("completion", "bash").output
    assert run("completion", "nonsense").exit_code == 2
    found = run(environ={"_HA_SESSION_COMPLETE": "bash_complete", "COMP_WORDS": "ha-session re", "COMP_CWORD": "1"})
    assert found.output.strip() == "plain,revoke"


def test_a_node_is_drained_by_a_call(nodes: Nodes) -> None:
    assert nodes.run("drain", nodes.urls[2], "--wait").output == ""
    assert json.loads(nodes.run("drain", nodes.urls[2], "-o", "json").output) == {"draining": True, "node": nodes.urls[2]}
    assert "draining" in str(nodes.managers[2].why_not_ready())
    until(lambda: "draining" in nodes.run("status").output, "the others hear of it")
    assert nodes.run("status").exit_code == 1
