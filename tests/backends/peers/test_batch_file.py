"""The file of a node's batches: written batches are read again, a grown file is rewritten, and a full disk loses nothing."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from ha_session_mw._core.quorum.messages import Batch, encode
from ha_session_mw._machine.journal import JournalFile
from ha_session_mw._machine.sqlite_file import FileTrouble
from ha_session_mw.backends.common.witness import FILE, SET_BACK
from ha_session_mw.backends.peers import batch_file as module
from ha_session_mw.backends.peers.batch_file import BatchFile
from ha_session_mw.exceptions import ConfigurationError
from ha_session_mw.models import Deny
from ha_session_mw.testing import Cluster, mint_session
from ha_session_mw.version import BATCH

from ...inside import quorum_log_of

pytestmark = pytest.mark.anyio


def batch(upto: int, *, version: int = BATCH.writes) -> Batch:
    return Batch(version=version, incarnation="i", learned=True, floor_ms=0, upto=upto, entries=((upto, Deny(f"x{upto}", 60_000)),))


async def test_written_batches_are_read_again_in_their_order(tmp_path: Path) -> None:
    file = BatchFile(JournalFile(tmp_path / "log"))
    assert [*file.load()] == []
    for upto in (1, 2):
        assert await file.write(batch(upto), everything=lambda: iter([batch(9)])) == batch(upto)
    file.close()
    again = BatchFile(JournalFile(tmp_path / "log"))
    assert [*again.load()] == [batch(1), batch(2)]
    again.close()


async def test_a_file_that_has_grown_is_replaced_with_all_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_BYTES", len(encode(batch(1))))
    file = BatchFile(JournalFile(tmp_path / "log"))
    file.load()
    written = [await file.write(batch(upto), everything=lambda: iter([batch(8), batch(9)])) for upto in (1, 2, 3)]
    assert written == [batch(1), batch(2), batch(9)]
    assert [*file.load()] == [batch(8), batch(9)]
    file.close()


async def test_other_tasks_run_between_the_batches_of_a_file_that_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_BYTES", -1)
    file = BatchFile(JournalFile(tmp_path / "log"))
    file.load()
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    def batches() -> Iterator[Batch]:
        for number in range(1, 20):
            assert turns >= number - 2
            yield batch(number)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        await file.write(batch(1), batches)
        tasks.cancel_scope.cancel()
    assert len([*file.load()]) == 19
    file.close()


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (b"\xc1", "a record in it is damaged"),
        (encode(batch(1, version=2)), "written by another release"),
    ],
)
async def test_a_file_that_cannot_be_read_keeps_the_node_from_starting(tmp_path: Path, record: bytes, why: str) -> None:
    file = JournalFile(tmp_path / "log")
    file.load()
    file.append([record])
    with pytest.raises(ConfigurationError, match=why):
        next(BatchFile(file).load())
    file.close()


async def test_a_damaged_file_is_named_with_what_may_be_done(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"no database, " * 100)
    with pytest.raises(ConfigurationError, match=r"it is damaged, or is no database; restore it, or move it away, at one node at a time"):
        BatchFile(JournalFile(tmp_path / "log")).load()


def on_files(folder: Path) -> Cluster:
    """Three nodes, each with a file of its own name."""
    cluster = Cluster()
    for node in cluster.nodes:
        node.settings.update(cluster=f"peers://{folder}/{node.name}")
    return cluster


@pytest.mark.one_library
@pytest.mark.parametrize("most_bytes", [module.COMPACT_BYTES, -1])
async def test_a_file_that_was_deleted_under_a_node_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, most_bytes: int
) -> None:
    monkeypatch.setattr(module, "COMPACT_BYTES", most_bytes)
    cluster = on_files(tmp_path)
    a, b, _ = cluster.nodes
    async with cluster:
        await cluster.ready()
        early, late = mint_session(b.manager, "ada"), mint_session(b.manager, "bob")
        assert (await b.post("/logout", token=early)).headers["session-revocation"] == "fenced"
        (tmp_path / "a").unlink()
        begun_s = cluster.passed_s
        assert (await b.post("/logout", token=late)).headers["session-revocation"] == "fenced"
        assert cluster.passed_s - begun_s < 1
        assert "was deleted or replaced while it was in use; all log-outs are written down anew" in caplog.text
        await a.kill()
        [*kept] = BatchFile(JournalFile(tmp_path / "a")).load()
        denied = {entry.id for batch in kept for _, entry in batch.entries if isinstance(entry, Deny)}
        assert denied == quorum_log_of(b.manager).quorum.view.denied.keys()


@pytest.mark.one_library
async def test_a_node_whose_file_cannot_be_written_says_so_while_it_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    a, b, _ = cluster.nodes
    a.settings.update(cluster=f"peers://{tmp_path}/a")
    async with cluster:
        await cluster.ready()
        assert quorum_log_of(a.manager).exposure() is None

        def full(file: JournalFile, records: Sequence[bytes]) -> None:
            raise FileTrouble("cannot be written: the disk is full", passing=True)

        with monkeypatch.context() as patch:
            patch.setattr(JournalFile, "append", full)
            session, begun_s = mint_session(b.manager, "ada"), cluster.passed_s
            assert (await b.post("/logout", token=session)).headers["session-revocation"] == "fenced"
            assert cluster.passed_s - begun_s < 0.5  # it enforces what it cannot keep, and says so
            assert (await a.get("/", token=session)).json()["subject"] is None
            assert a.why_not_ready is None
            begun_s = cluster.passed_s
            assert (await a.post("/logout", token=mint_session(a.manager, "bob"))).status_code == 503
            assert cluster.passed_s - begun_s < 0.5
            assert "it cannot be written: the disk is full; until that is mended" in (quorum_log_of(a.manager).exposure() or "")
        await cluster.advance(3)
        assert quorum_log_of(a.manager).exposure() is None


@pytest.mark.one_library
async def test_a_slow_disk_is_told_while_a_write_takes_long_and_for_a_minute_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write = BatchFile.write
    cluster = Cluster()
    a, b, _ = cluster.nodes
    a.settings.update(cluster=f"peers://{tmp_path}/a")
    slow = (
        "writes to the file of HA_SESSION_CLUSTER take longer than a second, and log-outs that are made here wait for them; "
        "see what else uses its disk"
    )

    async def write_slowly(file: BatchFile, one: Batch, everything: Callable[[], Iterator[Batch]]) -> Batch:
        with a.clock.move_on_after(4):
            await anyio.sleep_forever()
        return await write(file, one, everything)

    async with cluster:
        await cluster.ready()
        with monkeypatch.context() as patch:
            patch.setattr(BatchFile, "write", write_slowly)
            quorum_log_of(b.manager).apply([Deny("x", quorum_log_of(b.manager).unknown_end_ms())])
            await cluster.advance(2)
            assert quorum_log_of(a.manager).exposure() == slow
            await cluster.advance(3)
        await cluster.advance(50)
        assert quorum_log_of(a.manager).exposure() == slow
        await cluster.advance(15)
        assert quorum_log_of(a.manager).exposure() is None
    told = [record.getMessage() for record in caplog.records if "writes to the file" in record.getMessage()]
    assert told == [slow, "writes to the file of HA_SESSION_CLUSTER take less than a second again"]


async def test_a_full_disk_is_reported_once_and_later_entries_are_kept_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full, append = [True], JournalFile.append

    def append_if_there_is_room(file: JournalFile, records: Sequence[bytes]) -> None:
        if full[0]:
            raise FileTrouble("cannot be written: the disk is full", passing=True)
        append(file, records)

    caplog.set_level(logging.INFO)
    cluster = Cluster("a")
    [node] = cluster.nodes
    node.settings.update(cluster=f"peers://{tmp_path}/log")
    full[0] = False
    monkeypatch.setattr(JournalFile, "append", append_if_there_is_room)
    async with cluster:
        await cluster.ready()
        full[0] = True
        log = quorum_log_of(node.manager)
        for name in ("first", "second"):
            log.apply([Deny(name, log.unknown_end_ms())])
            await cluster.advance(3)
        told = [record.getMessage() for record in caplog.records if "nothing was written" in record.getMessage()]
        assert told == ["nothing was written to the file of HA_SESSION_CLUSTER: it cannot be written: the disk is full"]
        full[0] = False
        await cluster.advance(3)
        assert "the file of HA_SESSION_CLUSTER can be written again" in caplog.text
        await node.kill()
        await node.start()
        await cluster.ready()
        assert {"first", "second"} <= quorum_log_of(node.manager).quorum.view.denied.keys()


@pytest.mark.one_library
@pytest.mark.parametrize(("frozen", "status", "most_s"), [(False, 200, 7.0), (True, 503, 2.1)])
async def test_a_log_out_waits_for_busy_disks_while_a_majority_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, frozen: bool, status: int, most_s: float
) -> None:
    busy_s, write = [0.0], BatchFile.write
    cluster = on_files(tmp_path)
    a, *others = cluster.nodes

    async def write_when_the_others_let_it(file: BatchFile, one: Batch, everything: Callable[[], Iterator[Batch]]) -> Batch:
        with a.clock.move_on_after(busy_s[0]):
            await anyio.sleep_forever()
        return await write(file, one, everything)

    monkeypatch.setattr(BatchFile, "write", write_when_the_others_let_it)
    async with cluster:
        await cluster.ready()
        token = mint_session(a.manager, "ada")
        busy_s[0] = 1.5
        if frozen:
            for node in others:
                node.freeze()
        begun_s = cluster.passed_s
        answer = await a.post("/logout", token=token)
        assert (answer.status_code, cluster.passed_s - begun_s < most_s) == (status, True)
        for node in others:
            node.thaw()


def held_for_a_while(file: Path) -> subprocess.Popen[bytes]:
    """Return a process that has a file now, and lets it go after a moment."""
    script = (
        "import pathlib, sys, time; from ha_session_mw._machine.journal import JournalFile;"
        "file = JournalFile(pathlib.Path(sys.argv[1])); file.load(); file.append([]); file.hold();"
        "print('held', flush=True); time.sleep(0.7); file.close()"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


@pytest.mark.one_library
@pytest.mark.parametrize(("setting", "value", "file"), [("cluster", "peers://{}/log", "log"), ("state_dir", "{}", "provisional.journal")])
async def test_a_new_worker_waits_for_the_file_of_one_that_drains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, file: str
) -> None:
    """gunicorn starts it first, and stops as a whole if it does not start."""
    monkeypatch.setattr("ha_session_mw._machine.sqlite_file.OPEN_S", 0.1)
    monkeypatch.setattr("ha_session_mw.backends.peers.backend.OPEN_S", 0.1)
    monkeypatch.setattr("ha_session_mw._machine.journal.WRITE_BUSY_S", 0.05)
    cluster = Cluster("a", drain_delay=20.0)
    cluster.nodes[0].settings[setting] = value.format(tmp_path)
    with held_for_a_while(tmp_path / file):
        async with cluster:
            await cluster.ready()


async def restarted(cluster: Cluster, act: Callable[[Path], object], folder: Path) -> None:
    """Kill all nodes, do something to the file of each, and start them again."""
    for node in cluster.nodes:
        await node.kill()
        act(folder / node.name)
    for node in cluster.nodes:
        await node.start()
    await cluster.ready()


@pytest.mark.one_library
async def test_files_that_all_went_back_are_told_until_everybody_is_logged_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cluster = on_files(tmp_path)
    a, b, _ = cluster.nodes
    async with cluster:
        await cluster.ready()
        token = mint_session(a.manager, "ada")
        await b.post("/logout", token=mint_session(b.manager, "bob"))
        await restarted(cluster, lambda file: shutil.copy(file, file.with_suffix(".backup")), tmp_path)
        assert (await b.post("/logout", token=token)).headers["session-revocation"] == "fenced"
        await cluster.advance(6)
        assert [quorum_log_of(node.manager).exposure() for node in cluster.nodes] == [None] * 3
        await restarted(cluster, lambda file: file.with_suffix(".backup").replace(file), tmp_path)
        told = [quorum_log_of(node.manager).exposure() for node in cluster.nodes]
        assert told == [SET_BACK.format(FILE)] * 3
        assert caplog.text.count("log-outs may be forgotten") >= 3
        await restarted(cluster, lambda _: None, tmp_path)
        assert [quorum_log_of(node.manager).exposure() for node in cluster.nodes] == [SET_BACK.format(FILE)] * 3  # a restart is no decision
        assert (await cluster.run(a.manager.revoke_everybody)).mode == "fenced"
        await cluster.advance(1)
        assert [quorum_log_of(node.manager).exposure() for node in cluster.nodes] == [None] * 3


@pytest.mark.one_library
async def test_a_single_file_that_went_back_is_no_loss_because_the_others_remember(tmp_path: Path) -> None:
    cluster = on_files(tmp_path)
    a, b, _ = cluster.nodes
    async with cluster:
        await cluster.ready()
        await a.kill()
        shutil.copy(tmp_path / "a", tmp_path / "backup")
        await a.start()
        await cluster.ready()
        token = mint_session(a.manager, "ada")
        await b.post("/logout", token=token)
        await cluster.advance(6)
        await a.kill()
        (tmp_path / "backup").replace(tmp_path / "a")
        await a.start()
        await cluster.ready()
        assert quorum_log_of(a.manager).exposure() is None
        assert (await a.get(token=token)).json()["subject"] is None
