"""Log-outs on their way to the log, and to the journal where that does not take them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from ha_session_mw import ConfigurationError, QuorumLost
from ha_session_mw._core.cluster.members import Heartbeat
from ha_session_mw._core.cluster.view import View
from ha_session_mw._core.token.keys import KeyRing
from ha_session_mw._machine.journal import JournalFile
from ha_session_mw._machine.sqlite_file import FileTrouble
from ha_session_mw._node.journal import Journal
from ha_session_mw._node.pace import LogInPace
from ha_session_mw._node.revocation import Revoker
from ha_session_mw._node.second_look import Fences
from ha_session_mw._node.shared_cuts import SharedCuts
from ha_session_mw.abc import Receipt
from ha_session_mw.backends.memory.log import MemoryLog
from ha_session_mw.models import Cut, CutId, Deny, DenyKey, Entry, KeyId, NodeId
from ha_session_mw.testing import ManualClock
from ha_session_mw.testing.stillness import until_nothing_moves

from ..waiting import LIMIT_S

pytestmark = pytest.mark.anyio

UNTIL_MS = 1_800_000_000_000 + 3_600_000
ENTRIES: list[Entry] = [
    Deny("one", UNTIL_MS),
    Cut(id=CutId("cut~6b49d200"), subject="ada", until_ms=UNTIL_MS),
    DenyKey(KeyId("abcdefgh"), UNTIL_MS),
]


OWN = Heartbeat(NodeId("me"), "life", "", "ready", 1, 0, (), 5.0, 3_600_000)


class Log(MemoryLog):
    """A log whose majority comes and goes."""

    def __init__(self, clock: ManualClock) -> None:
        self.view = View()
        super().__init__(self.view, clock, OWN)
        self.has_majority = True
        self.is_fenced = True
        self.appended: list[Entry] = []

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        self.apply(entries)
        await anyio.lowlevel.checkpoint()
        if not self.has_majority:
            raise QuorumLost("nobody there")
        self.appended += entries
        return Receipt(len(self.appended), self._clock.boot_s())

    async def fence(self, receipt: Receipt) -> None:
        if not self.is_fenced:
            raise QuorumLost("forgotten")


@pytest.fixture
def log(clock: ManualClock) -> Log:
    return Log(clock)


@pytest.fixture
def journal(tmp_path: Path) -> JournalFile:
    return JournalFile(tmp_path / "journal")


class NoRecords:
    """A cluster without a store."""

    async def forget(self, family: str) -> None: ...

    async def of_subject(self, subject: str) -> list[str]:
        return []


def revoker(log: Log, clock: ManualClock, file: JournalFile | None, *, journal: Journal | None = None) -> Revoker:
    """A node's, at its start."""
    made = Revoker(
        log,
        log.view,
        NoRecords(),
        clock,
        journal or Journal(file),
        ring=lambda: KeyRing([b"s" * 32]),
        random=lambda size: b"r" * size,
        require_loop=lambda: None,
        report=lambda *_: None,
        fences=Fences(clock),
        shared_cuts=SharedCuts(clock, LogInPace(clock, per_subject=None, per_address=None)),
    )
    made.load()
    return made


