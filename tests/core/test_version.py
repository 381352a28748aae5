"""The versions of this release, and those of the last one: the two can serve side by side, and follow each other on the same data."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from ha_session_mw import version
from ha_session_mw.version import PROTOCOL, Stored, Versions

from ..cluster.releases import FIRST, git, last_release


def stored() -> dict[str, Stored]:
    return {name: value for name, value in vars(version).items() if isinstance(value, Stored)}


@pytest.fixture(scope="module")
def last() -> dict[str, Any]:
    """The versions of the last release, by their names."""
    try:
        text = git("show", f"{last_release()}:ha_session_mw/version.py")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this copy of the repository has no history")
    found: dict[str, Any] = {}
    exec(compile(text, "version.py", "exec"), found)
    return found


def test_a_release_reads_what_it_writes() -> None:
    for name, form in stored().items():
        assert form.writes in form.reads, name


def test_this_release_and_the_last_one_have_a_version_of_the_protocol_in_common(last: dict[str, Any]) -> None:
    its = last.get("PROTOCOL", FIRST.reads)
    assert PROTOCOL.common(Versions(its.lowest, its.highest)) is not None


def test_this_release_writes_what_the_last_one_reads_and_reads_what_that_one_writes(last: dict[str, Any]) -> None:
    for name, form in stored().items():
        its = last.get(name, FIRST)
        assert its.reads.lowest <= form.writes <= its.reads.highest, name
        assert its.writes in form.reads, name


def test_a_range_says_itself_in_words() -> None:
    assert [str(Versions(1, 1)), str(Versions(2, 3))] == ["version 1", "versions 2 to 3"]
