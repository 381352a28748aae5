"""Messages of etcd's v3 JSON gateway, and the meaning of each answer. Performs no I/O.

The gateway omits empty and zero fields, writes 64-bit integers as text, and bytes as base64. Errors arrive flat, nested in a
stream, or as plain text (https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
Operation = Mapping[str, Mapping[str, object]]
Comparison = Mapping[str, object]

# Errors. The caller decides what follows from each.


class EtcdError(Exception):
    """A call failed. ``str()`` completes a sentence that begins with "etcd "; it contains no address and no text of the server."""


class EtcdUnavailable(EtcdError):
    """No endpoint with a quorum answered in time. A write may or may not have been applied."""


class EtcdSilent(EtcdUnavailable):
    """A watch brings nothing. Either its endpoint is frozen, or nobody writes anything."""


class EtcdForeign(EtcdUnavailable):
    """The endpoint is not an etcd. Another endpoint may be one."""


class EtcdFull(EtcdUnavailable):
    """etcd has reached its space quota. Nothing was written, and nothing will be until an operator frees space."""


class EtcdRefused(EtcdError):
    """The user, the password or the certificate is not accepted or lacks a permission. Repeating the call gives the same answer."""


class EtcdRejected(EtcdError):
    """etcd will never accept this request. It was not applied."""


class EtcdCompacted(EtcdError):
    """etcd has discarded the requested history. The caller must load everything again."""


class AuthenticationNeeded(Exception):
    """The request carried no valid token, or was denied, perhaps for lack of one.

    Attributes:
        denied: whether etcd denied a permission. A request with a certificate and no token is denied in the same way.
    """

    def __init__(self, text: str, *, denied: bool = False) -> None:
        super().__init__(text)
        self.denied = denied

    def final(self) -> EtcdError:
        """Return the error that this answer stands for when the request carried a new token."""
        return EtcdRefused(str(self)) if self.denied else EtcdUnavailable(str(self))


# Messages.


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    """A key and its value at a revision."""

    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0


class Header(msgspec.Struct, frozen=True, gc=False):
    """The state of the whole store at the time of an answer."""

    revision: int = 0


class Event(msgspec.Struct, frozen=True, gc=False):
    """A change of one key. The event of a deletion carries only the key's name and the revision."""

    kv: KeyValue = KeyValue()
    type: str = "PUT"

    @property
    def is_deletion(self) -> bool:
        return self.type == "DELETE"


class Page(msgspec.Struct, frozen=True):
    """Some keys of a range, in their order."""

    header: Header = Header()
    kvs: tuple[KeyValue, ...] = ()
    more: bool = False


class Transaction(msgspec.Struct, frozen=True):
    """The outcome of a transaction. ``succeeded`` tells which of the two branches was executed."""

    header: Header = Header()
    succeeded: bool = False


class _Response(msgspec.Struct, frozen=True):
    response_range: Page = Page()


class Reads(msgspec.Struct, frozen=True):
    """The outcome of a transaction that reads, in the order of its operations."""

    responses: tuple[_Response, ...] = ()


class Granted(msgspec.Struct, frozen=True):
    """A lease. One without a time to live has ended."""

    id: int = msgspec.field(name="ID", default=0)
    ttl_s: int = msgspec.field(name="TTL", default=0)


class KeptAlive(msgspec.Struct, frozen=True):
    """The answer to a keep-alive of a lease."""

    result: Granted = Granted()


class Watched(msgspec.Struct, frozen=True):
    """One message of a watch. Events arrive in whole revisions; the header's revision does not prove that earlier events have arrived."""

    header: Header = Header()
    canceled: bool = False
    cancel_reason: str = ""
    compact_revision: int = 0
    events: tuple[Event, ...] = ()


class Token(msgspec.Struct, frozen=True):
    """The answer to an authentication."""

    token: str = ""


class Nothing(msgspec.Struct, frozen=True):
    """An answer whose content is not needed."""


class _StreamMessage(msgspec.Struct, frozen=True):
    result: Watched | None = None
    error: Any = None


class _Fault(msgspec.Struct, frozen=True):
    error: Any = None
    message: str = ""
    code: int = 0
    grpc_code: int = 0


# Requests.


def put(key: bytes, value: bytes, *, lease: int = 0) -> Operation:
    """Return the operation that sets a key. The key is deleted with its lease, if it has one."""
    fields: dict[str, object] = {"key": key, "value": value}
    if lease:
        fields["lease"] = lease
    return {"request_put": fields}


def put_if_absent(key: bytes, value: bytes) -> Operation:
    """Return the operation that sets a key that does not exist, and writes the value of an existing one once more."""
    absent = {"compare": [unchanged_since(key, 0)], "success": [put(key, value)]}
    return {"request_txn": {**absent, "failure": [{"request_put": {"key": key, "ignore_value": True}}]}}


