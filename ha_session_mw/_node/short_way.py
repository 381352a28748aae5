"""The short way: a token that the accept rule has accepted is accepted again without the rule, as long as nothing has changed.

The argument for this is in docs/explanation/speed.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .._core.cluster.view import View
from .._core.token.tokens import Transport, Verified
from .counted_tokens import CountedTokens

FOREVER = math.inf
"""The freshness of a view with no other node to lose contact with."""


class ShortWay:
    """The short way of one node.

    A call takes a fortieth of everything that a session adds to a request. So ``asgi/middleware.py`` has a copy of :meth:`recall`, which
    ``tests/node/test_the_short_way.py`` compares with this one.

    Attributes:
        cached: returns the token that the cache has under a header field.
        accepted: counts the tokens, and reads the clock.
        view: this node's view.
        poll_now: see :class:`ClusterLog`.
        is_within_lease: whether a view of such a freshness may accept tokens at this time.
        recall_sample: does as :meth:`recall` for a token that is a sample if it is accepted.
    """

    __slots__ = ("accepted", "cached", "is_within_lease", "poll_now", "recall_sample", "view")

    def __init__(
        self,
        cached: Callable[[bytes | None], Verified | None],
        accepted: CountedTokens,
        view: View,
        poll_now: Callable[[], None] | None,
        *,
        is_within_lease: Callable[[float, float], bool],
        recall_sample: Callable[[bytes | None, Transport | None], Verified | None],
    ) -> None:
        self.cached = cached
        self.accepted = accepted
        self.view = view
        self.poll_now = poll_now
        self.is_within_lease = is_within_lease
        self.recall_sample = recall_sample

    def recall(self, field: bytes | None, transport: Transport | None) -> Verified | None:
        """Return a token in the cache that the accept rule has accepted under the present view. For any other, the rule must be asked.

        Args:
            field: the header field that carries the token, and no other.
            transport: of that field.
        """
        short = self
        verified = short.cached(field)
        if verified is not None:
            for now_s in short.accepted.readings:
                if short.poll_now is not None:
                    short.poll_now()
                # Under this very view, only the times, the floor and the freshness may have changed. No token that ends after the floor
                # is refused by it. The freshness is read before the generation, see ``decide``.
                view = short.view
                if not (
                    (view.fresh_at == FOREVER or short.is_within_lease(view.fresh_at, now_s))
                    and verified.generation is view.generation
                    and verified.transport is transport
                    and verified.from_s <= now_s
                    and now_s < verified.until_s
                    and now_s >= view.floor_s
                ):
                    short.accepted.take_back()
                    verified = None
                break
            else:
                verified = short.recall_sample(field, transport)
        return verified
