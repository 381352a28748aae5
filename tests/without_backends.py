"""A plugin for pytest: as if this package had been installed without any of its backends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class Missing:
    """Finds that they are not there."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.startswith("ha_session_mw.backends"):
            raise ModuleNotFoundError(f"{name} is left out", name=name)
        return None


sys.meta_path.insert(0, Missing())
