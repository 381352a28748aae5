"""One node's knowledge: the fold of the cluster log.

Denials and cuts only accumulate, so merging is idempotent and order-free, and *deny wins*. This file compares no clocks:
an entry carries its own end, and only the floor, which never falls, drops entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import assert_never

from ...models import Claims, Cut, CutId, Deny, DenyKey, Entry
from .denials import Denials
from .invariants import ensure
from .log_outs import LogOuts

FLOOR_MARGIN_MS = 60_000
"""Distance of the floor behind the slowest trusted clock: twice the 30 s by which a trusted clock may be wrong."""

END_STEP_MS = 60_000
"""Step to which the ends of entries are rounded up. A longer hold does no harm, and the entries of a minute share one end."""

SUPERSEDED_MS = 120_000
"""How long a refusal distinguishes a token that was replaced from one that was logged out. Requests under way arrive in that time,
although each of two trusted clocks may be 30 s wrong. A client that sends it later never got the newer token, and waits for nothing."""

CUT_TRAVELS_MS = 240_000
"""Age at which every fresh node knows a cut: some seconds of travel, 30 s for each of two clocks, and a wide margin."""


NO_SESSION = "~"
"""The first character of denied ids that no session has: a log records facts about itself under them."""

CUT_TOLERANCE_MS = 60_000
"""Lead over a cut's time from which a session certainly began after the cut: each of two trusted clocks may be 30 s wrong."""


DROPPED_AT_ONCE = 4000
"""How many entries are looked at in one step, at least, which takes a millisecond or two. A node takes a step each second."""
LOOKED_WITHIN = 100
"""Within so many steps all packed denials are looked at."""
SETTLED_AT_ONCE = 16
"""How many shards of packed denials that came together get to their buckets in one step, which takes a few milliseconds."""
WORTH_A_SWEEP = 16
"""A part of the entries, one of so many, must have ended before all are looked at for them. So each costs a few microseconds, once."""


class _Replaced(str):
    """The id of a cut that is known by name only, in the list of what ends at some time."""

    __slots__ = ()


def cut_end_ms(cut: CutId) -> int:
    """Return the end that a cut's id carries; 0 (long over) for text that is no cut's id."""
    try:
        return int(cut.rpartition("~")[2], 16) * 1000
    except ValueError:
        return 0


def new_cut_id(random_text: str, until_ms: int, made_ms: int | None = None) -> CutId:
    """Return an id that carries the cut's end and the time at which it was made, both rounded up to whole seconds.

    Args:
        random_text: random text without ``~``.
        until_ms: the end.
        made_ms: the writer's wall clock; None if the clock is not trusted. Such a cut ends each session that does not list it.
    """
    end = f"{-(-until_ms // 1000):x}"
    # The end comes last: there a release that knows no time of making finds it.
    return CutId(f"{random_text}~{end}" if made_ms is None else f"{random_text}~{-(-made_ms // 1000):x}~{end}")


def made_ms(cut: CutId) -> int | None:
    """Return when a cut was made, by its writer's trusted clock. None if it carries no such time."""
    match cut.split("~"):
        case [_, made, _]:
            try:
                return int(made, 16) * 1000
            except ValueError:
                return None
        case _:
            return None


def began_after(authenticated_ms: int, cut: CutId) -> bool:
    """Return whether a session certainly began after a cut was made, by trusted clocks. False if the cut carries no time of making."""
    cut_ms = made_ms(cut)
    return cut_ms is not None and authenticated_ms > cut_ms + CUT_TOLERANCE_MS


