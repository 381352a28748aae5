"""The threads of this package are its own: handlers that block occupy all threads of the app."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

import ha_session_mw
from ha_session_mw._core.quorum.messages import Batch
from ha_session_mw._machine.journal import JournalFile
from ha_session_mw._node.journal import Journal
from ha_session_mw.backends.peers.batch_file import BatchFile
from ha_session_mw.exceptions import QuorumLost
from ha_session_mw.models import Deny
from ha_session_mw.version import BATCH

pytestmark = pytest.mark.anyio
PACKAGE = Path(ha_session_mw.__file__).parent
DENIAL = Deny("x", 60_000)


@contextmanager
def busy_handlers() -> Iterator[None]:
    limiter = anyio.to_thread.current_default_thread_limiter()
    for _ in range(int(limiter.total_tokens)):
        limiter.acquire_on_behalf_of_nowait(object())
    with anyio.fail_after(2):
        yield


async def test_a_node_writes_its_batches(tmp_path: Path) -> None:
    def everything() -> Iterator[Batch]:
        return iter([batch])

    batch = Batch(version=BATCH.writes, incarnation="i", learned=True, floor_ms=0, upto=1, entries=((1, DENIAL),))
    file = BatchFile(JournalFile(tmp_path / "log"))
    file.load()
    with busy_handlers():
        assert await file.write(batch, everything) == batch
        (tmp_path / "log").unlink()
        assert await file.write(batch, everything) == batch
    file.close()


async def test_a_node_writes_its_journal(tmp_path: Path) -> None:
    journal = Journal(JournalFile(tmp_path / "journal"))
    journal.load()
    journal.hold()
    with busy_handlers():
        await journal.add([DENIAL], QuorumLost("alone"))
        (tmp_path / "journal").unlink()
        await journal.restore()
        assert await journal.remove([DENIAL])
    await journal.close()


def calls_of_threads() -> Iterator[tuple[Path, ast.Call]]:
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("to_thread.run_sync"):
                yield file.relative_to(PACKAGE), node


def test_no_other_call_waits_for_the_threads_of_the_app() -> None:
    calls = [*calls_of_threads()]
    assert len(calls) > 3
    assert [str(file) for file, call in calls if "limiter" not in {keyword.arg for keyword in call.keywords}] == []
