"""Objects as values: an object's parts in nested tuples that compare, hash, and become an object again.

So a search recognizes a state that it has visited, and needs no list of the state's parts: a new field of a class of the core
belongs to the state at once.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections import deque
from collections.abc import Callable, Hashable
from functools import cache
from typing import Any

import msgspec

Frozen = Any
"""A number, a text or None; an immutable structure; or a tuple of a class and the parts of its object."""

_ATOMS = frozenset({type(None), bool, int, float, str, range, frozenset})


class _Again:
    """Stands for an object that is held in two places, where it is met again: after it, its number."""


@cache
def _is_immutable(cls: Hashable) -> bool:
    """Whether objects of this class can be compared, and never change."""
    if isinstance(cls, type) and issubclass(cls, msgspec.Struct):
        return cls.__struct_config__.frozen
    if isinstance(cls, type) and issubclass(cls, tuple) and cls is not tuple:
        return True  # a NamedTuple
    return dataclasses.is_dataclass(cls) and bool(cls.__dataclass_params__.frozen)  # type: ignore[attr-defined]


@cache
def _slots(cls: Hashable) -> tuple[str, ...]:
    return tuple(
        name
        for base in cls.__mro__  # type: ignore[attr-defined]
        for name in base.__dict__.get("__slots__", ())
    )


def freeze(thing: object) -> Frozen:
    """Return the parts of an object. Objects that behave alike may differ here; objects that are equal here behave alike."""
    met: dict[int, int] = {}

    def walk(it: Any) -> Frozen:
        cls: Any = type(it)
        if cls in _ATOMS or _is_immutable(cls):
            return it
        if cls is tuple or cls is list or cls is deque or cls is array:
            return (cls, *map(walk, it))
        if cls is dict:
            return (cls, *((key, walk(value)) for key, value in sorted(it.items())))
        if cls is set:
            return (cls, *sorted(it))
        if cls is bytearray:
            return (cls, bytes(it))
        if id(it) in met:
            return (_Again, met[id(it)])
        met[id(it)] = len(met)
        named = [(name, walk(value)) for name, value in sorted(getattr(it, "__dict__", {}).items())]
        return (cls, tuple(named), *(walk(getattr(it, name)) for name in _slots(cls)))

    return walk(thing)


def thaw(frozen: Frozen) -> Any:
    """Return a new object with these parts."""
    met: list[object] = []

    def walk(it: Frozen) -> Any:
        if type(it) is not tuple:
            return it
        cls, *parts = it
        if cls is _Again:
            return met[parts[0]]
        made = _COLLECTIONS.get(cls)
        if made is not None:
            return made(parts, walk)
        thing = cls.__new__(cls)
        met.append(thing)
        for name, value in parts[0]:
            setattr(thing, name, walk(value))
        for name, value in zip(_slots(cls), parts[1:], strict=True):
            setattr(thing, name, walk(value))
        return thing

    return walk(frozen)


_COLLECTIONS: dict[type, Callable[[list[Frozen], Callable[[Frozen], Any]], Any]] = {
    tuple: lambda parts, walk: tuple(map(walk, parts)),
    list: lambda parts, walk: list(map(walk, parts)),
    deque: lambda parts, walk: deque(map(walk, parts)),
    array: lambda parts, walk: array("Q", parts),
    set: lambda parts, walk: set(parts),
    bytearray: lambda parts, walk: bytearray(parts[0]),
    dict: lambda parts, walk: {key: walk(value) for key, value in parts},
}