def entry_end_ms(until_ms: int) -> int:
    """Return until when an entry is held. A replaced cut that has yet to arrive has the same end as one that arrived."""
    return -(-until_ms // END_STEP_MS) * END_STEP_MS


def last_end_ms(time_ms: int) -> int:
    """Return the last end, at or before this time, that an entry can have."""
    return time_ms - time_ms % END_STEP_MS


class View:
    """A node's knowledge. Only :meth:`merge`, :meth:`merge_all`, :meth:`raise_floor` and :meth:`start_anew` change the entries.

    Attributes:
        fresh_at: everything acknowledged before this moment (boot-time clock, seconds) has been merged here.
        floor_ms: no token that ends at or before it is accepted, even if the clock goes back afterwards.
        floor_s: the same in seconds, as clocks give them: each request compares it.
        latest_ms: the latest time that this node's trusted wall clock has shown, or its tokens carry. A clock that is set back later takes
            no session with it: a token up to that time is no token from the future.
        denied: the revoked session and family ids, with the end of each entry. A part of those that have ended stays for some time.
        superseded: those of them that were merely replaced by another id, and not logged out, with the time at which that happened.
            After :data:`SUPERSEDED_MS` by every clock, they count as logged out.
        denied_keys: the ids of compromised keys, with the end of each entry.
        known_cuts: every cut heard of that has not ended, replaced ones included, with its end.
        everybody: the live cuts that concern all subjects.
        by_subject: the live cuts of each subject.
        listed: the known cuts that a token may list which this node has issued.
        generation: another object after each change that can turn an accepted token into one that is not. Such are each entry that was
            news, and :meth:`start_anew`. A higher floor is none, because each request compares that. A dropped entry is none, because no
            token that is still accepted depends on it. These are objects and not numbers: no two threads make the same one.
        on_news: called with the entries that were news, right after they were merged: with one, or with a part of many.
        ended: how many entries the floor has passed, since the view began.
        referred: whether a log refers to packed denials. Then the log begins the sweeps, once it has forgotten what they drop.
    """

    __slots__ = (
        "_by_name",
        "_ended",
        "_ends",
        "_forgotten_cuts_end_ms",
        "_leaving",
        "_packed_ends",
        "_swept",
        "by_subject",
        "denied",
        "denied_keys",
        "ended",
        "everybody",
        "floor_ms",
        "floor_s",
        "fresh_at",
        "generation",
        "known_cuts",
        "latest_ms",
        "listed",
        "on_news",
        "referred",
        "superseded",
    )

    def __init__(self, *, fresh_at: float = -math.inf, on_news: Callable[[Sequence[Entry]], None] | None = None) -> None:
        self.on_news = on_news
        self.floor_ms = 0
        self.floor_s = 0.0
        self.latest_ms = 0.0
        self.start_anew(fresh_at=fresh_at)

    def start_anew(self, *, fresh_at: float = -math.inf) -> None:
        """Forget everything except the floor and the latest time. A reopened log needs this.

        A log keeps only the entries that are news to its view.
        """
        self._forgotten_cuts_end_ms = 0.0
        self.fresh_at = fresh_at
        self.denied = Denials()
        self.superseded: dict[str, int] = {}
        self.denied_keys: dict[str, int] = {}
        self.known_cuts: dict[CutId, int] = {}
        self.listed: set[CutId] = set()
        self.everybody: dict[CutId, Cut] = {}
        self.by_subject: dict[str, dict[CutId, Cut]] = {}
        self._leaving: dict[int, tuple[int, list[str | Cut | DenyKey]]] = {}
        self._packed_ends: dict[int, int] = {}
        """How many packed denials came with each end in ``_leaving``."""
        self.ended = self._swept = 0
        self.referred = False
        self._ends: list[int] = []
        """A heap of the ends in ``_leaving``, so that a floor that passes none of them costs nothing."""
        self._ended: list[tuple[int, list[str | Cut | DenyKey]]] = []
        """The entries that ended at or below the floor, and are still to be dropped. Until then they do no harm."""
        self._by_name: set[CutId] = set()
        """Cuts that were replaced before they arrived. The cuts that they replace themselves are not known yet."""
        self.generation = object()

    @property
    def forgotten_cuts_end_ms(self) -> float:
        """All nodes have forgotten an unknown cut that ends before this. It is no sign of being behind."""
        return self._forgotten_cuts_end_ms

    @forgotten_cuts_end_ms.setter
    def forgotten_cuts_end_ms(self, value: float) -> None:
        fell = value < self._forgotten_cuts_end_ms
        self._forgotten_cuts_end_ms = value
        if fell:  # with another file, for example
            self.generation = object()

    def merge(self, entry: Entry) -> bool:
        """Merge an entry; return whether it was news. An entry that has ended can match no token and is no news."""
        end = entry_end_ms(entry.until_ms)
        if end <= self.floor_ms:
            return False
        is_news = True
        try:
            is_news = self._take_in(entry, *self._leaving_at(end))
        finally:
            # After the change: a thread that decides meanwhile notes the generation from before it. And also if the change breaks off.
            if is_news:
                self.generation = object()
        if is_news and self.on_news is not None:
            self.on_news((entry,))
        return is_news

    def merge_all(self, entries: Iterable[Entry]) -> list[Entry]:
        """Merge many entries; return those that were news. A log-out of a session costs a fraction of what :meth:`merge` takes for it."""
        entries, ended_ms = [*entries], last_end_ms(self.floor_ms)
        simple = [entry for entry in entries if isinstance(entry, Deny) and not entry.replaced_ms and entry.until_ms > ended_ms]
        if self.superseded:
            simple = [entry for entry in simple if entry.id not in self.superseded]
        left: list[Entry] = []
        if len(simple) < len(entries):
            seen = {*map(id, simple)}
            left = [entry for entry in entries if id(entry) not in seen]
        numbers, left_numbers = self._pack_all([denial.id for denial in simple], [denial.until_ms for denial in simple])
        added = simple if len(numbers) == len(simple) else [simple[number] for number in numbers]
        if added and self.on_news is not None:
            self.on_news(added)
        return [*added, *(entry for entry in (*(simple[number] for number in left_numbers), *left) if self.merge(entry))]

    def merge_log_outs(self, log_outs: LogOuts) -> tuple[Sequence[str], list[Entry]]:
        """Merge many log-outs at half the cost of :meth:`merge_all`; return the ids that are packed now and were not, and other news."""
        ids, ends_ms = log_outs.ids, log_outs.ends_ms
        if min(ends_ms, default=0) <= last_end_ms(self.floor_ms) or not self.superseded.keys().isdisjoint(ids):
            return (), self.merge_all(log_outs)
        numbers, left = self._pack_all(ids, ends_ms)
        added = log_outs if len(numbers) == len(ids) else log_outs.some(numbers)
        if added and self.on_news is not None:
            self.on_news(added)
        return added.ids, [entry for entry in log_outs.some(left) if self.merge(entry)]

    def _pack_all(self, ids: Sequence[str], ends_ms: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Add ids to those that are packed; return what :meth:`Denials.add_all` does."""
        counts: dict[int, int] = {}
        try:
            numbers, left = self.denied.add_all(ids, ends_ms, counts)
        finally:
            self.generation = object()
        for end, count in counts.items():
            self._leaving_at(end)
            self._packed_ends[end] = self._packed_ends.get(end, 0) + count
        return numbers, left

    def _take_in(self, entry: Entry, end: int, leaving: list[str | Cut | DenyKey]) -> bool:
        match entry:
            case Deny(id=id):
                is_new_reason = self._add_reason(entry)
                if self.denied.extend(id, end) >= end:
                    return is_new_reason
                if id in self.denied.others:
                    leaving.append(id)
                else:
                    self._packed_ends[end] = self._packed_ends.get(end, 0) + 1
            case Cut():
                if self._has_arrived(entry):
                    return False
                self._add_cut(entry, end)
                leaving.append(entry)
            case DenyKey(kid=kid):
                if self.denied_keys.get(kid, 0) >= end:
                    return False
                self.denied_keys[kid] = end
                leaving.append(entry)
            case _:
                assert_never(entry)
        return True

    def _leaving_at(self, end: int) -> tuple[int, list[str | Cut | DenyKey]]:
        """Return an end, and the list of what leaves then."""
        found = self._leaving.get(end)
        if found is None:
            # The entries of one end share one int object.
            found = self._leaving[end] = end, []
            heappush(self._ends, end)
        return found

    def _add_reason(self, denial: Deny) -> bool:
        """Take in why an id is denied: a log-out outranks a replacement, and the latest replacement counts. Return whether that was news.

        The reason outlives its own entry if another entry of the id ends later. Only holders of a token see it, and none is left by then.
        """
        known_ms, replaced_ms = self.superseded.get(denial.id), denial.replaced_ms
        if not replaced_ms:
            return self.superseded.pop(denial.id, None) is not None
        if known_ms is None and (replaced_ms + SUPERSEDED_MS < self.floor_ms or denial.id in self.denied):
            return False  # it counts as a log-out by now, or is one
        if known_ms is not None and replaced_ms <= known_ms:
            return False
        self.superseded[denial.id] = replaced_ms
        return True

    def _has_reason(self, denial: Deny) -> bool:
        replaced_ms = self.superseded.get(denial.id, 0)
        return replaced_ms == 0 or 0 != denial.replaced_ms <= replaced_ms

    def _has_arrived(self, cut: Cut) -> bool:
        return cut.id in self.known_cuts and cut.id not in self._by_name

    def _add_cut(self, cut: Cut, end: int) -> None:
        live = self.everybody if cut.subject is None else self.by_subject.setdefault(cut.subject, {})
        if cut.id not in self._by_name:
            live[cut.id] = cut
        self._by_name.discard(cut.id)
        self.known_cuts[cut.id] = end
        for old in cut.replaces:
            # Known from here on, so that a replaced cut that arrives after its successor does not become live.
            if old not in self.known_cuts:
                self._know_by_name(old)
            live.pop(old, None)

    def _know_by_name(self, cut: CutId) -> None:
        end = entry_end_ms(cut_end_ms(cut))
        if end > self.floor_ms:  # else it is no news when it arrives
            self.known_cuts[cut], leaving = self._leaving_at(end)
            leaving.append(_Replaced(cut))
            self._by_name.add(cut)

    def knows(self, entry: Entry) -> bool:
        """Return whether merging the entry would change nothing."""
        match entry:
            case Deny(id=id, until_ms=until):
                return until <= self.floor_ms or (self.denied.get(id, 0) >= until and self._has_reason(entry))
            case Cut():
                return entry.until_ms <= self.floor_ms or self._has_arrived(entry)
            case DenyKey(kid=kid, until_ms=until):
                return until <= self.floor_ms or self.denied_keys.get(kid, 0) >= until
            case _:
                assert_never(entry)

    def live_cuts(self, subject: str | None) -> tuple[CutId, ...]:
        """Return the cuts that a token issued now for this subject must list, in a fixed order."""
        live = self.cuts_of(subject).keys()
        self.listed |= live
        return tuple(sorted(live))

    def withstood_cuts(self, claims: Claims, may_lose: Callable[[Cut], bool]) -> tuple[CutId, ...]:
        """Return the cuts to list for a session that goes on under a new id, and has withstood all cuts that are known.

        A cut that may be lost is not listed if the session withstands it without that. The cuts that it replaces may be live elsewhere,
        so the session lists what it listed before, too.

        Args:
            claims: with the new id, and with the cuts that the session listed before.
            may_lose: whether a cut may be lost.
        """
        live = self.cuts_of(claims.subject)
        unsure = [id for id, cut in live.items() if may_lose(cut)]
        if not unsure:
            return self.live_cuts(claims.subject)
        needless = {id for id in unsure if live[id].except_family == claims.family or began_after(claims.authenticated_ms, id)}
        return tuple(sorted({*(live.keys() - needless), *claims.cuts}))

    def cuts_of(self, subject: str | None) -> dict[CutId, Cut]:
        """Return the live cuts that concern this subject."""
        own = self.by_subject.get(subject, {}) if subject is not None else {}
        return {**self.everybody, **own}

    def raise_floor(self, floor_ms: int) -> None:
        """Refuse tokens that end at or before ``floor_ms`` from now on, and only then drop the entries that deny them: some now."""
        if floor_ms <= self.floor_ms:
            return
        before_ms, self.floor_ms = self.floor_ms, floor_ms
        self.floor_s = floor_ms / 1000.0
        if floor_ms // END_STEP_MS > before_ms // END_STEP_MS:  # else nothing has ended: memory:// raises the floor with each append
            while self._ends and self._ends[0] <= floor_ms:
                end, leaving = self._leaving.pop(heappop(self._ends))
                self._ended.append((end, leaving))
                self.ended += len(leaving) + self._packed_ends.pop(end, 0)
            self.drop_ended()

    def drop_ended(self) -> None:
        """Drop some of the entries that have ended, the oldest first. The caller calls this each second or so: a step is bounded."""
        left = DROPPED_AT_ONCE
        while self._ended and left:
            end, leaving = self._ended[0]
            some = leaving[-left:]
            for entry in some:
                self._drop(entry, end)
            del leaving[-left:]
            left -= len(some)
            if not leaving:
                del self._ended[0]
        self.denied.settle_some(SETTLED_AT_ONCE)
        if not self.referred and (self.ended - self._swept) * WORTH_A_SWEEP >= len(self.denied) and self.ended > self._swept:
            self.sweep(self.floor_ms)
        if self.denied.is_sweeping:
            for id in self.denied.sweep(max(left, len(self.denied) // LOOKED_WITHIN)):
                self.superseded.pop(id, None)
        longest = islice(self.superseded.items(), DROPPED_AT_ONCE)
        for id in [id for id, replaced_ms in longest if replaced_ms + SUPERSEDED_MS < self.floor_ms]:
            del self.superseded[id]

    def sweep(self, upto_ms: int) -> None:
        """Begin to drop the packed denials that end at or before this time, at or below the floor. :meth:`drop_ended` goes on with it."""
        if not self.denied.is_sweeping:
            self._swept = self.ended
            self.denied.begin_sweep(upto_ms)

    def _drop(self, entry: str | Cut | DenyKey, end: int) -> None:
        if isinstance(entry, _Replaced):
            self._drop_cut(CutId(entry), end)
        elif isinstance(entry, str):
            if self.denied.get(entry) == end:  # else it was extended and leaves later
                del self.denied[entry]
                self.superseded.pop(entry, None)
        elif isinstance(entry, DenyKey):
            if self.denied_keys.get(entry.kid) == end:
                del self.denied_keys[entry.kid]
        else:
            live = self.everybody if entry.subject is None else self.by_subject.get(entry.subject, {})
            live.pop(entry.id, None)
            if not live and entry.subject is not None:
                self.by_subject.pop(entry.subject, None)
            self._drop_cut(entry.id, end)

    def _drop_cut(self, cut: CutId, end: int) -> None:
        if self.known_cuts.get(cut) == end:
            del self.known_cuts[cut]
            self._by_name.discard(cut)
            self.listed.discard(cut)

    def entries(self) -> Iterator[Entry]:
        """Yield all entries that are still in force. A node that knows nothing must learn these.

        Entries may be merged, and dropped, meanwhile. Those that come meanwhile may be missing, or come twice.
        """
        for id, end in self.denied.ends():
            if end > self.floor_ms:
                yield Deny(id, end, self.superseded.get(id, 0))
        for kid, end in [*self.denied_keys.items()]:
            if end > self.floor_ms:
                yield DenyKey(kid, end)  # type: ignore[arg-type]
        for live in (self.everybody, *self.by_subject.values()):
            yield from (cut for cut in [*live.values()] if entry_end_ms(cut.until_ms) > self.floor_ms)

    def check(self) -> None:
        """Check what must hold after each change.

        Raises:
            InvariantBroken: it does not hold.
        """
        ends = {(entry if isinstance(entry, str) else entry.kid if isinstance(entry, DenyKey) else entry.id, end)
                for end, leaving in (*self._leaving.values(), *self._ended) for entry in leaving}  # fmt: skip
        ensure(all(end > self.floor_ms for end in self._leaving), "an entry that ended at the floor is gone, or about to be dropped")
        ensure(sorted(self._ends) == sorted(self._leaving), "the floor finds each end")
        ensure(set(self.known_cuts.items()) <= ends, "each known cut leaves at the end that it has")
        for held in (self.denied.others, self.denied_keys):
            ensure(held.items() <= ends, "each denial leaves at the end that it has")
        packed = {end for id, end in self.denied.ends() if id not in self.denied.others and end > self.floor_ms}
        ensure(packed <= self._packed_ends.keys() <= self._leaving.keys(), "the floor finds the end of each packed denial")
        self.denied.check()
        ensure(self.superseded.keys() <= self.denied.keys(), "an id that was replaced is denied")
        for subject, live in [(None, self.everybody), *self.by_subject.items()]:
            for cut in live.values():
                ensure(cut.subject == subject, "a cut concerns the subject that it is filed under")
                ensure((cut.id, self.known_cuts.get(cut.id)) in ends, "each live cut leaves at the end that it has")
                ensure(cut.id not in self._by_name, "a live cut has arrived itself")
                ensure(live.keys().isdisjoint(cut.replaces), "no cut is live together with one that it replaces")
        ensure(self._by_name <= self.known_cuts.keys(), "a cut that was replaced is known")

    def __len__(self) -> int:
        return len(self.denied) + len(self.denied_keys) + len(self.known_cuts)
