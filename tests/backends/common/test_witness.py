"""The note of the newest position in a file: written seldom, and at once where another file begins."""

from __future__ import annotations

from pathlib import Path

from ha_session_mw.backends.common.witness import NOTE_EVERY_S, Witness
from ha_session_mw.testing import ManualClock


def later(path: Path, clock: ManualClock) -> Witness:
    """The witness of a process that starts now."""
    return Witness(path, clock, 1000)


def test_a_position_is_noted_every_few_seconds_and_at_the_end(tmp_path: Path) -> None:
    path, clock = tmp_path / "log", ManualClock()
    witness = later(path, clock)
    witness.note("a", 1)
    witness.note("a", 2)
    assert not later(path, clock).is_older("a", 1)
    clock.advance(NOTE_EVERY_S)
    witness.note("a", 3)
    assert later(path, clock).is_older("a", 2)
    witness.note("a", 4, now=True)
    assert later(path, clock).is_older("a", 3)


def test_another_file_is_noted_at_once(tmp_path: Path) -> None:
    """Else a node that learned anew, and was killed a moment later, would find a file that it does not know."""
    path, clock = tmp_path / "log", ManualClock()
    witness = later(path, clock)
    witness.note("a", 9)
    witness.note("b", 1)
    assert not later(path, clock).is_older("b", 1)
    assert later(path, clock).is_older("a", 9)


def test_a_folder_that_cannot_be_written_costs_the_witness_alone(tmp_path: Path) -> None:
    clock = ManualClock()
    witness = later(tmp_path / "missing" / "log", clock)
    witness.note("a", 1)
    assert not later(tmp_path / "missing" / "log", clock).is_older("b", 0)
