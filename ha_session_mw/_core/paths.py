"""Which paths need a session, and on which paths no session is looked at. Protection counts for every spelling of a path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase, translate
from functools import lru_cache
from typing import Literal
from urllib.parse import unquote

PathKind = Literal["open", "protected", "guarded", "exempt"]
"""``guarded``: open to the middleware, and a guard of the handler requires a session (``asgi/guards.py``)."""

LONGEST_PATH = 4096
"""Characters of the longest path that is compared with patterns. A longer path counts as protected, and is never exempt or relaxed."""
LONGEST_ODD_PATH = 1024
"""Characters of the longest path whose spellings are worked out. A longer path counts as protected, unless it has one spelling only."""
MOST_SPELLING_WORK = 40_000
"""How many characters of spellings are worked out. Each spelling counts for 300 more, so a short path may have some 100 spellings, and a
long one 30. A path with more counts as protected. An honest path has a dozen at most."""
MOST_DECODINGS = 4
"""How often percent-encoding is undone, beyond the server's own decoding. No chain of proxies decodes more often."""


class TooManySpellings(ValueError):
    """A path has so many spellings that working them out would cost too much."""


class PathRules:
    """Sorts paths by patterns, compared as by ``fnmatch.fnmatchcase``: ``*`` stands for any characters, ``/`` among them.

    A path is protected if it, *or any path that a router may take it for* (:func:`spellings`), matches a pattern of ``protect``.
    A path is exempt or relaxed only as it is spelled. So an odd spelling never opens a protected path.

    Exceptions open a path that ``protect`` matches: a pattern of ``public``, or one of ``exempt`` that lies wholly inside each matching
    pattern of ``protect``. They must match the path as it is spelled, and every other spelling that is protected.
    """

    def __init__(self, *, protect: Sequence[str], exempt: Sequence[str], public: Sequence[str] = (), relaxed: Sequence[str] = ()) -> None:
        self._protect = _union(protect)
        self._exempt = _union(exempt)
        self._openings = _Openings(protect, public, exempt)
        self._openings_of_spellings = _Openings(protect, _with_twins(public), _with_twins(exempt))
        self._relaxed = _union(relaxed)
        self._remembered = lru_cache(maxsize=1024)(self._kind_of)

    def __bool__(self) -> bool:
        return self._protect is not None or self._exempt is not None

    def kind_of(self, path: str, root_path: str = "") -> PathKind:
        """Return the kind of a path.

        Args:
            path: the path of the request, with the root path.
            root_path: the root path of the app, as the server or an outer router gives it.
        """
        # No app has long paths of its own. Remembering them would let a client fill the memory.
        return self._remembered(path, root_path) if len(path) < 256 else self._kind_of(path, root_path)

    def is_relaxed(self, path: str) -> bool:
        """Whether a path, given below the root path, may be served on a stale view."""
        return self._relaxed is not None and len(path) <= LONGEST_PATH and self._relaxed.match(path) is not None

    def _kind_of(self, path: str, root_path: str) -> PathKind:
        if self._protect and self._is_protected(path, root_path, self._protect):
            return "protected"
        if self._exempt and len(path) <= LONGEST_PATH and self._exempt.match(below_root(path, root_path)):
            return "exempt"
        return "open"

    def _is_protected(self, path: str, root_path: str, protect: re.Pattern[str]) -> bool:
        if len(path) > LONGEST_PATH or (len(path) > LONGEST_ODD_PATH and _ODD.search(path)):
            return True
        try:
            found = [spelling for spelling in spellings(path, root_path) if protect.match(spelling)]
        except TooManySpellings:
            return True
        if not found or not self._openings.match(below_root(path, root_path)):
            return bool(found)
        return not all(self._openings_of_spellings.match(below_root(spelling, root_path)) for spelling in found)


class _Openings:
    """The patterns that open paths which patterns of ``protect`` match."""

    def __init__(self, protect: Sequence[str], public: Sequence[str], exempt: Sequence[str]) -> None:
        self._public = _union(public)
        self._exempt = [(_union([one]), _union([other for other in protect if not covers(other, one)])) for one in exempt]

    def match(self, path: str) -> bool:
        """Whether a path that ``protect`` matches is open all the same."""
        if self._public and self._public.match(path):
            return True
        return any(one and one.match(path) and not (others and others.match(path)) for one, others in self._exempt)


