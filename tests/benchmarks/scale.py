"""The cost of many live sessions and many denials: a request's time, and memory.

As a program, ``python -m tests.benchmarks.scale sessions 1000000`` prints by how many bytes a process grows that sees so many sessions.
With ``denials``, it is one that learns of so many log-outs.
"""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Sequence
from itertools import accumulate

import anyio

from ha_session_mw import SessionManager
from ha_session_mw._core.token.tokens import Verified
from ha_session_mw.manager import node_of
from ha_session_mw.models import Deny

from .contenders import (
    Contender,
    Header,
    Reader,
    as_cookie,
    discard,
    first_sight,
    headers_with,
    mint,
    new_manager,
    ours_with,
    receive,
    requests,
    scope_of,
)
from .learning import resident_bytes

FEW = 100
"""Live sessions that the others are compared with."""
PER_SESSION_BYTES = 4096
"""Room in the cache for each session, so that all of them are warm."""
BY_ZIPF, ALIKE = "as users come", "all alike"
"""How the next session is drawn: by Zipf's law, in which the n-th most active user comes 1/n as often as the first, or uniformly."""
ONE_BEHIND_ALL = "header fields of one session"
"""Each field is a key of the cache, and all lead to one token. So only the keys are far, which is the least that a cache can be."""
UNSEEN = "first sight"
"""Of a token that is in no cache."""
IN_A_DICT = "denials in a dict"
"""As Python would keep them without any of our code: a string and an entry each, 118 bytes. Packed ones are compared with this."""
AT_ONCE = 1000
"""Tokens that are made and seen before the next ones."""


async def contenders(sizes: Sequence[int], denials: int) -> list[Contender]:
    """Ours with so many live sessions, all of them warm; with the keys of so many alone; and with few of them and many denials."""
    found: list[Contender] = []
    for size in sizes:
        manager = new_manager(cache_size=size, cache_bytes=size * PER_SESSION_BYTES)
        found += await _with_sessions(f"{size:,} live sessions", manager, size)
    keys_alone = new_manager(cache_size=sizes[-1], cache_bytes=sizes[-1] * PER_SESSION_BYTES)
    found += await _with_sessions(f"{sizes[-1]:,} {ONE_BEHIND_ALL}", keys_alone, sizes[-1])
    entries = node_of(keys_alone).cache.entries
    entries.update(dict.fromkeys(entries, next(iter(entries.values()))))
    manager, sees_new_ones, looks_into_dict = new_manager(), new_manager(cache_size=FEW), new_manager(cache_size=FEW)
    for one in (manager, sees_new_ones):
        deny(one, denials)
    node = node_of(looks_into_dict)
    node.view.denied.others.update((node.issuer.new_id(), node.log.unknown_end_ms()) for _ in range(denials))
    return [
        *found,
        *await _with_sessions(f"{FEW:,} live sessions, {denials:,} denials", manager, FEW),
        first_sight(f"no denials, {UNSEEN}"),
        first_sight(f"{denials:,} {IN_A_DICT}, {UNSEEN}", looks_into_dict),
        first_sight(f"{denials:,} denials, {UNSEEN}", sees_new_ones),
    ]


async def _with_sessions(name: str, manager: SessionManager, size: int) -> list[Contender]:
    tokens = mint(manager, size)
    reader = Reader()
    app = ours_with(manager)(reader)
    for token in tokens:
        await app(scope_of(headers_with(as_cookie(token))), receive, discard)
    chance = random.Random(size)
    chance.shuffle(tokens)  # who comes most often says nothing about who came first
    weights = [*accumulate(1 / rank for rank in range(1, size + 1))]

    def by_zipf(count: int) -> Iterable[Header]:
        return map(as_cookie, chance.choices(tokens, cum_weights=weights, k=count))

    def alike(count: int) -> Iterable[Header]:
        return map(as_cookie, chance.choices(tokens, k=count))

    return [requests(f"{name}, {draw}", app, reader, visitors) for draw, visitors in ((BY_ZIPF, by_zipf), (ALIKE, alike))]


async def bytes_of_tokens(count: int, *, reads_subject: bool = False) -> int:
    """The memory that the tokens of so many sessions take in the cache, with the header fields under which they are found.

    Args:
        count: of the tokens.
        reads_subject: whether the app asks each session for its subject.
    """
    manager = new_manager(cache_size=count, cache_bytes=count * PER_SESSION_BYTES)
    tokens = mint(manager, count)
    gc.collect()
    tracemalloc.start()
    try:
        for token in tokens:
            field = as_cookie(token)[1]
            found = node_of(manager).validator.validate_new(field.partition(b"=")[2], field, "cookie")
            if reads_subject and isinstance(found, Verified):
                _ = found.subject
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def growth(sessions: int) -> int:
    """By how many bytes a process of its own grows that has seen so many sessions, with the settings' own cache."""
    return _grown_by("sessions", sessions)


def bytes_of_denials(count: int) -> int:
    """By how many bytes a process of its own grows that learns of so many log-outs."""
    return _grown_by("denials", count)


def _grown_by(what: str, count: int) -> int:
    command = [sys.executable, "-m", __name__, what, str(count)]
    return int(subprocess.run(command, check=True, capture_output=True, timeout=600).stdout)


async def _learn(denials: int) -> int:
    manager = new_manager()
    deny(manager, 1)
    before = resident_bytes()
    deny(manager, denials)
    return resident_bytes() - before


async def _grow(sessions: int) -> int:
    manager = new_manager()
    app = ours_with(manager)(Reader())
    before = resident_bytes()
    for begun in range(0, sessions, AT_ONCE):
        for token in mint(manager, min(AT_ONCE, sessions - begun)):
            await app(scope_of(headers_with(as_cookie(token))), receive, discard)
    return resident_bytes() - before


def deny(manager: SessionManager, count: int) -> None:
    """Log out so many sessions that nobody has."""
    node = node_of(manager)
    end_ms = node.log.unknown_end_ms()
    for _ in range(count):
        node.log.apply([Deny(node.issuer.new_id(), end_ms)])


if __name__ == "__main__":
    print(anyio.run({"sessions": _grow, "denials": _learn}[sys.argv[1]], int(sys.argv[2])))
