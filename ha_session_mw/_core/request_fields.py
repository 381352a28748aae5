"""Read the header fields of a request within bounds, so that no client can make a node work on a large header.

Each bound lies well above what browsers and proxies send. Work on a field that a client fills is linear in its bound.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice

from ..exceptions import HeadersTooLarge

Header = tuple[bytes, bytes]

MAX_FIELDS = 512
"""The most header fields of a request. HTTP/2 may send each cookie as a field of its own, and browsers keep at most 180 for a site."""
MAX_CREDENTIAL_BYTES = 64 * 1024
"""The most bytes of ``Cookie`` and ``Authorization`` together. Servers and balancers accept 8 to 64 kB for the whole header."""
MAX_LIST_BYTES = 4096
"""The most bytes of a field that is a list, such as ``Accept``, all its lines together. Browsers send less than 300."""
MAX_LIST_ITEMS = 32
"""The most items of such a list."""


def credentials(headers: Collection[Header], names: Collection[bytes]) -> list[Header]:
    """Return the header fields that can carry a token.

    Raises:
        HeadersTooLarge: the request has more fields than ``MAX_FIELDS``, or these fields more bytes than ``MAX_CREDENTIAL_BYTES``.
    """
    if len(headers) > MAX_FIELDS:
        raise HeadersTooLarge(f"more than {MAX_FIELDS} header fields", check="presented")
    found = [field for field in headers if field[0] in names]
    if sum(len(value) for _, value in found) > MAX_CREDENTIAL_BYTES:
        raise HeadersTooLarge(f"more than {MAX_CREDENTIAL_BYTES} bytes of cookies and credentials", check="presented")
    return found


def values(headers: Iterable[Header], name: bytes) -> list[bytes]:
    """Return the values of a field in their order, each as often as it was sent, among the first ``MAX_FIELDS`` fields."""
    return [value for field, value in islice(headers, MAX_FIELDS) if field == name]


def last_value(headers: Iterable[Header], name: bytes, most: int) -> str:
    """Return the first ``most`` characters of a field: of the last one if it was sent several times. Empty if it was not sent."""
    found = values(headers, name)
    return found[-1][:most].decode("latin-1") if found else ""


def list_items(headers: Iterable[Header], name: bytes) -> list[str]:
    """Return the items of a field that is a list (RFC 9110 section 5.6.1), in lower case; none if it is longer than the bounds."""
    found = values(headers, name)
    if sum(map(len, found)) > MAX_LIST_BYTES:
        return []
    items = b",".join(found).decode("latin-1").lower().split(",", MAX_LIST_ITEMS)
    return items if len(items) <= MAX_LIST_ITEMS else []
