"""The right rules, and variants with one rule broken each. The variants exist to be caught, and are not part of the package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ha_session_mw._core.cluster.log_outs import LogOuts
from ha_session_mw._core.cluster.view import View
from ha_session_mw.models import Entry


@dataclass(frozen=True)
class Variant:
    """One set of the rules that every log shares.

    Attributes:
        reads_late: ``fresh_at`` is read after the look-up.
        keeps_yes: a peer's yes is kept for as long as the peer's lease lasts.
        cut_dated_ms: offset at which a cut is dated; None if it is not dated at all.
        denies_first: a session that takes a new id is denied under its old one before the log was asked, and even if that is refused.
        lists_what_may_be_lost: a token may list a cut that only its node knows.
        keeps_generation: an entry that is merged leaves the view's generation as it is.
        denial_ms: how long after a log-out its denial ends; None for the absolute end of its session.
        drops_repeated_cuts: what ends no session, as far as ``this`` node knows, or ``each`` node says, is no second log-out everywhere.
        checks: each part's invariants are checked after each step. A broken rule is first caught by its schedule, without them.
    """

    name: str
    reads_late: bool = False
    keeps_yes: bool = False
    cut_dated_ms: int | None = 0
    denies_first: bool = False
    lists_what_may_be_lost: bool = False
    keeps_generation: bool = False
    denial_ms: int | None = None
    drops_repeated_cuts: Literal["never", "this", "each"] = "never"
    checks: bool = False

    def new_view(self) -> View:
        return KeepsGeneration() if self.keeps_generation else View()


class KeepsGeneration(View):
    """Merges entries, and forgets to say so."""

    __slots__ = ()

    def merge(self, entry: Entry) -> bool:
        generation = self.generation
        is_news = super().merge(entry)
        self.generation = generation
        return is_news

    def merge_all(self, entries: Iterable[Entry]) -> list[Entry]:
        generation = self.generation
        news = super().merge_all(entries)
        self.generation = generation
        return news

    def merge_log_outs(self, log_outs: LogOuts) -> tuple[Sequence[str], list[Entry]]:
        generation = self.generation
        news = super().merge_log_outs(log_outs)
        self.generation = generation
        return news
