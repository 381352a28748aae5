"""Loopback ports that stay reserved, so that a server can be started on one again and again."""

from __future__ import annotations

import socket
import sys

LOOPBACK = "127.0.0.1"


def reserve_port() -> int:
    """Return a loopback port on which this process may start servers until it ends.

    A port that was free a moment ago may be another program's by now, or the local end of an outgoing connection. This
    port stays bound by a socket that never listens. Linux then gives it to nobody, and lets a server bind it explicitly with
    ``SO_REUSEADDR``, which uvicorn and etcd set. Connections are refused while no server listens.

    Other systems would refuse the server, too. There the port is merely one that was free.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((LOOPBACK, 0))
    port: int = holder.getsockname()[1]
    if sys.platform == "linux":
        holder.detach()  # stays open until the process ends, and is not inherited by its children
    else:
        holder.close()
    return port


def url_of(port: int) -> str:
    """Return the URL of a server on a loopback port."""
    return f"http://{LOOPBACK}:{port}"
