"""Connections to SQLite files of those who may be let go without a word: a manager that was made and never run, say."""

from __future__ import annotations

import sqlite3
from contextlib import suppress


class SelfClosing(sqlite3.Connection):
    """Closes itself when nobody has it any more. All did before Python 3.13, which warns of that instead."""

    def __del__(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # that it was never open, for there is no such file
            self.close()
