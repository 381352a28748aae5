"""The ``dict`` below a session: it notes each access and change, and refuses a change that could not be saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from .._core.token import data
from ..manager import node_of
from .late import admit
from .state import RequestState


class TrackedDict(dict[str, Any]):
    """A ``dict`` that notes whether it was accessed and modified.

    A change must fit into a token or a record, and the session must not be read-only. Otherwise the change itself raises.

    Attributes:
        accessed: whether the app asked for the session.
        modified: whether the app changed the session. Changes inside nested values are found when the response starts.
    """

    # ``accessed``, ``modified`` and the state are read on each request, and a slot is read in a third of the time.
    __slots__ = ("__dict__", "__weakref__", "_state", "accessed", "modified")

    _state: RequestState
    accessed: bool
    modified: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._state = RequestState()
        self.accessed = self.modified = False

    def mark_accessed(self) -> None:
        """Note that the app asked for the session."""
        self.accessed = True

    def mark_modified(self) -> None:
        """Note that the session changed.

        Raises:
            SessionReadOnly: the change can neither reach the client nor the store.
        """
        if self._state.read_only is not None:
            admit(self._state)
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
