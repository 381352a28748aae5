"""The checks of ``ha-session doctor``. Each returns findings, and none starts or changes anything."""

from __future__ import annotations
