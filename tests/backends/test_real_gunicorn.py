"""Real gunicorn on every backend, with and without ``--preload``: workers are replaced, and no log-out is lost. All waits have a limit."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx2
import pytest

from example_app.no_tls import NO_TLS
from ha_session_mw._core.cluster.view import NO_SESSION
from ha_session_mw._core.quorum.messages import decode_batch
from ha_session_mw._machine.journal import JournalFile
from ha_session_mw.models import Deny
from ha_session_mw.testing import SECRET

from .. import warm
from ..engines import Etcd
from ..thinning import thinned
from ..waiting import LIMIT_S, end, until

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
APP = """
import os

from ha_session_mw import SessionMiddleware
from ha_session_mw.testing import who_is_there

inner = SessionMiddleware(who_is_there)


async def app(scope, receive, send):
    async def signed(message):
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-worker", b"%d" % os.getpid())]}
        await send(message)

    await inner(scope, receive, signed if scope["type"] == "http" else send)
"""


class Gunicorn:
    """One gunicorn, with a listening socket that outlives it.

    Args:
        listener: the socket. Requests wait in its queue while no server runs.
        folder: holds the app and the log.
        settings: of this node, without the prefix, from its next start on.
        options: more options on the command line.
    """

    def __init__(self, listener: socket.socket, folder: Path, settings: dict[str, str], *options: str) -> None:
        self.url = url_of(listener)
        self._listener = listener
        self._folder = folder
        self.settings = settings
        self._options = options
        self._log = folder / f"{listener.getsockname()[1]}.log"
        self._process: warm.Running | None = None

    def start(self) -> None:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")}
        ours = {f"HA_SESSION_{name}": value for name, value in self.settings.items()}
        environ = {**outside, **ours, "PYTHONPATH": os.pathsep.join([str(self._folder), str(ROOT)])}
        handle = self._listener.fileno()
        command = ["gunicorn", "preloaded:app", "--worker-class", "uvicorn_worker.UvicornWorker"]
        command += ["--bind", f"fd://{handle}", "--log-level", "warning", "--graceful-timeout", "5", "--no-control-socket", *self._options]
        with self._log.open("ab") as log:
            self._process = warm.start(*command, env=environ, stdout=log, pass_fds=[handle], start_new_session=True, cwd=self._folder)

    def stop(self) -> None:
        """End it in good order."""
        process, self._process = self._process, None
        if process is not None:
            end(process, LIMIT_S)

    def kill(self) -> None:
        """End it with all its workers."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):  # one that was refused has ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(LIMIT_S)

    @property
    def told(self) -> str:
        return self._log.read_text()

    def request(self, method: str, path: str, token: str | None = None) -> httpx2.Response:
        """Send one request over a connection of its own, so that any worker may get it."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        with httpx2.Client(verify=NO_TLS, trust_env=False, timeout=LIMIT_S) as client:  # certificates would take most of the time
            return client.request(method, self.url + path, headers=headers)

    def ready_worker(self) -> int | None:
        """The process id of the worker that answers; None where it is not ready."""
        try:
            answer = self.request("GET", "/-/session/readyz")
        except httpx2.TransportError:
            return None  # a worker that was killed had just taken it
        return int(answer.headers["x-worker"]) if answer.status_code == 200 else None

    def ready(self, *, other_than: int | None = None) -> int:
        """The process id of the worker, once it is ready."""
        found: list[int] = []

        def is_ready() -> bool:
            worker = self.ready_worker()
            if worker is not None and worker != other_than:
                found.append(worker)
            return bool(found)

        until(is_ready, f"a worker is ready; the log says {self.told}")
        return found[0]

    def log_in(self) -> str:
        return str(self.certain_answer("POST", "/login/ada").cookies["session"])

    def log_out(self, token: str) -> int:
        return self.request("POST", "/logout", token).status_code

    def status(self, token: str) -> int:
        return self.certain_answer("GET", "/private", token).status_code

    def certain_answer(self, method: str, path: str, token: str | None = None) -> httpx2.Response:
        """The first answer that is not 503: on a busy machine a node that was ready may know too little again for a moment."""
        answers: list[httpx2.Response] = []

        def is_certain() -> bool:
            answers.append(self.request(method, path, token))
            return answers[-1].status_code != 503

        until(is_certain, f"an answer that is not 503; the log says {self.told}")
        return answers[-1]

    def log_out_new_sessions(self, count: int) -> list[str]:
        """Log sessions in and out; returns their tokens, all of which were acknowledged as fenced."""
        tokens = [self.log_in() for _ in range(count)]
        assert {self.log_out(token) for token in tokens} == {200}
        return tokens

    def signal(self, how: signal.Signals) -> int:
        """Have the worker killed (SIGKILL), or replaced in good order (SIGHUP); returns the process id of the old one."""
        worker = self.ready()
        process = self._process
        assert process is not None
        os.kill(worker if how == signal.SIGKILL else process.pid, how)
        return worker


def url_of(listener: socket.socket) -> str:
    return "http://{}:{}".format(*listener.getsockname())


class Place:
    """The folder where a test's servers run and leave their files.

    Args:
        folder: for everything.
        options: of each gunicorn.
        stack: stops the servers that were started.
    """

    def __init__(self, folder: Path, options: tuple[str, ...], stack: ExitStack) -> None:
        self.folder = folder
        self._options = options
        self._stack = stack
        (folder / "preloaded.py").write_text(APP)

    def start(self, cluster: str, *, count: int = 1, workers: int = 1) -> list[Gunicorn]:
        """Start servers that form one cluster, and return once all are ready. ``{}`` in ``cluster`` becomes each one's number."""
        listeners = [self._stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        urls = [url_of(listener) for listener in listeners]
        settings = {"SECRET_KEY": SECRET, "PROTECT": "/private*", "FRESHNESS_LIMIT": "2s"}
        servers = []
        for number, listener in enumerate(listeners):
            own = {**settings, "CLUSTER": cluster.format(number)}
            if cluster.startswith("peers:"):
                own |= {"PEERS": ",".join(urls), "ADVERTISE_URL": urls[number], "STATE_DIR": str(self.folder / f"state-{number}")}
            server = Gunicorn(listener, self.folder, own, "--workers", str(workers), *self._options)
            self._stack.callback(server.kill)
            server.start()
            servers.append(server)
        for server in servers:
            server.ready()
        return servers


EACH_LOADS: tuple[str, ...] = ()
PRELOAD = ("--preload",)
WAYS = {EACH_LOADS: "each loads the app", PRELOAD: "preload"}


def on(kept: tuple[str, ...]) -> pytest.MarkDecorator:
    """Leave the other way of starting workers to ``make prove``, where ``peers://`` with files has both in ``make test``."""
    return pytest.mark.parametrize("place", thinned(WAYS, [kept]), ids=WAYS.get, indirect=True)


@pytest.fixture(params=WAYS, ids=WAYS.get)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(tmp_path, request.param, stack)


def replace_workers(servers: list[Gunicorn], how: signal.Signals) -> None:
    """Replace the workers of several servers, all at once."""
    replaced = [server.signal(how) for server in servers]
    for server, worker in zip(servers, replaced, strict=True):
        server.ready(other_than=worker)


def restart(servers: list[Gunicorn]) -> None:
    for server in servers:
        server.stop()
    for server in servers:
        server.start()
    for server in servers:
        server.ready()


def log_out_while_workers_are_replaced(servers: list[Gunicorn]) -> list[str]:
    """Log sessions out before and after each replacement of these servers' workers; returns their tokens."""
    tokens = servers[0].log_out_new_sessions(3)
    for how in (signal.SIGKILL, signal.SIGHUP):
        replace_workers(servers, how)
        tokens += servers[0].log_out_new_sessions(1)
    assert_refused(tokens, servers)
    return tokens


def assert_refused(tokens: list[str], servers: list[Gunicorn]) -> None:
    assert {server.status(token) for server in servers for token in tokens} == {401}


def assert_private(paths: Iterator[Path]) -> None:
    """Assert that there are files, and that each is for its owner alone."""
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}


