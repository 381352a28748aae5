"""The settings' table, and its row: a field that accepts a loose value and is read as a precise one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, dataclass_transform, overload

ENV_PREFIX = "HA_SESSION_"

Value = TypeVar("Value")
Given = TypeVar("Given")


class Setting(Generic[Value, Given]):
    """A field with a rule. Constructors accept a ``Given``, such as ``"30m"``; readers get a ``Value``, such as 1800.0.

    A descriptor, because type checkers then know both types. The :class:`Table` stores the given value, and its ``__post_init__`` replaces
    it by the parsed value.

    Attributes:
        parse: returns the value, or raises ValueError with the rule. The docstring of ``parse`` is the rule in short.
        default: the value to parse if none is given.
        help: the meaning of the setting, for the reference.
        is_secret: whether no fault and no repr may show the value.
        replaced_by: the setting that replaces this deprecated one; None for a current setting.
        name: of the field.
    """

    def __init__(self, parse: Callable[[object], Value], default: Given, help: str, *, is_secret: bool = False) -> None:
        self.parse = parse
        self.default = default
        self.help = help
        self.is_secret = is_secret
        self.replaced_by: Setting[Value, Given] | None = None
        self.name = ""

    def renamed(self) -> Setting[Value, Given]:
        """The same setting under a deprecated name."""
        old = Setting(self.parse, self.default, self.help, is_secret=self.is_secret)
        old.replaced_by = self
        return old

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Given: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        return self.default if instance is None else instance.__dict__[self.name]

    def __set__(self, instance: object, value: Given) -> None:
        instance.__dict__[self.name] = value


class _DataclassFields:
    """The fields for ``dataclasses.replace()``, ``fields()`` and ``asdict()``. Built at the first use, not at import."""

    def __get__(self, instance: object | None, owner: type[Table]) -> dict[str, Any]:
        from dataclasses import fields, make_dataclass

        rows = [(name, Any, default) for name, default in owner.fields().items()]
        return {row.name: row for row in fields(make_dataclass(owner.__name__, rows, kw_only=True))}


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Table:
    """A frozen dataclass whose fields are given by keyword.

    ``@dataclass`` would compile an ``__init__`` of so many arguments, which takes a tenth of our import.
    """

    __dataclass_fields__ = _DataclassFields()

    def __init__(self, **given: Any) -> None:
        fields = self.fields()
        if unknown := given.keys() - fields.keys():
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(map(repr, unknown)))}")
        vars(self).update(fields, **given)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Checks and parses the given values."""

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """The default of each field, before it is parsed."""
        return {name: getattr(cls, name) for base in reversed(cls.__mro__) for name in getattr(base, "__annotations__", ())}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be removed")

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper()
