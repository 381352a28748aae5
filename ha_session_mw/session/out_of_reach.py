"""A session whose data is in a record that cannot be reached."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any, NoReturn

from .._core.token.tokens import Transport
from ..exceptions import StoreMissing
from ..models import Acknowledgement
from .session import Session


class SessionOutOfReach(Session):
    """A valid session whose data cannot be reached. Operations that need no data work; the others raise ``StoreUnavailable``.

    It can be renewed, cycled and logged out. Reading and writing raise, so that an app does not take the session for an empty
    one and overwrite its data.
    """

    __slots__ = ()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        why = self._state.out_of_reach
        if why is None:
            raise TypeError("the data of this session is within reach")
        raise type(why)(why.reason)

    def _give_up(self) -> None:
        """Become an empty session, whose data no longer matters."""
        self.__class__ = Session  # type: ignore[assignment]
        self._state.out_of_reach = None

    def login(
        self,
        subject: str,
        *,
        idle: float | str | None = None,
        absolute: float | str | None = None,
        persistent: bool = True,
        transport: Transport | None = None,
    ) -> None:
        if not isinstance(self._state.out_of_reach, StoreMissing):
            self._refuse()
        self.mark_modified()
        self._give_up()
        self.login(subject, idle=idle, absolute=absolute, persistent=persistent, transport=transport)

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
