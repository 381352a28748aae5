"""The ports of the demo's and the tests' servers: no other process gets one while its server is down."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from example_app.ports import LOOPBACK, reserve_port
from example_app.processes import running
from example_app.servers import Server, new_secret

IP_LOCAL_PORT_RANGE = 51
"""A socket option of Linux 6.3: from which ports the system may choose one for this socket. Python has no name for it."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a bound port for the servers of one process")


def confined(port: int) -> socket.socket:
    """A socket for which the system may choose this port and no other."""
    made = socket.socket()
    try:
        made.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("I", port | port << 16))
    except OSError:
        made.close()
        pytest.skip("needs Linux 6.3 or later")
    return made


@pytest.fixture
def port() -> int:
    return reserve_port()


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, int]]:
    """The address of a server that has nothing to do with the port."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        yield listening.getsockname()


def given_to(port: int, elsewhere: tuple[str, int]) -> set[str]:
    """Return which sockets get this port when they ask for any: servers on loopback or all addresses, or clients."""
    found = set()
    for address in (LOOPBACK, ""):
        with closing(confined(port)) as server, suppress(OSError):
            server.bind((address, 0))
            found.add("server")
    with closing(confined(port)) as client, suppress(OSError):
        client.connect(elsewhere)
        found.add("client")
    return found


def test_a_port_that_was_free_a_moment_ago_may_be_given_to_any_process(elsewhere: tuple[str, int]) -> None:
    with socket.create_server((LOOPBACK, 0)) as before:
        freed: int = before.getsockname()[1]
    assert given_to(freed, elsewhere) == {"server", "client"}


def test_a_reserved_port_is_given_to_no_other_process(port: int, elsewhere: tuple[str, int]) -> None:
    assert given_to(port, elsewhere) == set()


def test_a_port_is_reserved_once(port: int) -> None:
    assert len({port, *(reserve_port() for _ in range(50))}) == 51


def test_connections_to_a_reserved_port_are_refused_while_no_server_listens(port: int) -> None:
    with pytest.raises(ConnectionRefusedError), socket.create_connection((LOOPBACK, port)):
        pass  # pragma: no cover


def test_a_program_that_names_the_port_and_shares_no_addresses_is_refused(port: int) -> None:
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((LOOPBACK, port))


@pytest.mark.real
def test_a_server_is_killed_and_its_port_is_kept_for_its_next_start(tmp_path: Path, elsewhere: tuple[str, int]) -> None:
    server = Server("a", tmp_path, {"SECRET_KEY": new_secret()})
    with running(server):
        server.kill()
        assert given_to(server.port, elsewhere) == set()
        server.start()
        server.wait_until_ready()
