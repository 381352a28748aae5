"""Write structured fields (RFC 9651): which node answered, from which node a session came, and whether its data is lost."""

from __future__ import annotations

import re
from typing import Literal

from .request_fields import Header

TransferReason = Literal["drain", "failover", "rebalance"]
"""Why a session moved: its node drains, is gone, or goes on, and the balancer chose another one."""

NODE_HEADER = b"session-node"
TRANSFER_HEADER = b"session-transfer"
LOST_HEADER = b"session-data-lost"
LOST_FIELD: Header = (LOST_HEADER, b"?1")
"""``Session-Data-Lost``: an item, which is a boolean."""

_NOT_PRINTABLE = re.compile(r"[^ -~]")


def node_field(node: str) -> Header:
    """Return ``Session-Node``: an item, which is a string."""
    return NODE_HEADER, _string(node).encode()


def transfer_field(issuer: str, node: str, reason: TransferReason | None) -> Header:
    """Return ``Session-Transfer``: a dictionary with ``from`` and ``to``, and with ``reason`` if that is known."""
    value = f"from={_string(issuer)}, to={_string(node)}"
    return TRANSFER_HEADER, (value if reason is None else f"{value}, reason={reason}").encode()


def _string(text: str) -> str:
    # RFC 9651 section 4.1.6. A name of this release has letters, digits, dots and dashes only; one of another package may have others.
    return '"' + _NOT_PRINTABLE.sub("?", text).replace("\\", "\\\\").replace('"', '\\"') + '"'
