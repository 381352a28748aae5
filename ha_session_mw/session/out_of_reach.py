"""A session whose data is in a record: it came from there, or cannot be reached there at this moment."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import TYPE_CHECKING, Any, NoReturn

from .._core.records.session_data import Stored
from .._core.token.data import decode
from ..exceptions import RecordLost, StoreUnavailable
from ..models import Acknowledgement
from .session import Session, Way, blank

if TYPE_CHECKING:
    from .._core.token.tokens import Verified
    from ..manager import SessionManager


class SessionOutOfReach(Session):
    """A session that stands, and whose data cannot be reached: what does without the data works, and the rest tells why.

    It can be renewed, cycled and logged out. Whatever reads or writes the data raises StoreUnavailable, and so the data is not
    lost by an app that writes to what looks empty.
    """

    __slots__ = ()
    _out_of_reach: StoreUnavailable

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise type(self._out_of_reach)(self._out_of_reach.reason)

    def _give_up(self) -> None:
        """There is no data any more that could be reached: from here on this is an empty session."""
        self.__class__ = Session  # type: ignore[assignment]
        del self._out_of_reach

    def login(self, subject: str) -> None:
        if not isinstance(self._out_of_reach, RecordLost):
            self._refuse()
        self.mark_modified()
        self._give_up()
        self.login(subject)

    def clear(self) -> None:
        self.mark_modified()
        self._give_up()
        self.clear()

    async def revoke(self) -> Acknowledgement:
        self._give_up()
        return await self.revoke()

    def __contains__(self, key: object) -> bool:
        self._refuse()

    def __iter__(self) -> Iterator[str]:
        self._refuse()

    def __len__(self) -> int:
        self._refuse()

    def __getitem__(self, key: str) -> Any:
        self._refuse()

    def __delitem__(self, key: str) -> None:
        self._refuse()

    def __eq__(self, other: object) -> bool:
        self._refuse()

    def __ne__(self, other: object) -> bool:
        self._refuse()

    __hash__ = None  # type: ignore[assignment]

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        self._refuse()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        self._refuse()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        self._refuse()

    get = copy = pop = popitem = setdefault = _apply = __reversed__ = __or__ = __ror__ = _refuse


def stored_session_of(manager: SessionManager, verified: Verified, way: Way | None, stored: Stored | StoreUnavailable) -> Session:
    """The session of a request whose data came from a record, or could not be reached there."""
    session = blank(Session if isinstance(stored, Stored) else SessionOutOfReach)
    session._manager, session._verified, session._way = manager, verified, way
    session._quiet_until_ms = verified.quiet_until_ms
    if isinstance(stored, Stored):
        session._stored = stored
        dict.update(session, decode(stored.data))
    else:
        session._out_of_reach = stored
    return session