def _with_twins(patterns: Sequence[str]) -> list[str]:
    """Return the patterns, and those of the same pages for a router that ignores the slash at the end."""
    return [*patterns, *(pattern.rstrip("/") or "/" for pattern in patterns if pattern.endswith("/"))]


def _union(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(translate(pattern) for pattern in patterns)) if patterns else None


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a path, given below the root path, matches one of the patterns."""
    union = _union(patterns)
    return lambda path: union is not None and len(path) <= LONGEST_PATH and union.match(path) is not None


def literally(path: str) -> str:
    """Return the pattern that matches this path only."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)


def covers(pattern: str, other: str) -> bool:
    """Whether a pattern certainly matches every path that another, different pattern matches."""
    # Only a ``*`` matches a ``*`` that is read as a character. With ``?`` and ``[`` that is not so.
    plain = not {"?", "["} & {*pattern, *other}
    return plain and pattern != other and fnmatchcase(other, pattern)


def below_root(path: str, root_path: str) -> str:
    """Return the part of a request's path that the app routes by, after ASGI: the path below the root path."""
    if root_path and path.startswith(root_path) and path[len(root_path) : len(root_path) + 1] in ("", "/"):
        return path[len(root_path) :] or "/"
    return path


# Routers end a pattern with ``$``, which a newline passes (Starlette). They strip and collapse slashes (Litestar, werkzeug). They cut
# the root path off without looking at what follows (Quart, Django), or at its first occurrence anywhere (Litestar). They parse what
# has no slash in front as a URL (Quart). Proxies, and apps mounted inside, decode once more, resolve dot segments, or drop the
# parameters of a segment (RFC 3986 section 3.3).

_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f%;?#\\]|//|/\.|[/\s]\Z|\A(?!/)")
"""Finds parts of a path that may be spelled in another way. A path without it, and without a root path, has one spelling."""
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SCHEME = re.compile(r"\A[^/]*")
_AUTHORITY = re.compile(r"\A[^/]*//[^/]*")
"""The scheme, and the host, of a request target in absolute form (RFC 9112 section 3.2.2)."""
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_PARAMETERS = re.compile(r";[^/]*")
_SLASHES = re.compile(r"/{2,}")


def _without_root(path: str, root_path: str) -> Iterator[str]:
    for root in {root_path, root_path.rstrip("/")} - {""}:
        _, occurs, rest = path.partition(root)
        if occurs:
            yield rest


def _decoded(path: str) -> Iterator[str]:
    for _ in range(MOST_DECODINGS):
        if "%" not in path:
            return
        path = unquote(path)
        yield path


def _visible(path: str) -> Iterator[str]:
    yield _INVISIBLE.sub("", path).strip()


def _without_authority(path: str) -> Iterator[str]:
    yield _SCHEME.sub("", path)
    yield _AUTHORITY.sub("", path)


def _without_query(path: str) -> Iterator[str]:
    yield _QUERY.sub("", path)


def _without_parameters(path: str) -> Iterator[str]:
    yield _PARAMETERS.sub("", path)


def _with_slashes(path: str) -> Iterator[str]:
    yield path.replace("\\", "/")


def _collapsed(path: str) -> Iterator[str]:
    yield _SLASHES.sub("/", "/" + path)


def _resolved(path: str) -> Iterator[str]:
    """Remove dot segments (RFC 3986 section 5.2.4)."""
    if "/." not in path:
        return
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[max(1, len(kept) - 1) :]
        elif segment != ".":
            kept.append(segment)
    yield "/".join(kept) if len(kept) > 1 else "/"


def _without_trailing_slash(path: str) -> Iterator[str]:
    yield path.rstrip("/") or "/"


_READINGS = (
    *(_decoded, _visible, _without_query, _without_parameters),
    *(_with_slashes, _collapsed, _resolved, _without_trailing_slash),
)
"""The rewritings that routers and proxies apply to a path, in this order. Each of them is optional."""


def spellings(path: str, root_path: str = "") -> set[str]:
    """Return the path, and every other path that a router or a proxy before it may read it as.

    Raises:
        TooManySpellings: there are more than ``MOST_SPELLING_WORK`` allows.
    """
    if not root_path and not _ODD.search(path):
        return {path}
    found = {path, *_without_authority(path)}
    found.update([rest for one in found for rest in _without_root(one, root_path)])
    for read in _READINGS:
        found.update([spelling for one in found for spelling in read(one)])
        if len(found) * (len(path) + 300) > MOST_SPELLING_WORK:
            raise TooManySpellings
    return found
