"""The ``dict`` below a session: it notes each access and change, and refuses a change that could not be saved."""

from __future__ import annotations

from collections.abc import Mapping
from threading import RLock
from typing import Any, Self

from .._core.token import data
from .._core.token.tokens import Verified
from ..manager import SessionManager, node_of
from .late import admit
from .state import STARTED, RequestState

_MAKING = RLock()


class TrackedDict(dict[str, Any]):
    """A ``dict`` that notes whether it was accessed and modified.

    A change must fit into a token or a record, and the session must not be read-only. Otherwise the change itself raises.

    Attributes:
        accessed: whether the app asked for the session.
        modified: whether the app changed the session. Changes inside nested values are found when the response starts.
    """

    # Each request sets these and reads most of them, and a slot is read in a third of the time.
    __slots__ = ("__dict__", "__weakref__", "_made", "_manager", "_verified", "accessed", "modified")

    _made: RequestState | str | bytes | None
    """The state, once it is made. Before, it is nested data as it travels, and None for other data. It is ``STARTED`` once the response
    has started, if nothing has changed until then."""
    _manager: SessionManager | None
    _verified: Verified | None
    """The token that came in and is valid. The state has it, too."""
    accessed: bool
    modified: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._made = self._manager = self._verified = None
        self.accessed = self.modified = False

    @property
    def _state(self) -> RequestState:
        """The state. It is made when it is asked for, because a request that only reads its data needs none."""
        made = self._made
        if type(made) is RequestState:
            return made
        with _MAKING:  # an app may use its session in several threads
            made = self._made
            if not isinstance(made, RequestState):
                verified, read_only = self._verified, STARTED if made is STARTED else None
                transport = None if verified is None else verified.transport
                content = None if verified is None or read_only is None else verified.nested_data
                self._made = made = RequestState(self._manager, verified, transport, read_only=read_only, content_when_closed=content)
        return made

    def mark_accessed(self) -> None:
        """Note that the app asked for the session."""
        self.accessed = True

    def mark_modified(self) -> None:
        """Note that the session changed.

        Raises:
            SessionReadOnly: the change can neither reach the client nor the store.
        """
        if self._made is not None and (state := self._state).read_only is not None:
            admit(state)
        self.accessed = True
        self.modified = True

    def _apply(self, change: Mapping[str, Any], *, anew: bool = False) -> None:
        """Make a change, unless its result could not be saved.

        Args:
            change: the values to set.
            anew: whether they take the place of the whole content.
        """
        self.mark_modified()
        candidate = dict(change) if anew else {**self, **change}
        state = self._state
        if (manager := state.manager) is not None:
            raw = data.encode_changed(candidate, change, before=self, known=state.fitted or state.came_in_data)
            state.fitted = node_of(manager).issuer.fit(state.claims, candidate, raw=raw)
        super().clear()
        super().update(candidate)

    def __setitem__(self, key: str, value: Any) -> None:
        self._apply({key: value})

    def __delitem__(self, key: str) -> None:
        self.mark_modified()
        super().__delitem__(key)

    def replace(self, content: Mapping[str, Any]) -> None:
        """Replace the whole content. Unlike ``clear``, an empty content does not log a subject out."""
        self._apply(content, anew=True)

    def pop(self, key: str, *default: Any) -> Any:
        if key in self:
            self.mark_modified()
        return super().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        self.mark_modified()
        return super().popitem()

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._apply(dict(*args, **kwargs))

    def __ior__(self, other: Any, /) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[dict[str, Any]]]:
        """Copy and pickle the data alone, as a session made by hand: only the request's own session is committed."""
        return type(self), (dict(self),)
