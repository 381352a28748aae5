"""``memory://``: everything in one process."""

from __future__ import annotations

from .locks import MemoryLocks
from .log import MemoryBackend, MemoryRecords, MemoryStore

__all__ = ["MemoryBackend", "MemoryLocks", "MemoryRecords", "MemoryStore"]
