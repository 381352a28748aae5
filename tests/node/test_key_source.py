"""Keys in files: they rotate without a restart, and no half-written file takes a good key away."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from ha_session_mw import ConfigurationError, SessionManager, Settings
from ha_session_mw._core.token.keys import SigningKey
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw._node.key_source import LOOK_EVERY_S, KeySource
from ha_session_mw.manager import node_of
from ha_session_mw.testing import ManualClock

OLD = "2JxQ8vZ6nT4wLmYp0RkHcVbNsDfGqXeA"
NEW = "7hTz3-KqWm9_xPvB1nYcRd5LsGjF8uEo"
KID = {name: SigningKey(secret.encode()).kid for name, secret in (("old", OLD), ("new", NEW))}


class Operator:
    """Writes the key files, with a text editor, by renaming, or badly."""

    def __init__(self, folder: Path) -> None:
        self.keys, self.fallbacks = folder / "keys", folder / "fallbacks"
        self.write(OLD)
        self.write_fallbacks("")

    def write(self, *secrets: str) -> None:
        self.keys.write_text("\n".join(secrets))

    def write_fallbacks(self, *secrets: str) -> None:
        self.fallbacks.write_text("\n".join(secrets))

    def settings(self) -> Settings:
        return Settings(secret_key_file=self.keys, secret_key_fallbacks_file=self.fallbacks)


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


class Node:
    """Looks at its files whenever it is time to."""

    def __init__(self, operator: Operator) -> None:
        self.now_s = 100.0
        self.source = KeySource(operator.settings(), self.now_s)

    def look(self) -> bool:
        self.now_s += LOOK_EVERY_S
        return self.source.refresh(self.now_s)

    @property
    def kids(self) -> tuple[str, ...]:
        return self.source.ring.kids


@pytest.fixture
def node(operator: Operator) -> Node:
    return Node(operator)


def test_a_file_that_stays_changes_nothing(node: Node) -> None:
    ring = node.source.ring

    assert [node.look() for _ in range(3)] == [False] * 3
    assert node.source.ring is ring


def test_a_key_rotates_without_a_restart(operator: Operator, node: Node) -> None:
    operator.write(NEW, OLD)

    assert node.look()
    assert node.kids == (KID["new"], KID["old"])
    assert not node.look()


def test_a_key_is_verify_only_first_and_signs_later(operator: Operator, node: Node) -> None:
    operator.write_fallbacks(NEW)
    assert node.look()
    assert node.source.ring.signing_key().kid == KID["old"]
    assert node.source.ring.get(KID["new"].encode()) is not None

    operator.write(NEW)
    operator.write_fallbacks(OLD)
    assert node.look()
    assert node.source.ring.signing_key().kid == KID["new"]
    assert node.source.ring.get(KID["old"].encode()) is not None

    operator.write_fallbacks("")
    assert node.look()
    assert node.kids == (KID["new"],)


@pytest.mark.parametrize("content", ["", "\n", NEW[:20], "\x00" * 40, "changeme-changeme-changeme-changeme"])
def test_a_file_half_written_or_emptied_keeps_the_keys_and_logs_why(
    operator: Operator, node: Node, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    operator.write(content)

    assert not node.look()
    assert node.kids == (KID["old"],)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "HA_SESSION_SECRET_KEY" in record.getMessage()

    operator.write(NEW)
    assert node.look()
    assert node.kids == (KID["new"],)


def test_a_file_that_vanishes_keeps_the_keys_and_logs_why(operator: Operator, node: Node, caplog: pytest.LogCaptureFixture) -> None:
    operator.keys.unlink()

    assert not node.look()
    assert node.kids == (KID["old"],)
    assert "cannot be read: No such file or directory" in caplog.text

    operator.write(NEW)
    assert node.look()


def test_a_fallback_file_that_vanishes_keeps_the_keys_too(operator: Operator, caplog: pytest.LogCaptureFixture) -> None:
    operator.write_fallbacks(NEW)
    node = Node(operator)
    operator.fallbacks.unlink()

    assert not node.look()
    assert node.kids == (KID["old"], KID["new"])
    assert len(caplog.records) == 1


def test_a_good_file_is_not_taken_while_the_other_is_bad(operator: Operator, node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """Half of a rotation is none: the old key may still be on its way into the fallbacks."""
    operator.write(NEW)
    operator.write_fallbacks(OLD[:9])

    assert not node.look()
    assert node.kids == (KID["old"],)
    assert len(caplog.records) == 1


def test_no_log_line_shows_a_secret(operator: Operator, node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    operator.write(NEW, OLD)
    node.look()
    operator.write("hunter2", NEW)
    node.look()

    assert len(caplog.records) == 2
    assert not [secret for secret in (NEW, OLD, "hunter2") if secret in caplog.text]


def test_files_are_looked_at_no_more_than_once_a_second(operator: Operator) -> None:
    source = KeySource(operator.settings(), 100.0)
    operator.write(NEW)

    assert [source.refresh(100.0 + part * LOOK_EVERY_S) for part in (0, 0.5, 0.999)] == [False] * 3
    assert source.refresh(100.0 + LOOK_EVERY_S)
    operator.write(OLD)
    assert not source.refresh(100.0 + 1.999 * LOOK_EVERY_S)
    assert source.refresh(100.0 + 2 * LOOK_EVERY_S)


def test_a_file_swapped_by_renaming_is_seen_though_its_time_and_size_stayed(operator: Operator, node: Node) -> None:
    """So Kubernetes swaps a secret; a backup tool that restores times does as well."""
    found = operator.keys.stat()
    other = operator.keys.with_name("other")
    other.write_text(NEW)
    assert other.stat().st_size == found.st_size
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(operator.keys)

    assert node.look()
    assert node.kids == (KID["new"],)


def test_a_link_that_turns_to_another_folder_is_seen(tmp_path: Path) -> None:
    """``..data`` of a mounted secret is such a link."""
    for version, secret in (("v1", OLD), ("v2", NEW)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys").write_text(secret)
    link = tmp_path / "data"
    link.symlink_to("v1")
    source = KeySource(Settings(secret_key_file=link / "keys"), 0.0)

    link.unlink()
    link.symlink_to("v2")

    assert source.refresh(LOOK_EVERY_S)
    assert source.ring.kids == (KID["new"],)


def test_the_same_keys_written_anew_are_no_change(operator: Operator, node: Node) -> None:
    ring = node.source.ring
    operator.write("", OLD, "", OLD)

    assert not node.look()
    assert node.source.ring is ring


def test_keys_that_are_in_no_file_are_never_looked_for() -> None:
    source = KeySource(Settings(secret_key=OLD), 0.0)

    assert not source.refresh(1e9)


def test_a_bad_file_at_the_start_stops_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        Settings(secret_key_file=tmp_path / "none")


# Through the manager


def test_a_token_of_a_key_that_was_taken_away_is_refused_though_it_was_cached(operator: Operator, clock: ManualClock) -> None:
    manager = SessionManager(operator.settings(), clock=clock)
    token = node_of(manager).sign(node_of(manager).issuer.issue("ada"))
    assert isinstance(node_of(manager).validator.validate(token), Verified)

    operator.write(NEW)
    clock.advance(LOOK_EVERY_S)
    node_of(manager).refresh()

    assert node_of(manager).validator.verify(token) is None
    assert isinstance(node_of(manager).validator.validate(node_of(manager).sign(node_of(manager).issuer.issue("ada"))), Verified)


def test_a_rotation_that_keeps_the_old_key_logs_no_user_out(operator: Operator, clock: ManualClock) -> None:
    manager = SessionManager(operator.settings(), clock=clock)
    token = node_of(manager).sign(node_of(manager).issuer.issue("ada"))

    operator.write(NEW)
    operator.write_fallbacks(OLD)
    clock.advance(LOOK_EVERY_S)
    node_of(manager).refresh()

    assert isinstance(node_of(manager).validator.validate(token), Verified)
    assert node_of(manager).sign(node_of(manager).issuer.issue("ada")).split(b".")[2] == KID["new"].encode()
