"""Revoked ids with their ends, packed: one takes some 30 bytes, where a dict and its strings take 118.

Ids lie in buckets of text, one after the other: 22 characters, and four more that say the end. The interpreter searches such a bucket in
C, in about the time of a method's call. There is a new bucket for each :data:`FILL` ids, and each new bucket takes its ids from one other
bucket (linear hashing). So no step ever moves more than one bucket. Ids come from signed tokens and no client can choose one, so
none can make them meet in one bucket.

A node that starts learns first how many ids there are, and makes empty buckets for them. The ids then wait in shards: texts of the same
form, each with the ids of some buckets. Later each bucket gets all of its ids at once. So no id moves from bucket to bucket, and no
bucket grows bit by bit, which would leave gaps in memory.

Nearly all ids that are looked up are not revoked. A filter answers for at least 24 of 25 of them without a search. It has 64 bytes for
each bucket, and for each one up to the next power of two. Each id sets two bits of one byte. Bits that are not set say that the id is
surely not there; set ones say nothing.

Other threads may look ids up while the thread of the event loop adds and drops some.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import lru_cache
from typing import Any

from ...models import Deny
from .invariants import ensure

ID_LENGTH = 22
"""Characters of an id with 128 bits in base64url. Every session has such an id."""
REFERENCE_LENGTH = 5
"""First characters of an id that choose its bucket, and refer to it. Of a million ids, some 460 share them with another one."""
FILL = 40
"""Mean number of ids in a bucket. More would be searched more slowly; with 16, each would take four bytes more."""
LEAST_WAITING = 512
"""So many ids that come together wait in shards, if there is room for them in the buckets."""
SHARDS = 1024
"""A power of two. The lowest bits of a bucket's number say its shard, so more buckets do not change the shard of an id."""
SETTLED_A_PAGE = 64
"""How many shards go to their buckets with a page of ids that need that: it takes as long as two pages do."""
_TOGETHER = 16
"""So many records of a shard become one text: as single ones they take 88 bytes each."""
_PART = 64
"""Bytes of the filter for each bucket. A power of two."""
_PAIRS = tuple(1 << one | 1 << other for one in range(8) for other in range(one))
_BITS = (*_PAIRS, *_PAIRS[:4])
"""The two bits of a byte that an id sets, by five bits of its hash: the highest but one, which choose no byte."""

_STEP_MS = 60_000
_FIRST_END = 26_297_280
"""The first minute that the digits of an end can say: that in which 2020 began."""
_END_DIGITS = 4
"""They say each minute until 2051. An id that is held for longer is in a dict."""
_MOST_ENDS = 64**_END_DIGITS
_RECORD = ID_LENGTH + _END_DIGITS
_DIGITS = "".join(char for char in map(chr, range(128)) if not (char.isalnum() or char in "-_"))
"""The digits of an end: 64 characters that no id has, so no id is ever found across the border of two records."""
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}


@lru_cache(1024)
def _end_text(end_ms: int) -> str | None:
    """Return the text of an end; None if it is no whole minute between 2020 and 2051. A greater end has a greater text."""
    minutes, rest = divmod(end_ms, _STEP_MS)
    minutes -= _FIRST_END
    if rest or not 0 <= minutes < _MOST_ENDS:
        return None
    return "".join(_DIGITS[minutes >> shift & 63] for shift in range(6 * _END_DIGITS - 6, -1, -6))


@lru_cache(1024)
def _end_ms(text: str) -> int:
    minutes = 0
    for digit in text:
        minutes = minutes * 64 + _VALUES[digit]
    return (_FIRST_END + minutes) * _STEP_MS


def _is_packable(id: str) -> bool:
    return len(id) == ID_LENGTH and is_of_ids(id)


def is_of_ids(text: str) -> bool:
    """Return whether a text has no other characters than ids have."""
    return text.isascii() and text.replace("-", "0").replace("_", "0").isalnum()


