"""Log-outs of many sessions by column: no object stands for one until somebody asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from ...models import Deny


class LogOuts(Sequence[Deny]):
    """Log-outs: ids, and the end of each.

    Attributes:
        ids: what is logged out.
        ends_ms: until when each is denied.
    """

    __slots__ = ("ends_ms", "ids")

    def __init__(self, ids: Sequence[str], ends_ms: Sequence[int]) -> None:
        self.ids = ids
        self.ends_ms = ends_ms

    def some(self, numbers: Iterable[int]) -> LogOuts:
        """Return those with these indices."""
        numbers = [*numbers]
        return LogOuts([self.ids[number] for number in numbers], [self.ends_ms[number] for number in numbers])

    @overload
    def __getitem__(self, index: int) -> Deny: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Deny]: ...
    def __getitem__(self, index: int | slice) -> Deny | Sequence[Deny]:
        if isinstance(index, slice):
            return LogOuts(self.ids[index], self.ends_ms[index])
        return Deny(self.ids[index], self.ends_ms[index])

    def __iter__(self) -> Iterator[Deny]:
        return map(Deny, self.ids, self.ends_ms)

    def __len__(self) -> int:
        return len(self.ids)
