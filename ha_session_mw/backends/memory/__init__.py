"""``memory://``: everything in one process."""

from __future__ import annotations

from .backend import MemoryBackend
from .locks import MemoryLocks
from .store import MemoryRecords, MemoryStore

__all__ = ["MemoryBackend", "MemoryLocks", "MemoryRecords", "MemoryStore"]
