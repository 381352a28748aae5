"""The command line, and the functions behind it. The command ``ha-session`` needs the extra ``cli``, and the functions need nothing."""

from __future__ import annotations

from .balancers import KINDS, Kind, lb_config

__all__ = ["KINDS", "Kind", "lb_config"]