def look_for(key: bytes) -> Operation:
    """Return the operation that reads a key without its value."""
    return {"request_range": {"key": key, "keys_only": True}}


def delete(start: bytes, end: bytes | None = None) -> Operation:
    """Return the operation that deletes one key, or all keys from ``start`` up to but excluding ``end``."""
    return {"request_delete_range": {"key": start} if end is None else {"key": start, "range_end": end}}


def unchanged_since(key: bytes, revision: int) -> Comparison:
    """Return the comparison "this key was last written at this revision". Revision 0 means that the key does not exist."""
    return {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision}


def value_below(key: bytes, value: bytes) -> Comparison:
    """Return the comparison "this key exists, and its value is less, byte by byte"."""
    return {"key": key, "target": "VALUE", "result": "LESS", "value": value}


def end_of(prefix: bytes) -> bytes:
    """Return the first key after all keys with this prefix. The prefix must not end with the byte 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


encode = msgspec.json.Encoder().encode

# Answers.

TOO_LATE = "gives no answer in time"
FOREIGN = "is not what answers at an endpoint of HA_SESSION_CLUSTER (no JSON of an etcd 3.4 or later)"
_COMPACTED = "has compacted the history that was asked for"
_NAMED = "refuses client certificates that carry a name (CN); use one without a name, and HA_SESSION_CLUSTER_USER"

_REJECTIONS = frozenset({3, 5, 11})
"""gRPC codes that concern the request: invalid argument, not found, out of range. All other codes concern the server."""
_STALE_TOKEN = ("invalid auth token", "user name is empty", "auth store is old")

_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


def decode(content: bytes, kind: type[T]) -> T:
    """Return an answer that must be of one kind.

    Raises:
        EtcdForeign: the content is something else.
    """
    try:
        return _decode(content, kind)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise EtcdForeign(FOREIGN) from exc


def _decode(content: bytes, kind: type[T]) -> T:
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind, strict=False)  # 64-bit integers arrive as text
    found: T = decoder.decode(content)
    return found


def decode_watched(line: bytes) -> Watched:
    """Return one message of a watch.

    Raises:
        EtcdCompacted: the watch began before the retained history.
        EtcdError, AuthenticationNeeded: the message ends the watch for another reason.
    """
    message = decode(line, _StreamMessage)
    if message.error is not None or message.result is None:
        raise error_of(200, line)
    watched = message.result
    if watched.compact_revision:
        raise EtcdCompacted(_COMPACTED)
    if watched.canceled:
        # The reason is text that contains the name of a gRPC code.
        raise _error_of_code(7 if "PermissionDenied" in watched.cancel_reason else 14, watched.cancel_reason)
    return watched


def error_of(status: int, content: bytes) -> EtcdError | AuthenticationNeeded:
    """Return the error that an answer stands for."""
    try:
        fault = _decode(content, _Fault)
        if isinstance(fault.error, dict):  # streams nest the error
            fault = msgspec.convert(fault.error, _Fault, strict=False)
    except (msgspec.MsgspecError, ValueError):
        return _error_of_text(status, content)
    text = fault.message or (fault.error if isinstance(fault.error, str) else "")
    return _error_of_code(fault.code or fault.grpc_code or 2, text)


def _error_of_text(status: int, content: bytes) -> EtcdError:
    if status == 400 and b"CommonName" in content:
        return EtcdRefused(_NAMED)
    if status in (502, 503, 504):
        return EtcdUnavailable(f"cannot be reached (a proxy answers {status})")
    return EtcdForeign(FOREIGN)


def _error_of_code(code: int, text: str) -> EtcdError | AuthenticationNeeded:
    """Return the error for a gRPC code and its text. Errors show the code and never the text."""
    if "space exceeded" in text:
        return EtcdFull("has no space left (NOSPACE): compact and defragment it, or raise its quota, then disarm the alarm")
    if code == 11 and "compacted" in text:
        return EtcdCompacted(_COMPACTED)
    if code == 16 or any(phrase in text for phrase in _STALE_TOKEN):
        return AuthenticationNeeded("does not accept the token that it gave")
    if "authentication failed" in text:
        return EtcdRefused("does not accept HA_SESSION_CLUSTER_USER with HA_SESSION_CLUSTER_PASSWORD")
    if "authentication is not enabled" in text:
        return EtcdRefused("knows no users: enable authentication there, or unset HA_SESSION_CLUSTER_USER")
    if code == 7:
        return AuthenticationNeeded("does not let the user read and write below the prefix of HA_SESSION_CLUSTER", denied=True)
    if code in _REJECTIONS or "larger than max" in text:
        return EtcdRejected(f"rejects the request (code {code})")
    return EtcdUnavailable(f"has no quorum, or too much to do (code {code})")
