"""The file that the processes of one machine share, while several of them are about to make it."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ha_session_mw.entry_file import EntryFile
from ha_session_mw.lock_file import LockFile
from ha_session_mw.record_file import RecordFile
from ha_session_mw.shared_file import FileTrouble, SharedFile

KINDS: list[Callable[[Path], SharedFile]] = [EntryFile, RecordFile, lambda path: LockFile(path, time.monotonic)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", range(6))
def test_a_process_that_looks_while_another_makes_the_file_never_takes_it_for_another_programs(
    kind: Callable[[Path], SharedFile], steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shared.db"
    connect = sqlite3.connect
    left = steps

    class Slow(sqlite3.Connection):
        """The first one's. Another process makes the file before one of its statements."""

        def execute(self, *args: Any) -> sqlite3.Cursor:
            nonlocal left
            left -= 1
            if left == -1:
                monkeypatch.setattr(sqlite3, "connect", connect)
                with contextlib.suppress(FileTrouble):  # that the file is locked just now
                    kind(path).open()
            return super().execute(*args)

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Slow, **options))
    first = kind(path)
    first.open(within_s=5)
    assert left < 0
    kind(path).open()
    first.close()
