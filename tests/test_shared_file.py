"""The file that the processes of one machine share, while several of them are about to make it."""

from __future__ import annotations

import contextlib
import gc
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ha_session_mw import shared_file
from ha_session_mw.entry_file import EntryFile
from ha_session_mw.lock_file import LockFile
from ha_session_mw.record_file import RecordFile
from ha_session_mw.self_closing import SelfClosing
from ha_session_mw.shared_file import FileTrouble, SharedFile
from ha_session_mw.state_file import StateFile

KINDS: list[Callable[[Path], SharedFile]] = [EntryFile, RecordFile, lambda path: LockFile(path, time.monotonic)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", range(6))
def test_a_process_that_looks_while_another_makes_the_file_never_takes_it_for_another_programs(
    kind: Callable[[Path], SharedFile], steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shared.db"
    left = steps

    class Slow(SelfClosing):
        """The first one's. Another process makes the file before one of its statements."""

        def execute(self, *args: Any) -> sqlite3.Cursor:
            nonlocal left
            left -= 1
            if left == -1:
                monkeypatch.undo()
                with contextlib.suppress(FileTrouble):  # that the file is locked just now
                    kind(path).open()
            return super().execute(*args)

    monkeypatch.setattr(shared_file, "SelfClosing", Slow)
    first = kind(path)
    first.open(within_s=5)
    assert left < 0
    kind(path).open()
    first.close()


def test_who_lets_go_of_a_file_without_a_word_leaves_nothing_open(tmp_path: Path) -> None:
    file = EntryFile(tmp_path / "shared.db")
    file.append([(1, 1, b"")])
    ring: list[object] = [file]
    ring.append(ring)
    assert len([*tmp_path.iterdir()]) > 1

    del file, ring
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == ["shared.db"]


def test_a_file_that_was_never_open_is_let_go_in_silence(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.Error):
        StateFile(tmp_path).load()
    gc.collect()
