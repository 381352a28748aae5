"""An app without sessions, on a server of its own: what a process notices of the load of its neighbours alone."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ..waiting import end
from .cluster import MAX_WAIT_S, Client


async def account(_: Request) -> Response:
    return PlainTextResponse("alice")


@contextmanager
def running() -> Iterator[int]:
    """The server, ready; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        process = subprocess.Popen([sys.executable, "-m", __name__, str(listener.fileno())], pass_fds=[listener.fileno()])
        try:
            with closing(Client(port)) as client:
                client.expect("GET", "/account", b"alice")
            yield port
        finally:
            end(process, MAX_WAIT_S)


def serve(fileno: int) -> None:
    """Serve on a socket that listens already, until the process is ended."""
    app = Starlette(routes=[Route("/account", account)])
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=fileno) as listener:
        config = uvicorn.Config(app, access_log=False, log_level="critical", timeout_graceful_shutdown=1, timeout_keep_alive=60)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(int(sys.argv[1]))