async def ran(revocations: Revoker) -> None:
    """Its task has had its turn, and was stopped."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(revocations.run)
        await until_nothing_moves()
        tasks.cancel_scope.cancel()


async def test_a_log_out_is_fenced_where_the_log_says_so(log: Log, clock: ManualClock, journal: JournalFile) -> None:
    revocations = revoker(log, clock, journal)
    assert (await revocations.revoke(ENTRIES[0])).mode == "fenced"
    assert log.appended == ENTRIES[:1]
    assert journal.load() == []


async def test_without_a_majority_it_is_written_down_before_it_is_acknowledged(log: Log, clock: ManualClock, journal: JournalFile) -> None:
    revocations = revoker(log, clock, journal)
    log.has_majority = False
    for entry in ENTRIES:
        assert (await revocations.revoke(entry)).mode == "provisional"
        assert len(journal.load()) == len(revocations.provisional)
    assert revocations.provisional == ENTRIES


async def test_a_stored_log_out_is_enforced_from_the_next_start_on(log: Log, clock: ManualClock, journal: JournalFile) -> None:
    first = revoker(log, clock, journal)
    log.has_majority = False
    for entry in ENTRIES:
        await first.revoke(entry)
    journal.close()

    later = Log(clock)
    second = revoker(later, clock, JournalFile(journal.path))

    assert second.provisional == ENTRIES
    assert all(later.view.knows(entry) for entry in ENTRIES)


async def test_it_is_made_good_once_a_majority_is_back_and_then_forgotten(log: Log, clock: ManualClock, journal: JournalFile) -> None:
    revocations = revoker(log, clock, journal)
    log.has_majority = False
    for entry in ENTRIES:
        await revocations.revoke(entry)
    await ran(revocations)
    assert revocations.provisional == ENTRIES

    log.has_majority = True
    await ran(revocations)

    assert log.appended == ENTRIES
    assert revocations.provisional == []
    assert journal.load() == []


async def test_a_log_out_that_could_not_be_fenced_is_not_called_so(log: Log, clock: ManualClock, journal: JournalFile) -> None:
    log.is_fenced = False
    assert (await revoker(log, clock, journal).revoke(ENTRIES[0])).mode == "provisional"
    assert len(journal.load()) == 1


async def test_a_journal_that_is_deleted_is_written_anew_with_all_that_it_had(
    log: Log, clock: ManualClock, journal: JournalFile, caplog: pytest.LogCaptureFixture
) -> None:
    """With the next log-out, or without one."""
    revocations = revoker(log, clock, journal)
    log.has_majority = False
    await revocations.revoke(ENTRIES[0])
    journal.path.unlink()
    assert (await revocations.revoke(ENTRIES[1])).mode == "provisional"
    assert "was deleted or replaced" in caplog.text
    assert len(reread(journal)) == 2
    journal.path.unlink()
    await ran(revocations)
    assert len(reread(journal)) == 2


async def test_a_journal_in_whose_place_another_one_was_put_is_left_as_it_is(log: Log, clock: ManualClock, journal: JournalFile) -> None:
    revocations = revoker(log, clock, journal)
    log.has_majority = False
    await revocations.revoke(ENTRIES[0])
    journal.path.unlink()
    other = JournalFile(journal.path)
    other.load()
    other.append([b"of somebody else"])
    other.close()
    for _ in range(2):
        with pytest.raises(QuorumLost, match="journal cannot be written"):
            await revocations.revoke(ENTRIES[1])
    assert reread(journal) == [b"of somebody else"]


def reread(file: JournalFile) -> list[bytes]:
    file.close()
    again = JournalFile(file.path)
    found = again.load()
    again.close()
    return found


async def test_without_a_journal_it_is_refused_and_enforced_here(log: Log, clock: ManualClock) -> None:
    revocations = revoker(log, clock, None)
    log.has_majority = False
    with pytest.raises(QuorumLost):
        await revocations.revoke(ENTRIES[0])
    assert log.view.knows(ENTRIES[0])


class FullDisk(JournalFile):
    """A journal on a disk that is full, whenever it says so."""

    full = True

    def append(self, records: Sequence[bytes]) -> None:
        if self.full:
            raise FileTrouble("cannot be written: the disk is full", passing=True)
        super().append(records)

    def replace(self, records: Sequence[bytes]) -> None:
        if self.full:
            raise FileTrouble("cannot be written: the disk is full", passing=True)
        super().replace(records)


async def test_a_journal_that_cannot_be_written_makes_no_promise(log: Log, clock: ManualClock, tmp_path: Path) -> None:
    revocations = revoker(log, clock, FullDisk(tmp_path / "journal"))
    log.has_majority = False
    with pytest.raises(QuorumLost, match="journal cannot be written"):
        await revocations.revoke(ENTRIES[0])
    assert revocations.provisional == []
    assert log.view.knows(ENTRIES[0])


async def test_a_journal_that_cannot_be_emptied_is_tried_again_and_crashes_nothing(log: Log, clock: ManualClock, tmp_path: Path) -> None:
    journal = FullDisk(tmp_path / "journal")
    journal.full = False
    revocations = revoker(log, clock, journal)
    log.has_majority = False
    await revocations.revoke(ENTRIES[0])
    log.has_majority = journal.full = True
    await ran(revocations)
    assert revocations.provisional == ENTRIES[:1]

    journal.full = False
    await ran(revocations)
    assert revocations.provisional == []


async def test_ten_thousand_are_made_good_at_once(log: Log, clock: ManualClock, journal: JournalFile) -> None:
    """A long partition on a busy site."""
    provisional = Journal(journal)
    revocations = revoker(log, clock, None, journal=provisional)
    provisional.entries += [Deny(f"session-{number}", UNTIL_MS) for number in range(10_000)]
    with anyio.fail_after(LIMIT_S):
        await ran(revocations)
    assert revocations.provisional == []


async def test_a_damaged_journal_stops_the_start(log: Log, clock: ManualClock, journal: JournalFile) -> None:
    for damage in (b"", b"\x92\xa1d\xa1\xff", b"\x93\xa1z\x01\x02", b"\x91" * 100_000):
        journal.load()
        journal.replace([damage])
        with pytest.raises(ConfigurationError, match="HA_SESSION_STATE_DIR: the journal in it cannot be used") as raised:
            revoker(log, clock, journal)
        assert "restore provisional.journal, or move it away" in str(raised.value)


async def test_a_journal_that_never_was_is_not_said_to_hold_log_outs(log: Log, clock: ManualClock, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")
    with pytest.raises(ConfigurationError, match="the journal in it cannot be used") as raised:
        revoker(log, clock, JournalFile(tmp_path / "state" / "provisional.journal"))
    assert "restore" not in str(raised.value)


async def test_a_journal_that_another_process_has_stops_the_start(log: Log, clock: ManualClock, journal: JournalFile) -> None:
    journal.load()
    with pytest.raises(ConfigurationError, match="it is locked by another process"):
        revoker(log, clock, JournalFile(journal.path, open_s=0))
    journal.close()


async def test_a_node_that_has_ended_does_not_take_its_journal_back(log: Log, clock: ManualClock, journal: JournalFile) -> None:
    """A log-out that was under way goes on after the end, shielded; the next process has the journal by then."""
    revocations = revoker(log, clock, journal)
    await ran(revocations)
    log.has_majority = False

    with pytest.raises(QuorumLost):
        await revocations.revoke(ENTRIES[0])

    successor = JournalFile(journal.path)
    assert successor.load() == []
    successor.close()


async def test_a_journal_can_be_written_after_the_task_was_started_anew(log: Log, clock: ManualClock, journal: JournalFile) -> None:
    revocations = revoker(log, clock, journal)
    log.has_majority = False
    await ran(revocations)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(revocations.run)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        assert (await revocations.revoke(ENTRIES[0])).mode == "provisional"
        tasks.cancel_scope.cancel()
    assert len(journal.load()) == 1


class Siblings:
    """Other processes on the same port, which come and go."""

    def __init__(self) -> None:
        self.serve = True

    def found(self) -> bool:
        return self.serve


async def test_with_siblings_on_memory_a_log_out_stays_provisional(
    clock: ManualClock, journal: JournalFile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    others, view = Siblings(), View()
    log = MemoryLog(view, clock, OWN, has_siblings=others.found)
    made = Revoker(
        log,
        view,
        NoRecords(),
        clock,
        Journal(journal),
        ring=lambda: KeyRing([b"s" * 32]),
        random=lambda size: b"r" * size,
        require_loop=lambda: None,
        report=lambda *_: None,
        fences=Fences(clock),
        shared_cuts=SharedCuts(clock, LogInPace(clock, per_subject=None, per_address=None)),
    )
    made.load()
    assert (await made.revoke(ENTRIES[0])).mode == "provisional"
    await ran(made)
    assert list(made.provisional) == ENTRIES[:1]
    assert "provisional log-outs" not in caplog.text  # no other process has heard of it

    others.serve = False
    await ran(made)
    assert list(made.provisional) == []
    assert "1 provisional log-outs are in force on every node now" in caplog.text


async def test_a_provisional_log_out_that_is_durable_and_not_fenced_stays_in_the_journal(
    log: Log, clock: ManualClock, journal: JournalFile
) -> None:
    log.has_majority = log.is_fenced = False
    revocations = revoker(log, clock, journal)
    assert (await revocations.revoke(ENTRIES[0])).mode == "provisional"
    log.has_majority = True
    await ran(revocations)
    assert list(revocations.provisional) == ENTRIES[:1]
    log.is_fenced = True
    await ran(revocations)
    assert list(revocations.provisional) == []