class Denials(MutableMapping[str, int]):
    """The ends of revoked ids, in milliseconds.

    Ids of another form, and ids that begin like a packed one, are in a dict: few in practice.

    Attributes:
        packed: how many ids are packed.
        others: those that are not: every id that no session has is there.
    """

    __slots__ = ("_buckets", "_expected", "_filter", "_is_filling", "_mask", "_sweep_at", "_sweep_upto", "_waiting", "others", "packed")

    def __init__(self) -> None:
        self.others: dict[str, int] = {}
        self.packed = 0
        self._buckets = [""]
        self._filter = bytearray(_PART)
        """A part for each bucket, and for each one that there will be before the filter grows. It never lacks the bits of a packed id."""
        self._mask = _PART - 1
        """One less than the size of the filter, which is a power of two. The masked hash of an id is its byte, and says its bucket."""
        self._expected = 0
        self._is_filling = False
        """Whether many ids have come since :meth:`settle_some` was called: more may come soon, and go to the same buckets."""
        self._waiting: list[list[str]] = []
        """By shard: texts of records that wait for their buckets. Empty while none does."""
        self._sweep_at: int | None = None
        self._sweep_upto = ""

    # Look-ups. Packed ids are looked at first: an id that moves to the others is there before it leaves its bucket.

    def has_any(self, one: str, other: str) -> bool:
        """Return whether one of two ids is revoked."""
        if self.packed:
            # A first sight of a token waits for this, so there is no loop. For most ids the byte is empty.
            filter, mask = self._filter, self._mask
            code = hash(one[:REFERENCE_LENGTH])
            held = filter[code & mask]
            if held and held & (bits := _BITS[code >> 58 & 31]) == bits and self._bucket_with(one):
                return True
            code = hash(other[:REFERENCE_LENGTH])
            held = filter[code & mask]
            if held and held & (bits := _BITS[code >> 58 & 31]) == bits and self._bucket_with(other):
                return True
            if mask != self._mask:  # the filter has grown meanwhile, and an id may have another byte
                return self.has_any(one, other)
        others = self.others
        return bool(others) and (one in others or other in others)

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self.has_any(id, id)

    def _bucket_with(self, id: str) -> str:
        """Return the bucket that holds an id; an empty text if none does."""
        if len(id) != ID_LENGTH:
            return ""
        code = hash(id[:REFERENCE_LENGTH])
        if self._waiting and (text := self._waiting_with(id, code)):  # first: an id is in its bucket before it waits no longer
            return text
        buckets, mask = self._buckets, self._mask
        count = len(buckets)
        bucket = buckets[self._index(code & mask)]
        if id in bucket:
            # Text that is no id may be found across a border.
            return bucket if bucket.find(id) % _RECORD == 0 else ""
        # A bucket that was added meanwhile may have taken the id.
        return "" if count == len(buckets) and mask == self._mask else self._bucket_with(id)

    def _waiting_with(self, begin: str, code: int) -> str:
        """Return the text of a shard in which a record begins so; an empty text if none does."""
        waiting = self._waiting
        for text in [*waiting[_shard_of(code)]] if waiting else ():
            if _found(text, begin) >= 0:
                return text
        return ""

    def __getitem__(self, id: str) -> int:
        if not (bucket := self._bucket_with(id)):
            return self.others[id]
        at = bucket.find(id) + ID_LENGTH
        return _end_ms(bucket[at : at + _END_DIGITS])

    def get(self, id: str, default: Any = None) -> Any:
        """Return the end of an id; the default if it is not revoked. It spares the look-up of an absent id an exception."""
        return self[id] if self.has_any(id, id) else default

    def reference(self, id: str) -> str | None:
        """Return a short name of a revoked id, which no other packed id has; None if the id is not packed."""
        return None if id in self.others else id[:REFERENCE_LENGTH]

    def referred(self, reference: str) -> tuple[str, int] | None:
        """Return the packed id that a reference names, with its end; None if it was dropped."""
        code = hash(reference)
        self._settle(_shard_of(code))
        bucket = self._buckets[self._index(code & self._mask)]
        at = _found(bucket, reference)
        return None if at < 0 else (bucket[at : at + ID_LENGTH], _end_ms(bucket[at + ID_LENGTH : at + _RECORD]))

    def referred_all(self, references: Iterable[str], replaced: Mapping[str, int]) -> list[Deny | None]:
        """Return the entries that references name; None for each that was dropped. It takes half of the time of :meth:`referred`.

        Args:
            references: of packed ids.
            replaced: when ids were replaced that were not logged out.
        """
        records = self._named(references)
        ends = {text: _end_ms(text) for text in {record[ID_LENGTH:] for record in records if record}}
        return [
            None if not record else Deny(id := record[:ID_LENGTH], ends[record[ID_LENGTH:]], replaced.get(id, 0) if replaced else 0)
            for record in records
        ]

    def columns(self, references: Iterable[str]) -> tuple[list[str], list[int]]:
        """Return the ids that references name, and the minute in which each ends, but for those that were dropped."""
        records = [record for record in self._named(references) if record]
        texts = [record[ID_LENGTH:] for record in records]
        minutes = {text: _end_ms(text) // _STEP_MS for text in {*texts}}
        return [record[:ID_LENGTH] for record in records], [minutes[text] for text in texts]

    def _named(self, references: Iterable[str]) -> list[str]:
        """Return the records that references name; an empty text for each that was dropped."""
        found: list[str] = []
        buckets, mask, size = self._buckets, self._mask, len(self._buckets) * _PART
        for reference in references:
            byte = hash(reference) & mask
            if self._waiting:
                self._settle(_shard_of(byte))
            bucket = buckets[(byte if byte < size else byte & mask >> 1) // _PART]
            at = bucket.find(reference)
            if at % _RECORD and (at := _found(bucket, reference)) < 0:
                found.append("")
            else:
                found.append(bucket[at : at + _RECORD])
        return found

    def __iter__(self) -> Iterator[str]:
        return (id for id, _ in self.ends())

    def ends(self) -> Iterator[tuple[str, int]]:
        """Yield all ids with their ends. Others may come meanwhile: an id that was there before, and is not dropped, is yielded."""
        self.settle(SHARDS)
        for bucket in self._buckets:  # an id moves to a bucket that was added meanwhile, or to the others, which both come later
            for at in range(0, len(bucket), _RECORD):
                yield bucket[at : at + ID_LENGTH], _end_ms(bucket[at + ID_LENGTH : at + _RECORD])
        yield from [*self.others.items()]

    def __len__(self) -> int:
        return self.packed + len(self.others)

    # Changes

    def __setitem__(self, id: str, end_ms: int) -> None:
        self.pop(id, None)
        self.extend(id, end_ms)

    def extend(self, id: str, end_ms: int) -> int:
        """Hold an id until this end, or until its present end if that is later; return the present end, 0 if it was not revoked."""
        buckets, reference = self._buckets, id[:REFERENCE_LENGTH]
        code = hash(reference)
        byte, bits = code & self._mask, _BITS[code >> 58 & 31]
        index = self._index(byte)
        # The bits depend on the reference alone, so they tell of other ids with this reference, too.
        may_be_there = self._filter[byte] & bits == bits
        if may_be_there and self._waiting:
            self._settle(_shard_of(code))
        bucket = buckets[index]
        at = _found(bucket, reference) if may_be_there else -1
        if at >= 0 and bucket.startswith(id, at) and len(id) == ID_LENGTH:
            return self._extend_packed(index, at, id, end_ms)
        if id in self.others:
            held_ms = self.others[id]
            self.others[id] = max(held_ms, end_ms)
            return held_ms
        text = _end_text(end_ms)
        if at >= 0 or text is None or not _is_packable(id):
            self.others[id] = end_ms
            return 0
        self._filter[byte] |= bits  # before the id is there
        buckets[index] = bucket + id + text
        self.packed += 1
        if self.packed > FILL * len(buckets):
            self._add_bucket()
        return 0

    def expect(self, count: int) -> None:
        """Note that there will soon be about so many ids, so that :meth:`add_all` makes buckets for them."""
        self._expected = count

    def add_all(self, ids: Sequence[str], ends_ms: Sequence[int], counts: dict[int, int]) -> tuple[Sequence[int], Sequence[int]]:
        """Add many ids, each until its end, rounded up to a whole minute, at a fraction of the cost of :meth:`extend`.

        Args:
            ids: the ids.
            ends_ms: the end of each.
            counts: takes, by end, how many ids were added.

        Returns:
            the indices of those that were added, and of those that :meth:`extend` must look at. An id that is held until the same end is
            neither.
        """
        if {*map(len, ids)} != {ID_LENGTH} or not is_of_ids("".join(ids)):
            return (), range(len(ids))
        # One for each id at most: an empty bucket takes 72 bytes, and whoever tells of too many ids must send them, too.
        for _ in range(min(self._expected // FILL - len(self._buckets), len(ids))):
            self._add_bucket()
        different = {*ends_ms}
        if any(end_ms % _STEP_MS for end_ms in different):
            ends_ms = [-(-end_ms // _STEP_MS) * _STEP_MS for end_ms in ends_ms]
            different = {*ends_ms}
        texts = {end_ms: _end_text(end_ms) for end_ms in different}
        codes = [*map(hash, [id[:REFERENCE_LENGTH] for id in ids])]
        has_room = LEAST_WAITING <= len(ids) <= FILL * len(self._buckets) - self.packed and len(self._buckets) >= SHARDS
        if has_room and None not in texts.values():
            added, left = self._let_wait(ids, [f"{id}{texts[end_ms]}" for id, end_ms in zip(ids, ends_ms, strict=True)], codes)
        elif self._waiting:
            if len(ids) >= LEAST_WAITING:
                self.settle(SETTLED_A_PAGE)
            return (), range(len(ids))
        else:
            added, left = self._add(ids, [texts[end_ms] for end_ms in ends_ms], codes)
        for end_ms, number in Counter(ends_ms if len(added) == len(ids) else [ends_ms[number] for number in added]).items():
            counts[end_ms] = counts.get(end_ms, 0) + number
        return added, left

    def _add(self, ids: Sequence[str], texts: Sequence[str | None], codes: Sequence[int]) -> tuple[list[int], list[int]]:
        """Add each id to its bucket. New buckets are made as they are needed."""
        added: list[int] = []
        left: list[int] = []
        buckets, filter, others = self._buckets, self._filter, self.others
        size, mask = len(buckets) * _PART, self._mask
        room = FILL * len(buckets) - self.packed
        for number, (id, text, code) in enumerate(zip(ids, texts, codes, strict=True)):
            byte, bits = code & mask, _BITS[code >> 58 & 31]
            index = (byte if byte < size else byte & mask >> 1) // _PART
            present, bucket = filter[byte], buckets[index]
            may_be_there = present & bits == bits
            if may_be_there and text is not None and id + text in bucket:
                continue
            if text is None or (others and id in others) or (may_be_there and id[:REFERENCE_LENGTH] in bucket):
                left.append(number)
                continue
            filter[byte] = present | bits  # before the id is there
            buckets[index] = f"{bucket}{id}{text}"
            added.append(number)
            room -= 1
            if room < 0:
                self.packed = FILL * len(buckets) - room
                self._add_bucket()
                size, mask = len(buckets) * _PART, self._mask
                room = FILL * len(buckets) - self.packed
        self.packed = FILL * len(buckets) - room
        return added, left

    # Ids that wait for their buckets

    def _let_wait(self, ids: Sequence[str], records: Sequence[str], codes: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Have many ids wait in shards. There are buckets for all of them."""
        numbers: Sequence[int] = range(len(ids))
        left: list[int] = []
        if not self.others.keys().isdisjoint(ids):
            left = [number for number in numbers if ids[number] in self.others]
            numbers = sorted({*numbers}.difference(left))
        self._is_filling = True
        if not self._waiting:
            self._waiting = [[] for _ in range(SHARDS)]
        filter, mask, waiting = self._filter, self._mask, self._waiting
        shift, last = _PART.bit_length() - 1, SHARDS - 1
        doubtful: list[int] = []
        # A node that learns a million ids spends most of the time in this loop. All that can be done at once stands above.
        for number in numbers:
            code = codes[number]
            byte, bits = code & mask, _BITS[code >> 58 & 31]
            present = filter[byte]
            if present & bits == bits:
                doubtful.append(number)
            else:
                filter[byte] = present | bits  # before the id is there
                waiting[code >> shift & last].append(records[number])
        known: list[int] = []
        for number in doubtful:
            code, record = codes[number], records[number]
            reference = record[:REFERENCE_LENGTH]
            text = self._waiting_with(reference, code) or self._buckets[self._index(code & mask)]
            if _found(text, reference) < 0:
                waiting[_shard_of(code)].append(record)
            else:
                (known if record in text else left).append(number)
        for texts in waiting:
            if len(texts) >= _TOGETHER and len(texts[-_TOGETHER]) == _RECORD:
                texts[-_TOGETHER:] = ["".join(texts[-_TOGETHER:])]
        if len(doubtful) > len(ids) // 8:  # they are known, and it takes long to find them while they wait
            self.settle(SETTLED_A_PAGE)
        if known or left:
            numbers = sorted({*numbers}.difference(known, left))
        self.packed += len(numbers)
        return numbers, left

    def settle_some(self, most: int) -> None:
        """Do :meth:`settle`, unless many ids have come since the last call."""
        if not self._is_filling:
            self.settle(most)
        self._is_filling = False

    def settle(self, most: int) -> None:
        """Move the ids that wait to their buckets, from so many shards. It takes half a millisecond for each."""
        for shard, texts in enumerate(self._waiting):
            if most > 0 and texts:
                self._settle(shard)
                most -= 1
        if most > 0:
            self._waiting = []

    def _settle(self, shard: int) -> None:
        if not self._waiting or not (texts := self._waiting[shard]):
            return
        mask, size = self._mask, len(self._buckets) * _PART
        groups: dict[int, list[str]] = {}
        for record in _records("".join(texts)):
            byte = hash(record[:REFERENCE_LENGTH]) & mask
            groups.setdefault((byte if byte < size else byte & mask >> 1) // _PART, []).append(record)
        for index, records in groups.items():
            self._buckets[index] = "".join([self._buckets[index], *records])
        self._waiting[shard] = []  # only then: a thread looks there first

    def _extend_packed(self, index: int, at: int, id: str, end_ms: int) -> int:
        bucket = self._buckets[index]
        held_ms = _end_ms(bucket[at + ID_LENGTH : at + _RECORD])
        if end_ms > held_ms:
            if (text := _end_text(end_ms)) is not None:
                self._buckets[index] = bucket[: at + ID_LENGTH] + text + bucket[at + _RECORD :]
            else:
                self.others[id] = end_ms
                self._remove(index, at)
        return held_ms

    def __delitem__(self, id: str) -> None:
        self._settle(_shard_of(hash(id[:REFERENCE_LENGTH])))
        if bucket := self._bucket_with(id):
            self._remove(self._index(hash(id[:REFERENCE_LENGTH]) & self._mask), bucket.find(id))
        else:
            del self.others[id]

    def _remove(self, index: int, at: int) -> None:
        bucket = self._buckets[index]
        self._hold(index, _records(bucket[:at] + bucket[at + _RECORD :]))
        self.packed -= 1

    def _hold(self, index: int, records: list[str]) -> None:
        """Have a bucket hold these of its records, and no others."""
        self._buckets[index] = "".join(records)
        if self._waiting:
            return  # the filter has the bits of the ids that wait, too
        parts = {index: bytearray(_PART)}
        later = index + (self._mask + 1 >> 1) // _PART  # the bucket that will take some of the records
        if len(self._buckets) <= later <= self._mask // _PART:
            parts[later] = bytearray(_PART)
        for record in records:
            code = hash(record[:REFERENCE_LENGTH])
            parts[(code & self._mask) // _PART][code % _PART] |= _BITS[code >> 58 & 31]
        for part, held in parts.items():
            self._filter[part * _PART : (part + 1) * _PART] = held

    def _index(self, byte: int) -> int:
        """Return the bucket of the ids that have this byte of the filter."""
        return (byte if byte < len(self._buckets) * _PART else byte & self._mask >> 1) // _PART

    def _add_bucket(self) -> None:
        buckets, new = self._buckets, len(self._buckets)
        if new * _PART > self._mask:
            self._filter *= 2  # so an id is found by its old byte and by its new one, whichever a thread looks at
            self._mask = 2 * self._mask + 1
        old, half = (new * _PART & self._mask >> 1) // _PART, self._mask + 1 >> 1
        bucket = buckets[old]
        stay: list[str] = []
        go: list[str] = []
        stays, goes = bytearray(_PART), bytearray(_PART)
        for at in range(0, len(bucket), _RECORD):
            code = hash(bucket[at : at + REFERENCE_LENGTH])
            if code & half:
                go.append(bucket[at : at + _RECORD])
                goes[code % _PART] |= _BITS[code >> 58 & 31]
            else:
                stay.append(bucket[at : at + _RECORD])
                stays[code % _PART] |= _BITS[code >> 58 & 31]
        # A thread that looks for an id in the old bucket looks again once there is a new one. So the new one comes first.
        if not self._waiting:  # else the filter has the bits of the ids that wait, too
            self._filter[new * _PART : (new + 1) * _PART] = goes
        buckets.append("".join(go))
        self._buckets[old] = "".join(stay)
        if not self._waiting:
            self._filter[old * _PART : (old + 1) * _PART] = stays

    def begin_sweep(self, upto_ms: int) -> None:
        """Begin to drop the packed ids that end at or before this; :meth:`sweep` does so. An earlier sweep is over then."""
        upto_ms = min(upto_ms - upto_ms % _STEP_MS, (_FIRST_END + _MOST_ENDS - 1) * _STEP_MS)
        self._sweep_at, self._sweep_upto = 0, _end_text(upto_ms) or ""

    @property
    def is_sweeping(self) -> bool:
        """Whether a sweep is under way."""
        return self._sweep_at is not None

    def sweep(self, most: int) -> list[str]:
        """Look at so many more packed ids, or a few more; return those that were dropped."""
        dropped: list[str] = []
        while self._waiting and most > 0:
            self.settle(1)
            most -= self.packed // SHARDS
        while self._sweep_at is not None and most > 0:
            # A bucket that is added meanwhile comes last, and is swept.
            if self._sweep_at >= len(self._buckets):
                self._sweep_at = None
                break
            bucket = self._buckets[self._sweep_at]
            most -= max(1, len(bucket) // _RECORD)
            records = _records(bucket)
            kept = [record for record in records if record[ID_LENGTH:] > self._sweep_upto]
            if len(kept) < len(records):
                dropped += [record[:ID_LENGTH] for record in records if record[ID_LENGTH:] <= self._sweep_upto]
                self.packed -= len(records) - len(kept)
                self._hold(self._sweep_at, kept)
            self._sweep_at += 1
        return dropped

    def check(self) -> None:
        """Check what must hold after each change.

        Raises:
            InvariantBroken: it does not hold.
        """
        waiting = [(shard, record) for shard, texts in enumerate(self._waiting) for record in _records("".join(texts))]
        ensure(all(_shard_of(hash(record[:REFERENCE_LENGTH])) == shard for shard, record in waiting), "each id waits in its shard")
        indices = [self._index(hash(record[:REFERENCE_LENGTH]) & self._mask) for _, record in waiting]
        records = [*zip(indices, (record for _, record in waiting), strict=True)]
        records += [(index, record) for index, bucket in enumerate(self._buckets) for record in _records(bucket)]
        ensure(len(records) == self.packed, "the packed ids are counted")
        indices = [self._index(hash(record[:REFERENCE_LENGTH]) & self._mask) for _, record in records]
        ensure(indices == [index for index, _ in records], "each id is in its bucket")
        ensure(all(record[:ID_LENGTH] in self for _, record in records), "the filter lets each id be found")
        ensure(len({record[:REFERENCE_LENGTH] for _, record in records}) == len(records), "a reference names one id")
        ensure(all(record[:ID_LENGTH] not in self.others for _, record in records), "each id is in one place")
        ensure(self._mask + 1 == len(self._filter), "the mask fits the filter")
        ensure(self._mask >> 1 < len(self._buckets) * _PART <= self._mask + 1, "each bucket has a part of the filter")


def _shard_of(code: int) -> int:
    return code // _PART % SHARDS


def _records(bucket: str) -> list[str]:
    return [bucket[at : at + _RECORD] for at in range(0, len(bucket), _RECORD)]


def _found(bucket: str, reference: str) -> int:
    """Return where the record of a reference begins; -1 if there is none."""
    at = bucket.find(reference)
    while at >= 0 and at % _RECORD:
        at = bucket.find(reference, at + 1)
    return at