def denied_in(path: Path) -> set[str]:
    """Return the log-outs in a node's file, without the notes beside them."""
    file = JournalFile(path)
    batches = [decode_batch(record) for record in file.load()]
    file.close()
    return {entry.id for batch in batches for _, entry in batch.entries if isinstance(entry, Deny) and not entry.id.startswith(NO_SESSION)}


def test_nodes_with_files_of_their_own_forget_nothing(place: Place) -> None:
    servers = place.start(f"peers://{place.folder}/log-{{}}", count=3)
    assert_private(place.folder.glob("log-*"))
    assert_private(place.folder.glob("state-*/*"))
    tokens = log_out_while_workers_are_replaced(servers)
    restart(servers)
    assert_refused(tokens, servers)
    for server in servers:
        server.stop()
    # Two of the three have each log-out: the one that answered, and one that confirmed it.
    held = [denied_in(place.folder / f"log-{number}") for number in range(3)]
    assert len(set.union(*held)) == len(tokens)
    assert all(sum(id in one for one in held) >= 2 for id in set.union(*held))


@on(EACH_LOADS)
def test_nodes_without_files_learn_forgotten_log_outs_from_the_others(place: Place) -> None:
    servers = place.start("peers://", count=3)
    tokens = log_out_while_workers_are_replaced(servers[:1])
    assert_refused(tokens, servers)


@on(PRELOAD)
def test_workers_that_share_a_file_forget_nothing(place: Place) -> None:
    servers = place.start(f"sqlite://{place.folder}/sessions.db")
    tokens = log_out_while_workers_are_replaced(servers)
    assert_private(path for path in place.folder.glob("sessions.db*") if path.is_file())
    assert_private(place.folder.glob("sessions.db-keys/*"))
    restart(servers)
    assert_refused(tokens, servers)


@on(EACH_LOADS)
def test_nodes_on_etcd_forget_nothing(place: Place, one_etcd: Etcd) -> None:
    servers = place.start(one_etcd.cluster(f"gunicorn-{os.getpid()}-{place.folder.name}"))
    tokens = log_out_while_workers_are_replaced(servers)
    restart(servers)
    assert_refused(tokens, servers)


@on(PRELOAD)
def test_a_node_on_its_own_goes_on_with_each_new_worker(place: Place) -> None:
    """It forgets log-outs with its process, and says so in the docs; each process enforces those that it took."""
    [server] = place.start("memory://")
    for how in (signal.SIGKILL, signal.SIGHUP):
        assert_refused(server.log_out_new_sessions(2), [server])
        replace_workers([server], how)
    assert server.status(server.log_in()) == 200


@pytest.mark.parametrize("place", [EACH_LOADS], indirect=True)
def test_a_second_server_is_refused_the_file_that_another_one_has(place: Place) -> None:
    first, second = place.start("memory://", count=2)
    for server in (first, second):
        server.stop()
        server.settings |= {"STATE_DIR": str(place.folder / "state")}
    first.start()
    first.ready()
    second.start()
    until(lambda: "the journal in it cannot be used: it is locked by another process" in second.told, "the second one is refused")
    assert_refused(first.log_out_new_sessions(1), [first])
