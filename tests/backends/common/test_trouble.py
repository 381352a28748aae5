"""Operators read of a trouble once when it begins or changes, and once when it ends."""

from __future__ import annotations

import logging

import pytest

from ha_session_mw.backends.common.trouble import Troubles

logger = logging.getLogger("ha_session_mw.tests")


def test_a_trouble_is_reported_once_and_again_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles(logger)
    told = [troubles.begin("disk", why, "the disk is %s", why) for why in ("full", "full", "gone", "gone")]
    assert told == [True, False, True, False]
    assert [record.getMessage() for record in caplog.records] == ["the disk is full", "the disk is gone"]
    assert troubles.current == {"disk": "gone"}


def test_a_recovery_is_reported_once_and_only_after_trouble(caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles(logger)
    caplog.set_level(logging.INFO)
    assert not troubles.end("disk", "the disk is well")
    troubles.begin("disk", "full", "the disk is full", level=logging.ERROR)
    assert troubles.end("disk", "the disk is well")
    assert not troubles.end("disk", "the disk is well")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "the disk is full"),
        ("INFO", "the disk is well"),
    ]


def test_each_trouble_is_reported_separately(caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles(logger)
    caplog.set_level(logging.WARNING, logger.name)
    for name in ("a", "b"):
        troubles.begin(name, "silent", "%s is silent", name)
    troubles.end("a", "a answers")
    assert troubles.current == {"b": "silent"}
    assert len(caplog.records) == 2
